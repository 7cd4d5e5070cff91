"""Reading files that a server writes meanwhile: what vanishes, shrinks, grows, is torn, or is wrong for good."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import HostLacks
from replicator.postgres import pagecheck
from replicator.postgres.datadir import FoundFile
from replicator.seal.digest import COMPARISON_SIZE, block_hashes
from replicator.snapshot.localread import LocalFiles, Piece, PieceRead, PlannedFile, open_file

PAGE = 8192
KEY = bytes(32)
NEVER = 2**63


def page(block: int, *, lsn: int = 1, filling: int = 7) -> bytes:
    """A page with the checksum that belongs to its block number."""
    data = bytearray(bytes([filling]) * PAGE)
    data[0:8] = (lsn >> 32).to_bytes(4, "little") + (lsn & 0xFFFFFFFF).to_bytes(4, "little")
    data[8:10] = checksum(bytes(data), block).to_bytes(2, "little")
    return bytes(data)


def checksum(data: bytes, block: int) -> int:
    """PostgreSQL's pg_checksum_page, word by word as its source has it."""
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, PAGE, 4)]
    words[2] &= 0xFFFF0000
    sums = [int(value) for value in pagecheck._BEGIN]
    for row in range(PAGE // 128 + 2):
        for column in range(32):
            word = words[row * 32 + column] if row < PAGE // 128 else 0
            mixed = sums[column] ^ word
            sums[column] = (mixed * 16777619 & 0xFFFFFFFF) ^ (mixed >> 17)
    found = 0
    for value in sums:
        found ^= value
    return (found ^ block) % 65535 + 1


def planned(path: str, size: int, segment: int | None = 0) -> PlannedFile:
    """A file as the plan has it."""
    return PlannedFile(FoundFile(path, size, 0o600, 0, 0, 0, segment), PAGE, None)


def read(
    root: Path, *pieces: Piece, below: int | None = NEVER, pause: Callable[[], object] = lambda: None
) -> list[PieceRead]:
    """Read pieces."""
    files = LocalFiles(root, KEY, page=PAGE, segment_pages=4, check_below=below, pause=pause)
    return files.read(pieces)


def whole(path: str, size: int, segment: int | None = 0) -> Piece:
    """All of a file."""
    return Piece(planned(path, size, segment), 0, size, last=True)


def test_bytes_and_hashes(tmp_path: Path) -> None:
    """Several files at once, an empty one among them: their bytes, and the hashes of their blocks."""
    data = page(0) + page(1)
    (tmp_path / "1").write_bytes(data)
    (tmp_path / "2").write_bytes(b"")
    (tmp_path / "3").write_bytes(b"settings")
    found = read(tmp_path, whole("1", 2 * PAGE), whole("2", 0), whole("3", 8, None))
    assert [one.data for one in found] == [data, b"", b"settings"]
    assert list(found[0].hashes) == block_hashes(KEY, data, PAGE)
    assert all(one.steady and not one.damaged for one in found)


def test_block_numbers_go_on_in_later_segments(tmp_path: Path) -> None:
    """The second segment's first page has the number that follows the first segment's, here of four pages."""
    (tmp_path / "1.1").write_bytes(page(4) + page(5))
    (tmp_path / "2").write_bytes(page(0))
    right = read(tmp_path, whole("1.1", 2 * PAGE, 1), whole("2", PAGE))
    assert [one.damaged for one in right] == [[], []]
    (wrong,) = read(tmp_path, whole("1.1", 2 * PAGE, 0))
    assert wrong.damaged == [0, 1]


def test_a_file_that_vanished(tmp_path: Path) -> None:
    """It is None, and the others are read."""
    (tmp_path / "2").write_bytes(page(0))
    gone, there = read(tmp_path, whole("1", PAGE), whole("2", PAGE))
    assert (gone.data, there.data) == (None, page(0))
    assert open_file(tmp_path / "1") is None


def test_a_file_that_shrank_or_grew(tmp_path: Path) -> None:
    """Shrunk: whole pages of what is left. Grown: only what was asked for."""
    (tmp_path / "1").write_bytes(page(0) + b"torn tail")
    (tmp_path / "2").write_bytes(page(0) + page(1))
    shrunk, grown = read(tmp_path, whole("1", 3 * PAGE), whole("2", PAGE))
    assert (shrunk.data, grown.data) == (page(0), page(0))
    assert not shrunk.damaged
    beyond = Piece(planned("1", 3 * PAGE), 2 * PAGE, PAGE, last=True)
    assert read(tmp_path, beyond)[0].data == b""


def test_a_full_segment_stays_full(tmp_path: Path) -> None:
    """Cut off while it is read it ends with zeros: behind a short segment the next would be forgotten."""
    (tmp_path / "1").write_bytes(page(0) + b"torn tail")
    pieces = [Piece(planned("1", 4 * PAGE), at * 2 * PAGE, 2 * PAGE, last=at == 1) for at in (0, 1)]
    first, second = read(tmp_path, *pieces)
    assert first.data == page(0) + bytes(PAGE)
    assert second.data == bytes(2 * PAGE)


def test_a_torn_page_is_read_again(tmp_path: Path) -> None:
    """A page that the server was writing is right the next time; the file counts as not steady."""
    torn = page(1)[: PAGE // 2] + bytes(PAGE // 2)
    (tmp_path / "1").write_bytes(page(0) + torn + page(2))

    def written() -> None:
        (tmp_path / "1").write_bytes(page(0) + page(1) + page(2))

    (found,) = read(tmp_path, whole("1", 3 * PAGE), pause=written)
    assert (found.data, found.damaged, found.steady) == (page(0) + page(1) + page(2), [], False)


@pytest.mark.parametrize("end", ["dropped", "cut off"])
def test_a_torn_page_that_goes_away(tmp_path: Path, end: str) -> None:
    """A relation dropped or cut off before the second look is not damaged: the WAL does the same to the copy."""
    path = tmp_path / "1"
    path.write_bytes(page(0) + bytes([9]) * PAGE + page(2))

    def changed() -> None:
        if end == "dropped":
            path.unlink(missing_ok=True)
        else:
            os.truncate(path, PAGE)

    (found,) = read(tmp_path, whole("1", 3 * PAGE), pause=changed)
    assert (found.data, found.damaged) == (b"" if end == "dropped" else page(0), [])


def test_a_wrong_page(tmp_path: Path) -> None:
    """It stays wrong: its block is named, among several files and from the middle of one; the bytes are as they lie."""
    bad = bytes([9]) * PAGE
    (tmp_path / "1").write_bytes(page(0))
    (tmp_path / "2").write_bytes(page(0) + bad + page(2) + bad)
    pauses: list[int] = []
    middle = Piece(planned("2", 4 * PAGE), PAGE, 3 * PAGE, last=True)
    one, two = read(tmp_path, whole("1", PAGE), middle, pause=lambda: pauses.append(1))
    assert (one.damaged, two.damaged) == ([], [1, 3])
    assert two.data == bad + page(2) + bad
    assert 0 < len(pauses) < 10


def test_pages_that_are_no_error(tmp_path: Path) -> None:
    """A new page has no checksum; one changed since the backup began is written again by the WAL; files without pages,
    and servers without checksums, have none.
    """
    later = bytearray(page(1, lsn=2**32 + 5))
    later[100] ^= 1
    (tmp_path / "1").write_bytes(bytes(PAGE) + later)
    (found,) = read(tmp_path, whole("1", 2 * PAGE), below=2**32 + 5)
    assert (found.damaged, found.steady) == ([], True)
    (found,) = read(tmp_path, whole("1", 2 * PAGE), below=2**32 + 6)
    assert found.damaged == [1]
    assert read(tmp_path, whole("1", 2 * PAGE, None))[0].damaged == []
    assert read(tmp_path, whole("1", 2 * PAGE), below=None)[0].damaged == []


@pytest.mark.parametrize("unit", [PAGE, 2 * PAGE])
def test_only_what_changed_is_looked_at(tmp_path: Path, unit: int) -> None:
    """Pages of blocks that were looked at before are not looked at again; a wrong one among the others is found, all of
    its piece are looked at then, and one that was torn has the hash of what was read at last.
    """
    bad = bytes([9]) * PAGE
    before = page(0) + page(1) + bad + page(3) + page(4) + page(5)
    now = before[: 4 * PAGE] + page(4)[:-1] + b"!" + page(5, filling=8) + page(6)
    file = PlannedFile(FoundFile("1", len(now), 0o600, 0, 0, 0, 0), unit, None)
    sound = b"".join(block_hashes(KEY, before, unit))

    def looked(content: bytes, *pieces: Piece, pause: Callable[[], object] = lambda: None) -> list[list[int]]:
        (tmp_path / "1").write_bytes(content)
        files = LocalFiles(tmp_path, KEY, page=PAGE, segment_pages=8, check_below=NEVER, pause=pause)
        found = files.read(pieces)
        for piece, one in zip(pieces, found, strict=True):
            assert one.data == (tmp_path / "1").read_bytes()[piece.offset : piece.offset + piece.length]
            assert list(one.hashes) == block_hashes(KEY, one.data, unit)
        return [one.damaged for one in found]

    def mended() -> None:
        (tmp_path / "1").write_bytes(before[: 4 * PAGE] + page(4) + page(5, filling=8) + page(6))

    whole_file = Piece(file, 0, len(now), last=True, sound=sound)
    halves = (
        Piece(file, 0, 4 * PAGE, last=False, sound=sound[: 4 * PAGE // unit * COMPARISON_SIZE]),
        Piece(file, 4 * PAGE, 3 * PAGE, last=True, sound=sound[4 * PAGE // unit * COMPARISON_SIZE :]),
    )
    assert looked(before, Piece(file, 0, len(before), last=True, sound=sound)) == [[]]
    assert looked(before, Piece(file, 0, len(before), last=True)) == [[2]]
    assert looked(now, whole_file) == [[2, 4]]
    assert looked(now, *halves) == [[], [4]]
    assert looked(now, *halves, pause=mended) == [[], []]


def test_no_link_and_no_pipe_in_a_file_s_place(tmp_path: Path) -> None:
    """What replaced the file since it was found is neither followed nor waited for."""
    (tmp_path / "secret").write_bytes(b"of others")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(HostLacks):
            read(tmp_path, whole(name, 9, None))


def test_what_is_expected_is_read_ahead(tmp_path: Path) -> None:
    """The kernel is asked for it before anybody reads; what is not open, or not there, is nobody's concern."""
    size = 512 * PAGE
    (tmp_path / "1").write_bytes(os.urandom(size))
    handle = os.open(tmp_path / "1", os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # in vain where memory is all there is
        LocalFiles.expect([whole("2", PAGE), Piece(planned("1", size), 0, size, last=True, descriptor=handle)])
        deadline = time.monotonic() + 30
        while at_hand(handle, size) < size:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(handle)
    LocalFiles.expect([Piece(planned("1", size), 0, size, last=True, descriptor=handle)])


def at_hand(handle: int, size: int) -> int:
    """How many bytes of a file are in the page cache (mincore(2)); asking brings none there."""
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    with mmap.mmap(handle, size, access=mmap.ACCESS_COPY) as mapped:
        byte = ctypes.c_char.from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(byte)), ctypes.c_size_t(size), pages) == 0
        del byte
    return sum(found & 1 for found in pages) * mmap.PAGESIZE
