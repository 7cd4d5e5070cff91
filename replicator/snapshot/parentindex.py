"""The memory of an earlier take, read: of the parent, or of a take that died (`index.py` writes it).

Never raises for what it holds: what can't be read, or doesn't fit its keyed hash, is not there.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from replicator.errors import IntegrityError
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import FileEntry, MapRef, parse_entry
from replicator.seal.digest import block_hash
from replicator.snapshot.live import parse_live, parse_pack_row
from replicator.snapshot.overlay import lay_over

FORMAT = b"2"
#: A chunk's row id is its entry's number, shifted, and its place in the file.
SHIFT = 24


#: How the line of a file begins: an entry's members are sorted.
_FILE = b'{"b":'


def entry_mark(key: bytes, path: bytes, line: bytes, live: bytes, stamp: bytes) -> bytes:
    """The keyed hash of an entry's row."""
    return block_hash(key, b"".join((path, line, live, stamp)))


def path_key(path: str) -> bytes:
    """A path as it stands in the file."""
    return path.encode("utf-8", "surrogateescape")


Known = tuple[bytes | MapRef, bytes, MapChunk]


class Row(NamedTuple):
    """An entry as it stands in the file. `mark` binds path, line, needs and stamp; `mapped` chunks lie beside it."""

    seq: int
    line: bytes
    live: bytes
    stamp: bytes
    mapped: int
    mark: bytes


#: Chunks kept parsed, of each file.
_PARSED = 2
#: What an index remembers of a snapshot of which every page of a relation was looked at, and no checksum was wrong.
CHECKED = "checked"


class ParentFile:
    """A file of the parent: its entry, how it looked (`stamp`, empty when unknown), the bytes that it needs of each
    pack, and its chunks. `whole`: no place of it is passed over, so that it may be taken over as it is.
    """

    def __init__(self, index: ParentIndex, path: str, row: Row | None) -> None:
        self.path = path
        self.row = row
        self.stamp = row.stamp if row is not None else b""
        self._index = index
        self._parsed: dict[int, Known | None] = {}

    @cached_property
    def entry(self) -> FileEntry:
        """What the parent's manifest says of it; that of an empty file when the parent has none."""
        found = parse_entry(self.row.line) if self.row is not None else None
        return found if isinstance(found, FileEntry) else FileEntry(self.path, 0, 0, 0, self.block_size, ())

    @property
    def block_size(self) -> int:
        """The size of its blocks in bytes."""
        return self.entry.block_size

    @cached_property
    def live(self) -> Mapping[PackId, int]:
        """The bytes that it needs of each pack."""
        return parse_live(self.row.live) if self.row is not None else {}

    @property
    def whole(self) -> bool:
        """Whether it may be taken over as it is."""
        passed = self._index.passed_over
        return self.row is not None and (not passed or passed.isdisjoint(self.live))

    def chunk(self, number: int) -> Known | None:
        """How the manifest names chunk `number`, its bytes, and what they say; None when there is none that fits.

        Where places of it are passed over, no name and no bytes: it can't be named again as it is.
        """
        if number not in self._parsed:
            if len(self._parsed) >= _PARSED:  # the one that is read and the one that is placed, a little behind it
                del self._parsed[min(self._parsed)]
            self._parsed[number] = self._chunk(number)
        return self._parsed[number]

    def sound(self, number: int) -> bytes:
        """The hashes of the blocks of chunk `number` where the checksums of all its pages are known to have been looked
        at; else none.
        """
        known = self.chunk(number) if self._index.checked else None
        return known[2].hashes if known is not None else b""

    def _chunk(self, number: int) -> Known | None:
        if self.row is None or number >= len(self.entry.chunks):
            return None
        named = self.entry.chunks[number]
        data = named if isinstance(named, bytes) else self._index.chunk_bytes(self.row.seq, number)
        if data is None:
            return None
        try:
            found = MapChunk.parse(data)
        except IntegrityError:  # a cache that doesn't fit is no cache
            return None
        return (named, data, found) if self.whole else pass_over(named, data, found, self._usable, self.block_size)

    def _usable(self, pack: PackId) -> bool:
        return pack not in self._index.passed_over


def pass_over(
    named: bytes | MapRef, data: bytes, chunk: MapChunk, usable: Callable[[PackId], bool], block_size: int
) -> Known:  # fmt: skip
    """The chunk, as it is where all of it is usable, else without name and bytes and with its usable places alone."""
    if all(usable(pack) for pack in chunk.packs) and (isinstance(named, bytes) or usable(named.pack)):
        return named, data, chunk
    return b"", b"", lay_over(chunk, None, usable, block_size)


class ParentIndex:
    """The memory of one snapshot, or with an empty `manifest` of a take that died. Open it with `open`. One thread uses
    it.
    """

    def __init__(self, database: sqlite3.Connection, uri: str, manifest: str, key: bytes) -> None:
        self.database = database
        #: For another SQLite connection that reads the same.
        self.uri = uri
        self.manifest = manifest
        self.key = key
        #: Packs that nothing new may refer to.
        self.passed_over: frozenset[PackId] = frozenset()

    @classmethod
    def open(cls, path: Path, *, died: bool = False) -> ParentIndex | None:
        """The index in that file; None when there is none that can be read. `died`: that of a take that ended early."""
        if not path.is_file():
            return None
        # What a process left that was killed needs its journal read; the others are never written again.
        uri = f"{path.absolute().as_uri()}?mode=ro{'' if died else '&immutable=1'}"
        try:
            database = sqlite3.connect(uri, uri=True)
            meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
            manifest = b"" if died else meta["manifest"]
            if meta.get("format") == FORMAT and len(meta["key"]) == 32:
                return cls(database, uri, manifest.decode("ascii"), meta["key"])
            database.close()
        except (sqlite3.Error, KeyError, AttributeError, TypeError, UnicodeDecodeError):
            return None
        return None

    def order(self) -> None:
        """Make looking for a path fast in what a take that died left; only once nobody writes it any more."""
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(self.uri.replace("?mode=ro", "?mode=rw"), uri=True)) as db,
        ):
            db.execute("CREATE INDEX IF NOT EXISTS by_path ON entries (path)")
            db.commit()

    @cached_property
    def checked(self) -> bool:
        """Whether every page of a relation had the checksum that it must have."""
        return self.recall(CHECKED) is not None

    def recall(self, name: str) -> bytes | None:
        """What was remembered under that name."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        value = rows[0][0] if rows else None
        return value if isinstance(value, bytes) else None

    def file(self, path: str) -> ParentFile | None:
        """The parent's file at that path."""
        key = path_key(path)
        rows = self._rows("SELECT seq, line, live, stamp, mapped, mark FROM entries WHERE path = ?", (key,))
        if not rows:
            return None
        row = Row(*rows[0])
        try:
            fits = entry_mark(self.key, key, row.line, row.live, row.stamp) == row.mark
        except TypeError:
            return None
        return ParentFile(self, path, row) if fits and row.line.startswith(_FILE) else None

    def chunk_bytes(self, seq: int, number: int) -> bytes | None:
        """The bytes of one map chunk."""
        rows = self._rows("SELECT data, mark FROM chunks WHERE id = ?", (seq << SHIFT | number,))
        return self._fitting(rows[0][0], b"", rows[0][1]) if rows else None

    def opened(self, path: str, number: int) -> tuple[int, bytes] | None:
        """Block size and bytes of a chunk of a file that was still being read."""
        rows = self._rows(
            "SELECT block_size, data, mark FROM opened WHERE path = ? AND number = ?", (path_key(path), number)
        )
        data = self._fitting(rows[0][1], path_key(path), rows[0][2]) if rows else None
        return (int(rows[0][0]), data) if data is not None else None

    def opened_size(self, path: str) -> int:
        """The block size of a file that was still being read, 0 for one that was not."""
        rows = self._rows("SELECT block_size FROM opened WHERE path = ? LIMIT 1", (path_key(path),))
        return int(rows[0][0]) if rows else 0

    def live(self) -> Counter[PackId]:
        """The plain bytes that the snapshot needs of each pack."""
        found: Counter[PackId] = Counter()
        for (row,) in self._rows("SELECT live FROM entries WHERE live <> x''"):
            try:
                found.update(parse_live(row))
            except (TypeError, struct.error, UnicodeDecodeError):
                continue
        return found

    def packs(self) -> dict[PackId, tuple[int, int]]:
        """Plain and sealed bytes of the packs whose sizes are known."""
        found: dict[PackId, tuple[int, int]] = {}
        for row, plain, sealed in self._rows("SELECT pack, plain, sealed FROM packs"):
            try:
                found[parse_pack_row(row)] = (int(plain), int(sealed))
            except (TypeError, ValueError, struct.error):
                continue
        return found

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self.database.execute(query, values).fetchall()
        except sqlite3.Error:
            return []

    def _fitting(self, data: Any, prefix: bytes, mark: Any) -> bytes | None:
        return data if isinstance(data, bytes) and block_hash(self.key, prefix + data) == mark else None

    def close(self) -> None:
        """Close the file."""
        self.database.close()
