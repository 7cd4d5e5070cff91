"""A take's local memory: what was added comes back, what doesn't fit its hash counts as not there."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from replicator.errors import HostLacks
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry, LinkEntry, MapRef
from replicator.seal.digest import COMPARISON_SIZE
from replicator.snapshot.index import IndexWriter, ParentIndex

KEY = b"k" * 32
PACK = PackId("20261122T000000Z", 7, 3)
CHUNK = MapChunk((BlockRun(1, PACK, 2, 4096),), b"h" * COMPARISON_SIZE).to_bytes()
ENTRIES: list[tuple[Entry, list[bytes]]] = [
    (DirectoryEntry("base", 0o700), []),
    (FileEntry("base/1", 0o600, 8192, 5, 8192, (CHUNK,)), [CHUNK]),
    (FileEntry("base/nama\udcff", 0o600, 8192, 5, 16384, (MapRef(PACK, 1, 2, 3),)), [CHUNK]),
    (LinkEntry("pg_tblspc/1", 0o777, "/srv"), []),
]


def kept(directory: Path, stamp: bytes = b"") -> Path:
    """An index with ENTRIES."""
    final = directory / "parent.sqlite"
    with IndexWriter(directory / "taking.sqlite", KEY) as writer:
        for entry, chunks in ENTRIES:
            writer.add(entry, chunks, stamp=stamp)
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
    """A chunk or an entry that no longer fits its keyed hash is None, never another chunk or another file's entry."""
    final = kept(tmp_path)
    with sqlite3.connect(final) as database:
        database.execute("UPDATE chunks SET data = zeroblob(100)")
        database.execute("UPDATE entries SET line = replace(line, '8192', '16384') WHERE seq = 1")
        database.execute(
            "INSERT INTO entries SELECT 9, ?, line, live, stamp, mapped, mark FROM entries WHERE seq = 2", [b"x"]
        )
    database.close()
    index = ParentIndex.open(final)
    assert index is not None
    file = index.file("base/nama\udcff")
    assert file is not None
    assert file.chunk(0) is None
    assert index.file("base/1") is None
    assert index.file("x") is None
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


def test_a_file_is_taken_over(tmp_path: Path) -> None:
    """Entry, chunks, stamp and the bytes needed of each pack, as the parent has them, under another number."""
    parent = ParentIndex.open(kept(tmp_path, stamp=b"as it was"))
    assert parent is not None
    with IndexWriter(tmp_path / "taking.sqlite", KEY, parent) as writer:
        for path in ("base/nama\udcff", "base/1"):
            file = parent.file(path)
            assert file is not None
            assert (file.stamp, file.whole) == (b"as it was", True)
            assert writer.take_over(file)
        assert list(writer.entries()) == [ENTRIES[2][0], ENTRIES[1][0]]
        parent.close()
        writer.keep(tmp_path / "next.sqlite", "1/snapshots/y")
    index = ParentIndex.open(tmp_path / "next.sqlite")
    assert index is not None
    again = index.file("base/nama\udcff")
    assert again is not None
    assert again.chunk(0) == (MapRef(PACK, 1, 2, 3), CHUNK, MapChunk.parse(CHUNK))
    assert again.stamp == b"as it was"
    assert again.live == {PACK: 16384 + 3}
    assert index.live() == {PACK: 16384 + 3 + 8192}
    index.close()


def test_what_the_parent_forgot_of_a_file_is_lost(tmp_path: Path) -> None:
    """A file whose map is not in the parent's memory any more is taken over without it, and may be again."""
    final = kept(tmp_path)
    with sqlite3.connect(final) as database:
        database.execute("DELETE FROM chunks")
    database.close()
    for number in range(2):
        parent = ParentIndex.open(final)
        assert parent is not None
        file = parent.file("base/nama\udcff")
        assert file is not None
        with IndexWriter(tmp_path / "taking.sqlite", KEY, parent) as writer:
            assert writer.take_over(file)
            assert list(writer.entries()) == [ENTRIES[2][0]]
            final = tmp_path / f"next-{number}.sqlite"
            writer.keep(final, "1/snapshots/y")
        assert file.chunk(0) is None
        parent.close()


def test_what_is_passed_over_is_not_referred_to(tmp_path: Path) -> None:
    """A file with blocks or a map in a pack that is passed over is not whole, and nothing there equals a block."""
    index = ParentIndex.open(kept(tmp_path))
    assert index is not None
    index.passed_over = frozenset({PACK})
    for path in ("base/1", "base/nama\udcff"):
        file = index.file(path)
        assert file is not None
        assert not file.whole
        assert file.chunk(0) == (b"", b"", MapChunk((BlockRun(1, None),), bytes(COMPARISON_SIZE)))
    index.close()


class Half:
    """A file that is still being read."""

    block_size = 8192

    def known(self) -> list[tuple[int, bytes]]:
        """One chunk, perhaps not all of it."""
        return [(2, CHUNK)]


def test_what_a_take_that_died_knew(tmp_path: Path) -> None:
    """What a checkpoint saw is read by the next take, though the process ended without a word: entries, files that
    were still being read, packs and facts. What came later is not there, nor can it be taken for a snapshot's memory.
    """
    path = tmp_path / "taking.sqlite"
    with IndexWriter(path, KEY) as writer:
        writer.remember("label", b"x")
        writer.add(*ENTRIES[1])
        writer.reading("base/2", Half())
        writer.add_packs({PACK: (100, 50)})
        writer.checkpoint()
        writer.add(*ENTRIES[2])
        for name in ("taking.sqlite", "taking.sqlite-wal"):
            (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    assert not path.exists()
    (tmp_path / "copy-taking.sqlite-wal").rename(tmp_path / "copy.sqlite-wal")
    found = (tmp_path / "copy-taking.sqlite").rename(tmp_path / "copy.sqlite")
    assert ParentIndex.open(found) is None
    died = ParentIndex.open(found, died=True)
    assert died is not None
    assert (died.recall("label"), died.recall("other"), died.packs()) == (b"x", None, {PACK: (100, 50)})
    assert died.file("base/1") is not None
    assert died.file("base/nama\udcff") is None
    assert (died.opened("base/2", 2), died.opened_size("base/2")) == ((8192, CHUNK), 8192)
    assert (died.opened("base/2", 1), died.opened_size("base/1")) == (None, 0)
    died.close()


def test_a_take_that_fails_leaves_what_it_knew(tmp_path: Path) -> None:
    """After a checkpoint an error leaves the file with all that was added; not so once the snapshot exists."""
    path = tmp_path / "taking.sqlite"
    for settled in (False, True):
        with suppress(HostLacks), IndexWriter(path, KEY) as writer:
            writer.checkpoint()
            writer.add(*ENTRIES[1])
            if settled:
                writer.settle()
            raise HostLacks("for the test")
        assert path.exists() is not settled
        died = ParentIndex.open(path, died=True)
        assert settled or (died is not None and died.file("base/1") is not None)
        if died is not None:
            died.close()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """The host lacks something (9), named."""
    (tmp_path / "file").touch()
    with pytest.raises(HostLacks):
        IndexWriter(tmp_path / "file" / "taking.sqlite", KEY)
