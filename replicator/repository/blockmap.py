"""Map chunks: where the blocks of a file lie (docs/format.md, section 7.2). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from replicator.errors import IntegrityError
from replicator.repository.layout import PackId
from replicator.seal.digest import COMPARISON_SIZE

#: The most blocks one chunk describes.
CHUNK_BLOCKS = 4096
#: The pack index of blocks that are zeros and stored nowhere.
ZEROS = 0xFFFFFFFF

_HEAD = struct.Struct(">IIII")
_PACK = struct.Struct(">16sII")
_RUN = struct.Struct(">IIII")
#: What 0 stands for as the size of a hash, and the most that BLAKE3 is cut from.
_HASH_BEFORE, _HASH_MOST = 16, 32


class BlockRun(NamedTuple):
    """`blocks` consecutive blocks of a file from `offset` on in one frame of `pack`; zeros when `pack` is None."""

    blocks: int
    pack: PackId | None
    frame: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class MapChunk:
    """Up to CHUNK_BLOCKS blocks: their runs in order, and their comparison hashes (12 bytes each, joined)."""

    runs: tuple[BlockRun, ...]
    hashes: bytes

    @property
    def blocks(self) -> int:
        """How many blocks it describes."""
        return len(self.hashes) // COMPARISON_SIZE

    @property
    def packs(self) -> frozenset[PackId]:
        """The packs it refers to."""
        # One object stands for many runs: telling those apart costs less than comparing packs.
        distinct = {id(run.pack): run.pack for run in self.runs}
        return frozenset(pack for pack in distinct.values() if pack is not None)

    def hash_of(self, block: int) -> bytes:
        """The comparison hash of one of its blocks, counted from the chunk's first."""
        return self.hashes[block * COMPARISON_SIZE : (block + 1) * COMPARISON_SIZE]

    def to_bytes(self) -> bytes:
        """The chunk's bytes."""
        distinct = {id(run.pack): run.pack for run in self.runs}
        packs = sorted({pack for pack in distinct.values() if pack is not None})
        numbers = {pack: number for number, pack in enumerate(packs)}
        of = {key: ZEROS if pack is None else numbers[pack] for key, pack in distinct.items()}
        fields: list[int] = []
        for run in self.runs:
            fields += (run.blocks, of[id(run.pack)], run.frame, run.offset)
        return b"".join(
            [
                _HEAD.pack(self.blocks, len(self.runs), len(packs), COMPARISON_SIZE),
                *(_PACK.pack(pack.label.encode("ascii"), pack.attempt, pack.number) for pack in packs),
                struct.pack(f">{len(fields)}I", *fields),
                self.hashes,
            ]
        )

    @classmethod
    def parse(cls, data: bytes) -> MapChunk:
        """Read one, of longer hashes what is compared. Raises IntegrityError."""
        try:
            blocks, run_count, pack_count, stated = _HEAD.unpack_from(data)
            runs_at = _HEAD.size + _PACK.size * pack_count
            hashes_at = runs_at + _RUN.size * run_count
            packs = [
                PackId(label.decode("ascii"), attempt, number)
                for label, attempt, number in _PACK.iter_unpack(data[_HEAD.size : runs_at])
            ]
            runs = tuple(
                BlockRun(count, None if pack == ZEROS else packs[pack], frame, offset)
                for count, pack, frame, offset in _RUN.iter_unpack(data[runs_at:hashes_at])
            )
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise IntegrityError("a damaged map chunk") from error
        hashes, size = bytes(data[hashes_at:]), stated or _HASH_BEFORE
        if not COMPARISON_SIZE <= size <= _HASH_MOST or len(hashes) != blocks * size:
            raise IntegrityError("a damaged map chunk")
        if sum(run.blocks for run in runs) != blocks:
            raise IntegrityError("a damaged map chunk")
        if size > COMPARISON_SIZE:
            hashes = b"".join(hashes[at : at + COMPARISON_SIZE] for at in range(0, len(hashes), size))
        return cls(runs, hashes)


def join_runs(runs: Iterable[tuple[PackId | None, int, int]], block_size: int) -> tuple[BlockRun, ...]:
    """Runs from the places (pack, frame, offset) of blocks one by one: neighbours in a frame, and zeros, are joined."""
    joined: list[BlockRun] = []
    for pack, frame, offset in runs:
        if joined:
            last = joined[-1]
            follows = last.frame == frame and offset == last.offset + last.blocks * block_size
            if last.pack == pack and (pack is None or follows):
                joined[-1] = BlockRun(last.blocks + 1, pack, last.frame, last.offset)
                continue
        joined.append(BlockRun(1, pack, frame, offset) if pack is not None else BlockRun(1, None))
    return tuple(joined)
