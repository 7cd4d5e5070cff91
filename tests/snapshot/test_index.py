"""A take's local memory: what was added comes back, what doesn't fit its hash counts as not there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from replicator.errors import HostLacks
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry, LinkEntry, MapRef
from replicator.snapshot.index import IndexWriter, ParentIndex

KEY = b"k" * 32
PACK = PackId("20261122T000000Z", 7, 3)
CHUNK = MapChunk((BlockRun(1, PACK, 2, 4096),), b"h" * 16).to_bytes()
ENTRIES: list[tuple[Entry, list[bytes]]] = [
    (DirectoryEntry("base", 0o700), []),
    (FileEntry("base/1", 0o600, 8192, 5, 8192, (CHUNK,)), [CHUNK]),
    (FileEntry("base/nama\udcff", 0o600, 8192, 5, 16384, (MapRef(PACK, 1, 2, 3),)), [CHUNK]),
    (LinkEntry("pg_tblspc/1", 0o777, "/srv"), []),
]


def kept(directory: Path) -> Path:
    """An index with ENTRIES."""
    final = directory / "parent.sqlite"
    with IndexWriter(directory / "taking.sqlite", KEY) as writer:
        for entry, chunks in ENTRIES:
            writer.add(entry, chunks)
        assert list(writer.entries()) == [entry for entry, _ in ENTRIES]
        writer.keep(final, "1/snapshots/x")
    return final


def test_what_was_added_comes_back(tmp_path: Path) -> None:
    """Entries in their order, files by path (also one that is not UTF-8), chunks as the manifest names them."""
    final = kept(tmp_path)
    assert final.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["parent.sqlite"]
    index = ParentIndex.open(final)
    assert index is not None
    assert (index.manifest, index.key) == ("1/snapshots/x", KEY)
    file = index.file("base/nama\udcff")
    assert file is not None
    assert file.block_size == 16384
    assert file.chunk(0) == (MapRef(PACK, 1, 2, 3), CHUNK, MapChunk.parse(CHUNK))
    assert file.chunk(1) is None
    assert index.file("base") is None
    assert index.file("base/2") is None
    index.close()


def test_a_changed_row_is_not_there(tmp_path: Path) -> None:
    """A chunk or an entry that no longer fits its keyed hash is None, never another chunk."""
    final = kept(tmp_path)
    with sqlite3.connect(final) as database:
        database.execute("UPDATE chunks SET data = zeroblob(100) WHERE id < 1 << 25")
        database.execute("UPDATE entries SET line = replace(line, '16384', '8192') WHERE seq = 2")
    database.close()
    index = ParentIndex.open(final)
    assert index is not None
    file = index.file("base/1")
    assert file is not None
    assert file.chunk(0) is None
    assert index.file("base/nama\udcff") is None
    index.close()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + bytes(4000)])
def test_garbage_is_no_index(tmp_path: Path, content: bytes) -> None:
    """A file that is no index, and no file at all, are the same: None."""
    path = tmp_path / "parent.sqlite"
    path.write_bytes(content)
    assert ParentIndex.open(path) is None
    assert ParentIndex.open(tmp_path / "nothing") is None


def test_an_abandoned_index_leaves_nothing(tmp_path: Path) -> None:
    """Left without `keep`, the file is gone."""
    with IndexWriter(tmp_path / "taking.sqlite", KEY) as writer:
        writer.add(DirectoryEntry("base", 0o700))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """The host lacks something (9), named."""
    (tmp_path / "file").touch()
    with pytest.raises(HostLacks):
        IndexWriter(tmp_path / "file" / "taking.sqlite", KEY)
