"""What the readers read, placed: blocks into packs, entries into the index, lines into the backup manifest.

Owns the order of the entries, global/pg_control last. One thread uses it. Entries of a tablespace that was made while
the backup started are held back until its end tells whether the backup knows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import google_crc32c
import numpy as np

from replicator.postgres.datadir import CONTROL_FILE, FoundDirectory
from replicator.postgres.manifestwriter import ManifestWriter
from replicator.repository.layout import PackId
from replicator.repository.manifests import DirectoryEntry, FileEntry
from replicator.seal.digest import Bytes
from replicator.snapshot.blocks import FileBlocks
from replicator.snapshot.index import ParentFile
from replicator.snapshot.localread import Piece, PieceRead, PlannedFile
from replicator.snapshot.runs import choose_block_size
from replicator.snapshot.scratch import Scratch
from replicator.snapshot.source import Intake, ReadingProgress, Totals
from replicator.snapshot.stamps import make_stamp

MANIFEST_FILE = "backup_manifest"
_SPACES = "pg_tblspc/"
_MOST_DAMAGE = 1000
_MOST_IN_FILE = 5
_READ = 2**20


@dataclass(slots=True)
class _Current:
    """The file whose pieces come."""

    file: PlannedFile
    blocks: FileBlocks
    crc32c: int = 0
    damaged: list[int] = field(default_factory=list)
    steady: bool = True
    ended: bool = False


@dataclass(frozen=True, slots=True)
class _Made:
    """An entry to be added."""

    entry: FileEntry | DirectoryEntry
    chunks: list[bytes] = field(default_factory=list)
    live: Mapping[PackId, int] = field(default_factory=dict)
    stamp: bytes = b""
    crc32c: int = 0


class LocalPlacer:
    """`damage` names the pages that are wrong. `fresh`: oids of tablespaces whose entries are held back. `asked_s`,
    `settled_s`: see stamps.py.
    """

    def __init__(
        self, intake: Intake, totals: Totals, progress: ReadingProgress, manifest: ManifestWriter,
        fresh: Collection[int], asked_s: float, settled_s: float,
    ) -> None:  # fmt: skip
        self.damage: list[str] = []
        self._intake = intake
        self._totals = totals
        self._progress = progress
        self._manifest = manifest
        self._fresh = fresh
        self._asked_s = asked_s
        self._settled_s = settled_s
        self._held: list[_Made] = []
        self._current: _Current | None = None

    def directory(self, found: FoundDirectory) -> None:
        """A directory."""
        self._add(_Made(DirectoryEntry(found.path, found.mode)))

    def take_over(self, old: ParentFile, crc32c: int) -> bool:
        """A file that is as the parent has it. False when the parent's memory of it is not whole."""
        entry = old.entry
        if self._space(entry.path) in self._fresh or not self._intake.index.take_over(old):
            return False
        self._intake.step("file")
        self._totals.files += 1
        self._totals.packs |= set(old.live)
        self._manifest.add(entry.path, entry.size, entry.mtime, crc32c)
        self._progress.add(entry.size)
        return True

    def put(self, piece: Piece, read: PieceRead) -> None:
        """The next piece, in the order of the plan."""
        if piece.offset == 0:
            self._intake.step("file")
            file = piece.file
            blocks = FileBlocks(self._intake.placer, self._intake.key, file.unit, file.old)
            self._current = None
            if read.data is not None:
                self._current = _Current(file, blocks)
                self._intake.index.reading(file.found.path, blocks)
        current = self._current
        if current is None or read.data is None:  # it vanished
            return
        if read.data and not current.ended:
            current.blocks.feed_hashed(memoryview(read.data), read.hashes)
            current.crc32c = _extended(current.crc32c, read.data)
            current.damaged += read.damaged
            self._progress.add(len(read.data))
        current.ended = current.ended or len(read.data) < piece.length
        current.steady = current.steady and read.steady
        if piece.last:
            self._file(current)
            self._current = None

    def _file(self, current: _Current) -> None:
        found, stamp = current.file.found, b""
        if current.damaged:
            self._damaged(found.path, current.damaged)
        elif current.steady and not current.ended:
            stamp = make_stamp(found, current.crc32c, self._asked_s, self._settled_s)
        mtime, unit = found.mtime_ns // 10**9, current.file.unit
        self._add(self._finished(current.blocks, found.path, found.mode, mtime, unit, stamp, current.crc32c))

    def _damaged(self, path: str, blocks: list[int]) -> None:
        room = _MOST_DAMAGE - len(self.damage)
        texts = [f"page checksum is wrong in {path}, block {block}" for block in blocks[:_MOST_IN_FILE]]
        if len(blocks) > _MOST_IN_FILE:
            texts.append(f"page checksums are wrong in {path}: {len(blocks)} blocks in all")
        self.damage += texts[:room]

    @staticmethod
    def _finished(
        blocks: FileBlocks, path: str, mode: int, mtime: int, unit: int, stamp: bytes, crc32c: int
    ) -> _Made:  # fmt: skip
        blocks.finish()
        entry = FileEntry(path, mode, blocks.size, mtime, unit, tuple(blocks.chunks))
        return _Made(entry, blocks.chunk_bytes, blocks.live, stamp, crc32c)

    def bytes_file(self, path: str, mode: int, mtime: int, data: bytes) -> None:
        """A file whose bytes are here. `global/pg_control` is the last entry, so it waits for `finish`."""
        unit, blocks = self._blocks(path, len(data))
        blocks.feed(data)
        self._progress.add(len(data))
        made = self._finished(blocks, path, mode, mtime, unit, b"", google_crc32c.value(data))
        if path == CONTROL_FILE:
            self._held.append(made)
        else:
            self._add(made)

    def _blocks(self, path: str, size: int) -> tuple[int, FileBlocks]:
        intake = self._intake
        old = intake.parent.file(path) if intake.parent is not None else None
        unit = old.block_size if old is not None else choose_block_size(size, intake.page)
        blocks = FileBlocks(intake.placer, intake.key, unit, old)
        intake.index.reading(path, blocks)
        return unit, blocks

    def release(self, known: Collection[int]) -> None:
        """Add what was held back of the tablespaces that the backup knows, and leave out the rest."""
        held, self._held = self._held, []
        for made in held:
            if self._is_control(made):
                self._manifest_line(made)
                self._held.append(made)
            elif self._space(made.entry.path) in known:
                self._store(made)

    def finish(self, manifest: Scratch, mode: int, mtime: int) -> None:
        """The finished backup manifest, and what comes last."""
        unit, blocks = self._blocks(MANIFEST_FILE, -1)
        while data := manifest.read(_READ):
            blocks.feed(data)
            self._progress.add(len(data))
        self._count(self._finished(blocks, MANIFEST_FILE, mode, mtime, unit, b"", 0))
        for made in self._held:
            self._count(made)
        self._progress.finish()

    def _add(self, made: _Made) -> None:
        if self._space(made.entry.path) in self._fresh:
            self._held.append(made)
        else:
            self._store(made)

    def _store(self, made: _Made) -> None:
        self._manifest_line(made)
        self._count(made)

    def _manifest_line(self, made: _Made) -> None:
        if isinstance(made.entry, FileEntry):
            self._manifest.add(made.entry.path, made.entry.size, made.entry.mtime, made.crc32c)

    def _count(self, made: _Made) -> None:
        if isinstance(made.entry, FileEntry):
            self._totals.files += 1
            self._totals.packs |= set(made.live)
        self._intake.index.add(made.entry, made.chunks, live=made.live, stamp=made.stamp)

    @staticmethod
    def _is_control(made: _Made) -> bool:
        return made.entry.path == CONTROL_FILE

    @staticmethod
    def _space(path: str) -> int | None:
        """The oid of the tablespace that a path lies in."""
        return int(path.split("/", 2)[1]) if path.startswith(_SPACES) else None


def _extended(crc32c: int, data: Bytes) -> int:
    """The library takes bytes, and of all else only what it need not give back: an array of numpy's."""
    extended: int = google_crc32c.extend(crc32c, data if isinstance(data, bytes) else np.frombuffer(data, np.uint8))
    return extended
