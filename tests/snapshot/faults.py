"""A store that fails where a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

from replicator.errors import StoreUnavailable
from replicator.store.protocol import ObjectInfo, ObjectWriter, Properties, Store


class FaultyStore:
    """`inner`, but for the faults: the n-th write of the store's writers fails or hangs until `release`; commits fail;
    puts and lists fail for names that contain a text.
    """

    def __init__(
        self, inner: Store, *, fail_write_at: int | None = None, hang_write_at: int | None = None,
        release: Event | None = None, fail_commit: bool = False, fail_put: str | None = None,
        fail_list: str | None = None, error: Exception | None = None,
    ) -> None:  # fmt: skip
        self._inner = inner
        self.fail_write_at = fail_write_at
        self.hang_write_at = hang_write_at
        self.release = release if release is not None else Event()
        self.fail_commit = fail_commit
        self.fail_put = fail_put
        self.fail_list = fail_list
        self.error = error if error is not None else StoreUnavailable(f"store {inner.name} is down")
        self.writes = 0

    @property
    def name(self) -> str:
        """The inner store's."""
        return self._inner.name

    @property
    def properties(self) -> Properties:
        """The inner store's."""
        return self._inner.properties

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner store."""
        return self._inner.get(name, offset, length)

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As the inner store."""
        return self._inner.get_tail(name, length)

    def stat(self, name: str) -> ObjectInfo:
        """As the inner store."""
        return self._inner.stat(name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As the inner store, or fails."""
        if self.fail_list is not None and self.fail_list in prefix:
            raise self.error
        return self._inner.list(prefix, after=after)

    def put(self, name: str, body: bytes | Path) -> None:
        """As the inner store, or fails."""
        if self.fail_put is not None and self.fail_put in name:
            raise self.error
        self._inner.put(name, body)

    def writer(self, name: str) -> ObjectWriter:
        """A writer that may fail."""
        return FaultyWriter(self, self._inner.writer(name))

    def delete(self, name: str) -> None:
        """As the inner store."""
        self._inner.delete(name)


class FaultyWriter:
    """A writer of a FaultyStore."""

    def __init__(self, store: FaultyStore, inner: ObjectWriter) -> None:
        self._store = store
        self._inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write, fail or hang."""
        number, self._store.writes = self._store.writes, self._store.writes + 1
        if number == self._store.fail_write_at:
            raise self._store.error
        if number == self._store.hang_write_at:
            self._store.release.wait(120)
        self._inner.write(data)

    def commit(self) -> None:
        """Commit or fail."""
        if self._store.fail_commit:
            raise self._store.error
        self._inner.commit()

    def abort(self) -> None:
        """As the inner writer."""
        self._inner.abort()

    def __enter__(self) -> FaultyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()
