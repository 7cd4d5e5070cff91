"""Stores within stores: a sub-store of one prefix, and a store that can't be written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from replicator.errors import UsageError
from replicator.store import locks
from replicator.store.names import validate_prefix
from replicator.store.protocol import ObjectInfo, ObjectWriter, Properties, ReadableStore, Store


class ReadOnly:
    """The reading half of a store: writing through it isn't there to be called."""

    def __init__(self, inner: ReadableStore, prefix: str = "") -> None:
        if prefix and not prefix.endswith("/"):
            raise UsageError(f"{prefix!a} is not a folder of a store: it must end with a slash")
        self._readable = inner
        self._prefix = validate_prefix(prefix)

    @property
    def name(self) -> str:
        """The policy's name of the store."""
        return self._readable.name

    @property
    def properties(self) -> Properties:
        """What the store guarantees."""
        return self._readable.properties

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset + length), cut at the object's end. Raises ObjectAbsent."""
        return self._readable.get(self._prefix + name, offset, length)

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """The last `length` bytes, or all if there are fewer, and the object's size. Raises ObjectAbsent."""
        return self._readable.get_tail(self._prefix + name, length)

    def stat(self, name: str) -> ObjectInfo:
        """Facts of one object. Raises ObjectAbsent."""
        return self._readable.stat(self._prefix + name)._replace(name=name)

    def earlier(self, name: str) -> Iterator[ReadableStore]:
        """The store with each earlier content of `name` in its place, oldest first."""
        for found in locks.earlier(self._readable, self._prefix + name):
            yield ReadOnly(found, self._prefix)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` and sorts after `after`, ascending bytewise, lazily."""
        skipped = len(self._prefix)
        for info in self._readable.list(self._prefix + prefix, after=self._prefix + after if after else ""):
            yield info._replace(name=info.name[skipped:])


class Prefixed(ReadOnly):
    """The folder `prefix` ("frk/") of a store as a store of its own; names are relative to it."""

    def __init__(self, inner: Store, prefix: str) -> None:
        super().__init__(inner, prefix)
        self._inner = inner

    def put(self, name: str, body: bytes | Path) -> None:
        """Create an object: visible as a whole, durable on return. Raises AlreadyExists."""
        self._inner.put(self._prefix + name, body)

    def writer(self, name: str) -> ObjectWriter:
        """Create an object from a stream."""
        return self._inner.writer(self._prefix + name)

    @property
    def locks(self) -> bool:
        """Whether objects are locked."""
        return locks.locks(self._inner)

    def extend_lock(self, name: str) -> None:
        """Keep an object that is there for the whole lock time from now."""
        locks.extend_lock(self._inner, self._prefix + name)

    def delete(self, name: str) -> None:
        """Remove an object; well when it isn't there."""
        self._inner.delete(self._prefix + name)

    def free(self, name: str) -> datetime | None:
        """Remove an object for good; the end of the lock that keeps it in place, None when it is gone."""
        return locks.free(self._inner, self._prefix + name)
