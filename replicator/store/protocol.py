"""What a store is: the protocols that drivers and wrappers keep, and that everything above binds to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, Self


class ObjectInfo(NamedTuple):
    """One object as a listing tells it: size in bytes, `modified` by the store's clock, aware, in UTC."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Properties:
    """What the store itself guarantees. `create_only`: it refuses to overwrite, also between two writers at once.
    `ranged`: it delivers parts of an object.
    """

    create_only: bool
    ranged: bool


class ObjectWriter(Protocol):
    """A streamed create. As a context manager it aborts unless committed; nothing is visible before `commit`."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Raises UploadLost when the object must be written again from its beginning."""
        ...

    def commit(self) -> None:
        """Make the object visible and durable. Raises AlreadyExists."""
        ...

    def abort(self) -> None:
        """Forget what was written. Harmless after commit and when called again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ReadableStore(Protocol):
    """Reading. Every method raises StoreUnavailable, StoreDenied or StoreMisconfigured, and UsageError for a name that
    is none. ObjectAbsent is only said when the store answered.
    """

    @property
    def name(self) -> str:
        """The policy's name of the store."""
        ...

    @property
    def properties(self) -> Properties:
        """What the store guarantees; may become stronger when it has shown more."""
        ...

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset + length), cut at the object's end. Raises ObjectAbsent. Never fewer bytes than the
        store announced: a short body is an error.
        """
        ...

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """The last `length` bytes, or all if there are fewer, and the object's size. Raises ObjectAbsent."""
        ...

    def stat(self, name: str) -> ObjectInfo:
        """Facts of one object. Raises ObjectAbsent."""
        ...

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` and sorts after `after`, ascending bytewise, lazily."""
        ...


class Store(ReadableStore, Protocol):
    """Reading and writing."""

    def put(self, name: str, body: bytes | Path) -> None:
        """Create an object: visible as a whole, durable on return. Raises AlreadyExists whatever the content is."""
        ...

    def writer(self, name: str) -> ObjectWriter:
        """Create an object from a stream, in bounded memory."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; well when it isn't there. Raises StoreDenied when refused."""
        ...


class Upload(Protocol):
    """A create in parts, as a driver does it. Each call may be made again after a retryable error."""

    def part(self, number: int, offset: int, data: bytes) -> None:
        """Keep part `number` (from 0, ascending), which begins at byte `offset` of the object."""
        ...

    def complete(self) -> None:
        """Make the object visible and durable. Raises AlreadyExists; UploadLost when the parts are gone."""
        ...

    def abort(self) -> None:
        """Forget the parts."""
        ...


class Driver(Store, Protocol):
    """What a driver adds for its wrappers and for `init`."""

    @property
    def part_size(self) -> int:
        """Bytes of a part; all parts but the last have it."""
        ...

    def upload(self, name: str) -> Upload:
        """Begin a create in parts. Raises AlreadyExists where that is already known."""
        ...

    def prepare(self) -> None:
        """Make the store usable for the first time (a directory), or say clearly why it isn't (a bucket)."""
        ...
