"""Sealed objects waiting for the stores, under the names that they have in the repository.

Owns the files below `sealed/`. An object is durable here before its name exists (promise 3), and so before any store
hears of it. Never looks inside one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock

from replicator.core.lsn import Lsn
from replicator.spool.files import is_temporary, make_directory, open_private, sync_directory, translated, write_all
from replicator.spool.position import START, Position


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One object: its name in the repository, its size in bytes, and the WAL [start, end) of `segment` that it holds.

    `complete`: it is the whole segment. A document holds no WAL: its segment is empty.
    """

    name: str
    size: int
    segment: str = ""
    start: Position = START
    end: Position = START
    complete: bool = False

    @property
    def document(self) -> bool:
        """Whether it is no WAL."""
        return not self.segment


#: What an object's name says, given its size; None for a name that the spool does not keep.
Describe = Callable[[str, int], SealedFile | None]


class SealedObjects:
    """The sealed objects of one system id. Any thread may use it."""

    def __init__(self, directory: Path, describe: Describe) -> None:
        self._directory = directory
        self._describe = describe
        self._lock = Lock()
        self._numbers = count()
        self._files: dict[str, SealedFile] = {}
        self._sorted: tuple[SealedFile, ...] | None = None
        self._in_use: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self.size = 0
        self._scan()

    def files(self) -> tuple[SealedFile, ...]:
        """All, in the order to ship them: documents, then WAL as the stream goes, the longer of two first."""
        with self._lock:
            if self._sorted is None:
                self._sorted = tuple(sorted(self._files.values(), key=_order))
            return self._sorted

    def has(self, name: str) -> bool:
        """Whether the object is here."""
        return name in self._files

    def read(self, name: str) -> bytes:
        """A small object's bytes."""
        path = self._directory / name
        with translated(path):
            return path.read_bytes()

    def create(self, seal: Callable[[Callable[[bytes], object]], str]) -> SealedFile:
        """Let `seal` write an object and return its name; durable under that name on return. Raises SpoolFull."""
        with translated(self._directory):
            make_directory(self._directory)
            temporary = self._directory / f"{next(self._numbers)}.new"
            descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                name = seal(partial(write_all, descriptor))
                os.fsync(descriptor)
                size = os.fstat(descriptor).st_size
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
            path = self._directory / name
            make_directory(path.parent)
            temporary.replace(path)
            sync_directory(path.parent)
        return self._keep(name, size)

    def put_document(self, name: str, data: bytes) -> SealedFile:
        """Keep a signed document until every store has it."""

        def write(to: Callable[[bytes], object]) -> str:
            to(data)
            return name

        return self.create(write)

    @contextmanager
    def using(self, name: str) -> Iterator[Path | None]:
        """The object's file, kept while the context lasts; None when it is gone."""
        with self._lock:
            present = name in self._files
            self._in_use[name] += 1
        try:
            yield self._directory / name if present else None
        finally:
            with self._lock:
                self._in_use[name] -= 1
                unused = not self._in_use[name]
                if unused:
                    del self._in_use[name]
                gone = unused and name in self._doomed
                self._doomed -= {name} if gone else set()
            if gone:
                self._unlink(name)

    def remove(self, name: str) -> None:
        """Forget an object; its file goes when nobody uses it any more."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is None:
                return
            self._sorted = None
            self.size -= file.size
            if self._in_use[name] > 0:
                self._doomed.add(name)
                return
        self._unlink(name)

    def _unlink(self, name: str) -> None:
        path = self._directory / name
        with translated(path):
            path.unlink(missing_ok=True)

    def _keep(self, name: str, size: int) -> SealedFile:
        file = self._describe(name, size)
        if file is None:
            raise ValueError(f"{name} is no name of an object that the spool keeps")
        with self._lock:
            before = self._files.get(name)
            self.size += size - (before.size if before else 0)
            self._files[name] = file
            self._doomed.discard(name)
            self._sorted = None
        return file

    def _scan(self) -> None:
        with translated(self._directory):
            for path in self._directory.rglob("*"):
                if not path.is_file():
                    continue
                name = path.relative_to(self._directory).as_posix()
                if is_temporary(name):
                    path.unlink()
                elif self._describe(name, 0) is not None:
                    self._keep(name, path.stat().st_size)


def _order(file: SealedFile) -> tuple[int, Lsn, int, str]:
    return file.start.timeline, file.start.lsn, -file.end.lsn, file.name
