"""A directory as a store: temporary name, fsync, create-only link, fsync of the directory.

Owns the files below its root. Never follows a symbolic link it finds there, and never makes the root itself but in
`prepare`: a root that is missing is a disk that isn't mounted.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat as modes
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from replicator.errors import AlreadyExists, ObjectAbsent, StoreMisconfigured, StoreUnavailable, UploadLost
from replicator.store.direct import LARGE, room, write_past_cache
from replicator.store.files import (
    make_directories,
    move_new,
    open_body,
    read_all,
    store_error,
    sync_directory,
    translated,
    write_all,
)
from replicator.store.names import OddNames, validate_name
from replicator.store.protocol import ObjectInfo, ObjectWriter, Properties
from replicator.store.tree import walk
from replicator.store.writer import PartWriter

_TEMPORARY = ".tmp-"
_LEFT_OVER_S = 86_400
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_COPY = 4 << 20
_SWEPT = 256
_TRIES = 10


class DirectoryStore:
    """A store in the directory `root`, an absolute path. Files are 0600, directories 0700."""

    part_size = 1 << 20

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._root = root
        self._odd = OddNames(name)
        self._swept: OrderedDict[Path, None] = OrderedDict()

    @property
    def name(self) -> str:
        """The policy's name of the store."""
        return self._name

    @property
    def properties(self) -> Properties:
        """The file system refuses to overwrite and reads anywhere."""
        return Properties(create_only=True, ranged=True)

    def prepare(self) -> None:
        """Make the root and its parents."""
        try:
            with translated(self._name, f"make {self._root}"):
                if not self._root.is_dir():
                    self._root.mkdir(0o700, parents=True, exist_ok=True)
                    sync_directory(self._root.parent)
        except FileExistsError as error:
            raise StoreMisconfigured(f"store {self._name}: {self._root} is not a directory") from error

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset + length), cut at the object's end. Raises ObjectAbsent."""
        descriptor, size = self._open(name)
        try:
            wanted = max(0, size - offset) if length is None else max(0, min(length, size - offset))
            return self._read(descriptor, name, offset, wanted)
        finally:
            os.close(descriptor)

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """The last `length` bytes, or all if there are fewer, and the object's size. Raises ObjectAbsent."""
        descriptor, size = self._open(name)
        try:
            wanted = min(length, size)
            return self._read(descriptor, name, size - wanted, wanted), size
        finally:
            os.close(descriptor)

    def stat(self, name: str) -> ObjectInfo:
        """Facts of one object. Raises ObjectAbsent."""
        path = self._path(name)
        with self._answering(name, f"look at {name}"):
            found = path.lstat()
        if not modes.S_ISREG(found.st_mode):
            raise self._absent(name)
        return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` and sorts after `after`, ascending bytewise, lazily."""
        self._require_root()
        with translated(self._name, "list it"):
            yield from walk(self._root, prefix, after, self._odd)

    def put(self, name: str, body: bytes | Path) -> None:
        """Create an object: visible as a whole, durable on return. Raises AlreadyExists."""
        target = self._path(name)
        with translated(self._name, f"write {name}"):
            taken = os.path.lexists(target)
        if taken:
            raise self._exists(name, target)
        upload = self.upload(name)
        try:
            if isinstance(body, Path):
                self._copy(body, upload)
            else:
                upload.part(0, 0, body)
            upload.complete()
        except BaseException:
            upload.abort()
            raise

    def upload(self, name: str) -> DirectoryUpload:
        """Begin a create in parts."""
        target = self._path(name)
        with translated(self._name, f"write {name}"):
            temporary, descriptor = self._temporary(target.parent)
        return DirectoryUpload(self, name, target, temporary, descriptor)

    def writer(self, name: str) -> ObjectWriter:
        """Create an object from a stream."""
        return PartWriter(self, validate_name(name))

    def delete(self, name: str) -> None:
        """Remove an object and the directories that it leaves empty; well when it isn't there."""
        path = self._path(name)
        with translated(self._name, f"delete {name}"):
            try:
                path.unlink()
                sync_directory(path.parent)
            except FileNotFoundError:
                self._require_root()
                return
        directory = path.parent
        with suppress(OSError):  # not empty, most of the time; an empty directory harms nothing
            while directory != self._root:
                directory.rmdir()
                directory = directory.parent

    def settle(self, name: str, target: Path, temporary: Path) -> None:
        """Give a durable temporary file its name, durably. Raises AlreadyExists."""
        with translated(self._name, f"write {name}"):
            try:
                move_new(temporary, target)
            except FileExistsError:
                raise self._exists(name, target) from None
            except FileNotFoundError:
                raise UploadLost(f"store {self._name}: the temporary file of {name} is gone") from None
            try:
                sync_directory(target.parent)
            except OSError:
                # The name's durability is unknown for ever: take it away, so that no retry believes in it.
                with suppress(OSError):
                    target.unlink()
                raise

    def error(self, name: str, error: OSError) -> StoreUnavailable:
        """The store's error for an OSError while writing `name`."""
        return store_error(self._name, f"write {name}", error)

    def _path(self, name: str) -> Path:
        return self._root / validate_name(name)

    @contextmanager
    def _answering(self, name: str, doing: str) -> Iterator[None]:
        """Errors by errno; what is no object (nothing, below a file, a symbolic link) is absent."""
        with translated(self._name, doing):
            try:
                yield
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                raise self._absent(name) from None

    def _open(self, name: str) -> tuple[int, int]:
        path = self._path(name)
        with self._answering(name, f"read {name}"):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if not modes.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise self._absent(name)
        return descriptor, found.st_size

    def _read(self, descriptor: int, name: str, offset: int, length: int) -> bytes:
        with translated(self._name, f"read {name}"):
            data = read_all(descriptor, offset, length)
        if len(data) != length:
            raise StoreUnavailable(f"store {self._name}: {name} ended after {len(data)} of {length} bytes")
        return data

    def _copy(self, body: Path, upload: DirectoryUpload) -> None:
        with open_body(body) as source:
            offset = 0
            while data := source.read(_COPY):
                upload.part(0, offset, data)
                offset += len(data)

    def _temporary(self, directory: Path) -> tuple[Path, int]:
        """A new temporary file in `directory`, which is made when missing; a delete may take it away meanwhile."""
        for _ in range(_TRIES):
            self._require_root()
            path = directory / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                make_directories(directory, self._root)
                self._sweep(directory)
                return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        raise StoreUnavailable(f"store {self._name}: {directory} vanishes as often as it is made")

    def _sweep(self, directory: Path) -> None:
        """Before the first write into a directory: remove what a crash left there more than a day ago."""
        if directory in self._swept:
            return
        self._swept[directory] = None
        if len(self._swept) > _SWEPT:
            self._swept.popitem(last=False)
        oldest = time.time() - _LEFT_OVER_S
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                    with suppress(FileNotFoundError):
                        Path(entry.path).unlink()

    def _require_root(self) -> None:
        with translated(self._name, f"look at {self._root}"):
            there = self._root.is_dir()
        if not there:
            raise StoreMisconfigured(
                f"store {self._name}: the directory {self._root} does not exist",
                hint="Mount it if it is a disk of its own; `replicator init` makes it if it is new.",
                store=self._name,
            )

    def _absent(self, name: str) -> ObjectAbsent:
        self._require_root()
        return ObjectAbsent(f"store {self._name} holds no {name}", store=self._name, object=name)

    def _exists(self, name: str, target: Path) -> AlreadyExists:
        """The error, once the other's name is durable too: its maker may have died before its own fsync."""
        with suppress(FileNotFoundError), translated(self._name, f"write {name}"):
            sync_directory(target.parent)
        return AlreadyExists(f"store {self._name} already holds {name}", store=self._name, object=name)


class DirectoryUpload:
    """A create in parts: one temporary file beside its target."""

    def __init__(self, store: DirectoryStore, name: str, target: Path, temporary: Path, descriptor: int) -> None:
        self._store = store
        self._name = name
        self._target = target
        self._temporary = temporary
        self._descriptor: int | None = descriptor
        self._room: memoryview | None = None
        self._durable = False

    def part(self, number: int, offset: int, data: bytes) -> None:  # noqa: ARG002 - its place says it all
        """Write `data` at `offset`."""
        if self._descriptor is None:
            raise UploadLost(f"the upload of {self._name} has ended")
        try:
            written = self._past_cache(self._descriptor, data, offset)
            write_all(self._descriptor, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise self._store.error(self._name, error) from error

    def _past_cache(self, descriptor: int, data: bytes, offset: int) -> int:
        """How many bytes of the beginning were written past the page cache."""
        if not LARGE <= len(data) <= self._store.part_size:
            return 0
        if self._room is None:
            self._room = room(self._store.part_size)
        self._room[: len(data)] = data
        return write_past_cache(descriptor, self._room[: len(data)], offset)

    def complete(self) -> None:
        """fsync, link, fsync of the directory. A failed fsync leaves bytes of unknown state: it is never repeated."""
        if not self._durable:
            if self._descriptor is None:
                raise UploadLost(f"the upload of {self._name} has ended")
            descriptor, self._descriptor = self._descriptor, None
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise UploadLost(self._store.error(self._name, error).message) from error
            finally:
                os.close(descriptor)
            self._durable = True
        self._store.settle(self._name, self._target, self._temporary)

    def abort(self) -> None:
        """Remove the temporary file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        with suppress(OSError):  # swept a day later
            self._temporary.unlink()
