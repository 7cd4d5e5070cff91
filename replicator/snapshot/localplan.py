"""Which pieces of which files the readers read, and which files they need not.

Owns the cutting: small files together, large ones in ranges. A file that looks as it did when the parent was taken is
handed on unread. Opens large files; what it opened is closed by `close` at the latest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from replicator.postgres.datadir import FoundDirectory, FoundFile
from replicator.repository.blockmap import CHUNK_BLOCKS
from replicator.seal.digest import COMPARISON_SIZE
from replicator.snapshot.index import ParentFile
from replicator.snapshot.localread import CHUNK, Piece, PlannedFile, open_file
from replicator.snapshot.runs import choose_block_size
from replicator.snapshot.source import Intake
from replicator.snapshot.stamps import unchanged

#: Small files read together at most.
_TOGETHER = 256


class LocalPlan:
    """`batches` are read in their order, each by one thread. `total` bytes are expected in all files, `page` is
    the server's page size. `trust`: a file's stamp suffices to take it over.

    `directory` is called with each directory; `take_over` with an unchanged file and its CRC-32C, and says whether that
    was well.
    """

    def __init__(
        self, intake: Intake, root: Path, total: int, *, page: int, trust: bool,
        directory: Callable[[FoundDirectory], None], take_over: Callable[[ParentFile, int], bool],
    ) -> None:  # fmt: skip
        self._intake = intake
        self._root = root
        self._total = total
        self._page = page
        self._trust = trust
        self._directory = directory
        self._take_over = take_over
        self._open: set[int] = set()

    def batches(self, found: Iterator[FoundFile | FoundDirectory]) -> Iterator[list[Piece]]:
        """Pieces of about CHUNK bytes together; those of a large file follow each other. Raises HostLacks."""
        together: list[Piece] = []
        size = 0
        for one in found:
            if isinstance(one, FoundDirectory):
                self._directory(one)
                continue
            file = self._plan(one)
            if file is None:
                continue
            length = one.size - (one.size % self._page if one.segment is not None else 0)
            if length > CHUNK:
                yield from self._large(file, length)
                continue
            together.append(Piece(file, 0, length, last=True, sound=self._sound(file, 0, length)))
            size += length
            if size >= CHUNK or len(together) >= _TOGETHER:
                yield together
                together, size = [], 0
        if together:
            yield together

    def _plan(self, found: FoundFile) -> PlannedFile | None:
        intake = self._intake
        old = intake.parent.file(found.path) if intake.parent is not None else None
        if old is not None and self._trust and old.whole:
            crc32c = unchanged(found, old.stamp)
            if crc32c is not None and self._take_over(old, crc32c):
                return None
        unit = old.block_size if old is not None else choose_block_size(found.size, intake.page, self._total)
        return PlannedFile(found, unit, old)

    def _large(self, file: PlannedFile, length: int) -> Iterator[list[Piece]]:
        descriptor = open_file(self._root / file.found.path)
        if descriptor is None:
            return
        self._open.add(descriptor)
        for offset in range(0, length, CHUNK):
            taken = min(CHUNK, length - offset)
            sound = self._sound(file, offset, taken)
            yield [Piece(file, offset, taken, offset + taken == length, descriptor, sound)]

    def _sound(self, file: PlannedFile, offset: int, length: int) -> bytes:
        """What `Piece.sound` is. Once a week, when no stamp is believed, every page is looked at."""
        if file.old is None or not self._trust or file.found.segment is None:
            return b""
        number, first = divmod(offset // file.unit, CHUNK_BLOCKS)
        end = first + -(-length // file.unit)
        return file.old.sound(number)[first * COMPARISON_SIZE : end * COMPARISON_SIZE]

    def done(self, piece: Piece) -> None:
        """The piece was read: a large file is closed after its last."""
        if piece.last and piece.descriptor in self._open:
            self._open.discard(piece.descriptor)
            os.close(piece.descriptor)

    def close(self) -> None:
        """Close what is open; nobody reads any more."""
        while self._open:
            os.close(self._open.pop())
