"""One snapshot's entries and map chunks in a local SQLite file: the manifest-to-be of a take, and afterwards its
memory for the next one. A take that died leaves it behind for the one that goes on.

A cache: deleting it costs a full snapshot, or reading the parent from a store. Everything read from it is checked
against a keyed hash, and what doesn't fit counts as not there. Mode 0600; it holds names and hashes, no content.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from replicator.errors import HostLacks
from replicator.repository.layout import PackId
from replicator.repository.manifests import Entry, FileEntry, MapRef, entry_line, parse_entry
from replicator.seal.digest import block_hash
from replicator.snapshot.live import live_bytes, pack_live, pack_row
from replicator.snapshot.parentindex import FORMAT, SHIFT, ParentFile, ParentIndex, Row, entry_mark, path_key

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries
    (seq INTEGER PRIMARY KEY, path BLOB NOT NULL, line BLOB NOT NULL, live BLOB NOT NULL, stamp BLOB NOT NULL,
     mapped INTEGER NOT NULL, mark BLOB NOT NULL);
CREATE TABLE chunks (id INTEGER PRIMARY KEY, data BLOB NOT NULL, mark BLOB NOT NULL);
CREATE TABLE opened
    (path BLOB NOT NULL, number INTEGER NOT NULL, block_size INTEGER NOT NULL, data BLOB NOT NULL, mark BLOB NOT NULL,
     PRIMARY KEY (path, number));
CREATE TABLE packs (pack BLOB PRIMARY KEY, plain INTEGER NOT NULL, sealed INTEGER NOT NULL) WITHOUT ROWID;
"""
_MOVE = "INSERT INTO chunks SELECT id - ? + ?, data, mark FROM parent.chunks WHERE id >= ? AND id < ?"
#: Rows that wait to be written, of entries and of chunks (up to 64 KiB each).
_ROWS = 512
_CHUNKS = 64


class Reading(Protocol):
    """A file that is being read."""

    @property
    def block_size(self) -> int:
        """Its block size."""
        ...

    def known(self) -> list[tuple[int, bytes]]:
        """Its chunks by number: those not told yet, and what is known of the one being made."""
        ...


class IndexWriter:
    """Made anew at `path`, entry by entry; `keep` gives it its final name. `key` is the comparison key, the parent's
    where there is one: from it whole files are taken over. One thread uses it.

    Raises HostLacks when the file can't be written.
    """

    def __init__(self, path: Path, key: bytes, parent: ParentIndex | None = None) -> None:
        self._path = path
        self._key = key
        self._seq = 0
        self._left = False
        self._worth = False
        self._reading: dict[str, Reading] = {}
        self._entries: list[tuple[object, ...]] = []
        self._chunks: list[tuple[int, bytes, bytes]] = []
        self._moved: list[tuple[int, int, int, int]] = []
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            delete_index(path)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path.absolute().as_uri(), isolation_level=None, uri=True)
            # Committed at each pack, so that a take that dies leaves what it knew: that takes a journal.
            self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
            if parent is not None:
                self._db.execute("ATTACH ? AS parent", (parent.uri,))
            self._db.execute("BEGIN")
            self.remember("format", FORMAT)
            self.remember("key", key)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(path, error) from error

    def remember(self, name: str, value: bytes) -> None:
        """A fact about the whole, that `ParentIndex.recall` gives back."""
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add(
        self, entry: Entry, chunks: Sequence[bytes] = (), *, live: Mapping[PackId, int] | None = None,
        stamp: bytes = b"",
    ) -> None:  # fmt: skip
        """The next entry, and for a file the bytes of its map chunks and the bytes that it needs of each pack (found in
        the chunks when not given). `stamp`: how the file looked where it was read, for `ParentFile.stamp`.
        """
        line, key = entry_line(entry), path_key(entry.path)
        mapped = 0
        if isinstance(entry, FileEntry):
            live = live_bytes(entry, chunks) if live is None else live
            for number, (named, data) in enumerate(zip(entry.chunks, chunks, strict=True)):
                if isinstance(named, MapRef):  # the others stand in the entry itself
                    mapped += 1
                    self._chunk(self._seq << SHIFT | number, data)
        needs = pack_live(live or {})
        self._entry(
            entry.path, Row(self._seq, line, needs, stamp, mapped, entry_mark(self._key, key, line, needs, stamp))
        )

    def take_over(self, file: ParentFile) -> bool:
        """The next entry is the parent's, as it was there: nothing of the file was read. False, and nothing added, for
        a file that is not the parent's. Chunks that its memory lost are read from a store, or stored, another time.
        """
        if file.row is None:
            return False
        if file.row.mapped:
            first, old = self._seq << SHIFT, file.row.seq << SHIFT
            self._moved.append((old, first, old, old + (1 << SHIFT)))
        self._entry(file.path, file.row._replace(seq=self._seq))
        return True

    def _entry(self, path: str, row: Row) -> None:
        self._entries.append((row.seq, path_key(path), row.line, row.live, row.stamp, row.mapped, row.mark))
        self._seq += 1
        self._reading.pop(path, None)
        if len(self._entries) >= _ROWS:
            self._flush()

    def _chunk(self, number: int, data: bytes) -> None:
        self._chunks.append((number, data, block_hash(self._key, data)))
        if len(self._chunks) >= _CHUNKS:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that wait: many at once cost little."""
        try:
            self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", self._entries)
            self._db.executemany("INSERT INTO chunks VALUES (?, ?, ?)", self._chunks)
            if self._moved:
                self._db.executemany(_MOVE, self._moved)
        except sqlite3.Error as error:
            raise _unwritable(self._path, error) from error
        self._entries, self._chunks, self._moved = [], [], []

    def add_packs(self, sizes: Mapping[PackId, tuple[int, int]]) -> None:
        """The plain and the sealed bytes of packs that this take put, or refers to."""
        for pack, (plain, sealed) in sizes.items():
            self._run("INSERT OR REPLACE INTO packs VALUES (?, ?, ?)", (pack_row(pack), plain, sealed))

    def reading(self, path: str, file: Reading) -> None:
        """A file is being read: until it is added, a `checkpoint` asks what is known of it."""
        self._reading[path] = file

    def checkpoint(self) -> None:
        """Make all that was added until now outlive this process, with what is known of the files still being read."""
        self._flush()
        for path, file in self._reading.items():
            key = path_key(path)
            for number, data in file.known():
                values = (key, number, file.block_size, data, block_hash(self._key, key + data))
                self._run("INSERT OR REPLACE INTO opened VALUES (?, ?, ?, ?, ?)", values)
        self._run("COMMIT")
        self._run("BEGIN")
        self._worth = True

    def lines(self) -> Iterator[bytes]:
        """The line of every entry, in the order in which they were added."""
        self._flush()
        query = "SELECT seq, path, line, live, stamp, mark FROM entries ORDER BY seq"
        for seq, path, line, live, stamp, mark in self._db.execute(query):
            if entry_mark(self._key, path, line, live, stamp) != mark:
                raise HostLacks(f"{self._path} changed while it was used (entry {seq})")
            yield line

    def entries(self) -> Iterator[Entry]:
        """Every entry, in the same order."""
        return map(parse_entry, self.lines())

    def keep(self, final: Path, manifest: str) -> None:
        """Close it as the memory of the snapshot whose manifest has that name, durably and at once."""
        self._flush()
        self.remember("manifest", manifest.encode("ascii"))
        try:
            self._db.execute("DELETE FROM opened")
            self._db.execute("CREATE INDEX by_path ON entries (path)")
            self._db.execute("COMMIT")
            self._close()
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._path.replace(final)
            self._left = True
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self._path, error) from error

    def settle(self) -> None:
        """The snapshot exists: nobody has to go on from here, however this ends."""
        self._worth = False

    def leave(self) -> None:
        """Close it for a take that goes on; it stays where it is."""
        with suppress(HostLacks, sqlite3.Error):  # what can't be written was there at the last checkpoint
            self.checkpoint()
            self._db.execute("ROLLBACK")
            self._close()
        self._left = True

    def _close(self) -> None:
        """Close it as one file: without its journal."""
        if any(name == "parent" for _, name, _ in self._db.execute("PRAGMA database_list")):
            self._db.execute("DETACH parent")
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def discard(self) -> None:
        """Close and delete it; harmless after `keep` and `leave`."""
        with suppress(sqlite3.Error):  # closing a file that is deleted next
            self._db.close()
        if not self._left:
            delete_index(self._path)

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> int:
        try:
            return self._db.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise _unwritable(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._worth:
            self.leave()
        self.discard()


def delete_index(path: Path) -> None:
    """Delete an index that was not kept, with its journal. Raises OSError."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> HostLacks:
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or "unknown reason"
    return HostLacks(
        f"{path} can not be written: {reason.lower()}", hint="See that the state directory has room and is ours."
    )


__all__ = ["IndexWriter", "ParentFile", "ParentIndex", "delete_index"]
