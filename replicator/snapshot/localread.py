"""What a reader thread does: bytes of files, their pages' checksums, their blocks' hashes.

Owns the reading of a data directory that a server writes meanwhile. What was read from one place is not looked at
again, except for pages whose checksum is wrong. It knows neither packs nor the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from replicator.postgres.datadir import FoundFile, unreadable
from replicator.postgres.pagecheck import suspects
from replicator.postgres.rooms import Rooms
from replicator.seal.digest import COMPARISON_SIZE, Bytes, block_hashes
from replicator.snapshot.index import ParentFile

#: Read at once, in bytes: a range of a large file, or some small files together.
CHUNK = 4 * 2**20
#: How often a page with a wrong checksum is read again.
_AGAIN = 4
#: Never a link that took the file's place, nor a wait for a pipe that did.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Pages: the first, and how many.
_Run = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be read in blocks of `unit` bytes; `old` is the parent's."""

    found: FoundFile
    unit: int
    old: ParentFile | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to read: `length` from `offset` on, `last` if none follow. `descriptor` is open, or -1. `sound`: the hashes
    that blocks from the first on had when the checksums of their pages were looked at last.
    """

    file: PlannedFile
    offset: int
    length: int
    last: bool
    descriptor: int = -1
    sound: bytes = b""


@dataclass(slots=True)
class PieceRead:
    """What was there: None when the file vanished, fewer bytes than asked for where it ends. `damaged` are blocks of
    the file whose checksum stayed wrong. `steady` False: something had to be read again.
    """

    data: Bytes | None
    hashes: Sequence[bytes] = ()
    damaged: list[int] = field(default_factory=list)
    steady: bool = True


def open_file(path: Path) -> int | None:
    """A descriptor for reading; None when the file vanished. Raises HostLacks."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error


class LocalFiles:
    """Reads pieces; safe in several threads. `check_below`: the LSN below which a page must have its checksum, None
    where the server has none. `segment_pages`: pages of a full segment of a relation. `pause` between readings of a
    page whose checksum is wrong.
    """

    def __init__(
        self, root: Path, key: bytes, *, page: int, segment_pages: int, check_below: int | None,
        pause: Callable[[], object],
    ) -> None:  # fmt: skip
        self.page = page
        self._root = root
        self._key = key
        self._segment_pages = segment_pages
        self._check_below = check_below
        self._pause = pause
        self._rooms = Rooms(CHUNK)

    def read(self, pieces: Sequence[Piece]) -> list[PieceRead]:
        """Each piece, in order. Raises HostLacks."""
        reads = [PieceRead(self._bytes(piece)) for piece in pieces]
        for piece, read in zip(pieces, reads, strict=True):
            self._hash(piece, read)
        if self._check_below is not None:
            self._check(pieces, reads)
        return reads

    @staticmethod
    def expect(pieces: Sequence[Piece]) -> None:
        """Have the kernel read what will be read soon, of files that are open (posix_fadvise(2)). Merely an advice."""
        for piece in pieces:
            if piece.descriptor >= 0 and hasattr(os, "posix_fadvise"):
                with suppress(OSError):
                    os.posix_fadvise(piece.descriptor, piece.offset, piece.length, os.POSIX_FADV_WILLNEED)

    def _hash(self, piece: Piece, read: PieceRead) -> None:
        read.hashes = block_hashes(self._key, read.data, piece.file.unit) if read.data else ()

    def _bytes(self, piece: Piece) -> Bytes | None:
        path = self._root / piece.file.found.path
        if piece.descriptor >= 0:
            room = self._rooms.take(piece.length)
            return self._whole_pages(piece, room[: _read_into(path, piece.descriptor, room, piece.offset)])
        descriptor = open_file(path)
        if descriptor is None:
            return None
        try:
            return self._whole_pages(piece, _pread(path, descriptor, piece.length, piece.offset))
        finally:
            os.close(descriptor)

    def _whole_pages(self, piece: Piece, data: Bytes) -> Bytes:
        """Of a relation only whole pages: what was cut off is written again by the WAL. A full segment stays full, with
        zeros, as the server's own base backup makes it: the next one may have been read before, and behind a short one
        nobody looks for it when the WAL cuts the relation off; its old pages would be there when it grows again.
        """
        if piece.file.found.segment is None:
            return data
        extra = len(data) % self.page
        if extra:
            data = data[:-extra]
        if piece.file.found.size >= self._segment_pages * self.page and len(data) < piece.length:
            data = b"".join((data, bytes(piece.length - len(data))))
        return data

    def _check(self, pieces: Sequence[Piece], reads: Sequence[PieceRead]) -> None:
        """Read pages with a wrong checksum again: the server may have been writing them. Pages of blocks that are as
        they were when somebody looked are not looked at.
        """
        paged = [
            (piece, read)
            for piece, read in zip(pieces, reads, strict=True)
            if read.data and piece.file.found.segment is not None
        ]
        wrong = self._wrong(paged, [self._new_pages(piece, read) for piece, read in paged])
        for _ in range(_AGAIN):
            if not wrong:
                return
            self._pause()
            for number in wrong:
                self._read_again(*paged[number], wrong[number])
            doubtful = [paged[number] for number in wrong]
            again = self._wrong(doubtful, [self._all_pages(read) for _, read in doubtful])
            wrong = {number: again[at] for at, number in enumerate(wrong) if at in again}
        for number, pages in wrong.items():
            piece, read = paged[number]
            read.damaged = [piece.offset // self.page + page for page in pages]

    def _all_pages(self, read: PieceRead) -> list[_Run]:
        pages = len(read.data or b"") // self.page
        return [(0, pages)] if pages else []

    def _new_pages(self, piece: Piece, read: PieceRead) -> list[_Run]:
        """The pages of blocks that were not so when their checksums were looked at last."""
        if not piece.sound or piece.file.unit % self.page:
            return self._all_pages(read)
        if b"".join(read.hashes) == piece.sound:
            return []
        each, pages = piece.file.unit // self.page, len(read.data or b"") // self.page
        runs: list[_Run] = []
        for at, found in enumerate(read.hashes):
            if piece.sound[at * COMPARISON_SIZE : (at + 1) * COMPARISON_SIZE] == found:
                continue
            first, count = at * each, min(each, pages - at * each)
            if runs and sum(runs[-1]) == first:
                first, count = runs[-1][0], runs.pop()[1] + count
            runs.append((first, count))
        return runs

    def _wrong(
        self, paged: Sequence[tuple[Piece, PieceRead]], looked_at: Sequence[Sequence[_Run]]
    ) -> dict[int, list[int]]:
        """Of the pages to be looked at, those with a wrong checksum, by the number of the piece, counted from its first
        page.
        """
        found: dict[int, list[int]] = {}
        runs = [(number, first, count) for number, of in enumerate(looked_at) for first, count in of]
        if not runs or self._check_below is None:
            return found
        parts = [memoryview(paged[number][1].data or b"")[first * self.page : (first + count) * self.page]
                 for number, first, count in runs]  # fmt: skip
        blocks = [(self._first_block(paged[number][0]) + first, count) for number, first, count in runs]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        at = begin = 0
        for page in suspects(data, blocks, self.page, self._check_below):
            while page >= begin + runs[at][2]:
                begin += runs[at][2]
                at += 1
            number, first, _ = runs[at]
            found.setdefault(number, []).append(first + page - begin)
        return found

    def _first_block(self, piece: Piece) -> int:
        return (piece.file.found.segment or 0) * self._segment_pages + piece.offset // self.page

    def _read_again(self, piece: Piece, read: PieceRead, pages: Sequence[int]) -> None:
        read.steady = False
        path = self._root / piece.file.found.path
        descriptor = open_file(path)
        if descriptor is None:  # dropped meanwhile: the WAL drops it too
            read.data, read.hashes = b"", ()
            return
        data = bytearray(read.data or b"")
        with closing(os.fdopen(descriptor, "rb", buffering=0)):
            for page in pages:
                found = _pread(path, descriptor, self.page, piece.offset + page * self.page)
                if len(found) < self.page:  # cut off meanwhile: the WAL cuts it off too
                    del data[page * self.page :]
                    break
                data[page * self.page : (page + 1) * self.page] = found
        read.data = self._whole_pages(piece, bytes(data))
        self._hash(piece, read)


def _pread(path: Path, descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes; fewer only at the file's end."""
    try:
        data = os.pread(descriptor, length, offset)
        while 0 < len(data) < length:  # a signal, or the end
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
    except OSError as error:
        raise unreadable(path, error) from error
    return data


def _read_into(path: Path, descriptor: int, room: memoryview, offset: int) -> int:
    """How many bytes of the room were filled; fewer than fit only at the file's end."""
    held = 0
    try:
        while held < len(room) and (count := os.preadv(descriptor, [room[held:]], offset + held)):
            held += count
    except OSError as error:
        raise unreadable(path, error) from error
    return held
