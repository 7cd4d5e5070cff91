"""One snapshot's entries and map chunks in a local SQLite file: the manifest-to-be of a take, and afterwards its
memory for the next one.

A cache: deleting it costs a full snapshot, or reading the parent from a store. Everything read from it is checked
against a keyed hash, and what doesn't fit counts as not there. Mode 0600; it holds names and hashes, no content.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from replicator.errors import HostLacks, IntegrityError
from replicator.repository.blockmap import MapChunk
from replicator.repository.manifests import Entry, FileEntry, MapRef, entry_line, parse_entry
from replicator.seal.digest import block_hash

_FORMAT = b"1"
#: A chunk's row id is its entry's number, shifted, and its place in the file.
_SHIFT = 24
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (seq INTEGER PRIMARY KEY, path BLOB NOT NULL, line BLOB NOT NULL, mark BLOB NOT NULL);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL, mark BLOB NOT NULL);
"""


def _path_key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


class IndexWriter:
    """Made anew at `path`, entry by entry; `keep` gives it its final name. `key` is the comparison key.

    Raises HostLacks when the file can't be written.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = key
        self._seq = 0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
            # A file that is made anew after a crash needs no journal.
            self._db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA} BEGIN;")
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(path, error) from error

    def add(self, entry: Entry, chunks: Sequence[bytes] = ()) -> None:
        """The next entry, and for a file the bytes of its map chunks."""
        line = entry_line(entry)
        rows = ((self._seq << _SHIFT | number, data, block_hash(self._key, data)) for number, data in enumerate(chunks))
        try:
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?)",
                (self._seq, _path_key(entry.path), line, block_hash(self._key, line)),
            )
            self._db.executemany("INSERT INTO chunks VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise _unwritable(self._path, error) from error
        self._seq += 1

    def entries(self) -> Iterator[Entry]:
        """Every entry, in the order in which they were added."""
        for seq, line, mark in self._db.execute("SELECT seq, line, mark FROM entries ORDER BY seq"):
            if block_hash(self._key, line) != mark:
                raise HostLacks(f"{self._path} changed while it was used (entry {seq})")
            yield parse_entry(line)

    def keep(self, final: Path, manifest: str) -> None:
        """Close it as the memory of the snapshot whose manifest has that name, durably and at once."""
        try:
            meta = [("format", _FORMAT), ("key", self._key), ("manifest", manifest.encode("ascii"))]
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
            self._db.execute("CREATE INDEX by_path ON entries (path)")
            self._db.execute("COMMIT")
            self._db.close()
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._path.replace(final)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self._path, error) from error

    def discard(self) -> None:
        """Close and delete it; harmless after `keep`."""
        with suppress(sqlite3.Error):  # closing a file that is deleted next
            self._db.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _unwritable(path: Path, error: Exception) -> HostLacks:
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or "unknown reason"
    return HostLacks(
        f"{path} can not be written: {reason.lower()}", hint="See that the state directory has room and is ours."
    )


class ParentFile:
    """A file of the parent: its block size, its chunks as the manifest names them, and each chunk's content."""

    def __init__(self, index: ParentIndex, seq: int, entry: FileEntry) -> None:
        self.block_size = entry.block_size
        self._index = index
        self._seq = seq
        self._entry = entry

    def chunk(self, number: int) -> tuple[bytes | MapRef, bytes, MapChunk] | None:
        """How the manifest names chunk `number`, its bytes, and what they say; None when there is none that fits."""
        if number >= len(self._entry.chunks):
            return None
        data = self._index.chunk_bytes(self._seq, number)
        named = self._entry.chunks[number]
        if data is None or (isinstance(named, bytes) and named != data):
            return None
        try:
            return named, data, MapChunk.parse(data)
        except IntegrityError:  # a cache that doesn't fit is no cache
            return None


class ParentIndex:
    """The memory of one snapshot. Open it with `open`. Never raises for what it holds: what can't be read is None."""

    def __init__(self, database: sqlite3.Connection, manifest: str, key: bytes) -> None:
        self._db = database
        self.manifest = manifest
        self.key = key

    @classmethod
    def open(cls, path: Path) -> ParentIndex | None:
        """The index in that file; None when there is none that can be read."""
        if not path.is_file():
            return None
        try:
            database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
            meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
            if meta.get("format") == _FORMAT and len(meta["key"]) == 32:
                return cls(database, meta["manifest"].decode("ascii"), meta["key"])
            database.close()
        except (sqlite3.Error, KeyError, AttributeError, TypeError, UnicodeDecodeError):
            return None
        return None

    def file(self, path: str) -> ParentFile | None:
        """The parent's file at that path."""
        try:
            row = self._db.execute("SELECT seq, line, mark FROM entries WHERE path = ?", (_path_key(path),)).fetchone()
        except sqlite3.Error:
            return None
        if row is None or not self._fits(row[1], row[2]):
            return None
        entry = parse_entry(row[1])
        return ParentFile(self, row[0], entry) if isinstance(entry, FileEntry) else None

    def chunk_bytes(self, seq: int, number: int) -> bytes | None:
        """The bytes of one map chunk."""
        try:
            query = "SELECT data, mark FROM chunks WHERE id = ?"
            row = self._db.execute(query, (seq << _SHIFT | number,)).fetchone()
        except sqlite3.Error:
            return None
        data: bytes | None = row[0] if row is not None and self._fits(row[0], row[1]) else None
        return data

    def _fits(self, data: object, mark: object) -> bool:
        return isinstance(data, bytes) and block_hash(self.key, data) == mark

    def close(self) -> None:
        """Close the file."""
        self._db.close()
