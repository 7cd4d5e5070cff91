"""What is known of a map chunk from two takes, laid one over the other; places that may not be referred to fall away.

Owns the laying over. Pure: which places may not be referred to is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.seal.digest import COMPARISON_SIZE
from replicator.snapshot.runs import RunSlicer, merge_runs

#: Stands for the hash of a block that is nowhere: no block has it.
NOWHERE = bytes(COMPARISON_SIZE)


def lay_over(
    upper: MapChunk, lower: MapChunk | None, usable: Callable[[PackId], bool], block_size: int
) -> MapChunk:  # fmt: skip
    """Each block as `upper` knows it where that place is usable, else as `lower` does, else nowhere: as a block that
    equals none. As many blocks as the longer of both.
    """
    runs: list[BlockRun] = []
    hashes: list[bytes] = []
    slicer = RunSlicer(lower.runs if lower is not None else (), block_size)

    def below(first: int, count: int) -> None:
        held = max(0, min(count, lower.blocks - first)) if lower is not None else 0
        if lower is not None and held:
            runs.extend(slicer.slice(first, held))
            hashes.append(lower.hashes[first * COMPARISON_SIZE : (first + held) * COMPARISON_SIZE])
        if held < count:
            runs.append(BlockRun(count - held, None))
            hashes.append(NOWHERE * (count - held))

    at = 0
    for run in upper.runs:
        if run.pack is None or usable(run.pack):
            runs.append(run)
            hashes.append(upper.hashes[at * COMPARISON_SIZE : (at + run.blocks) * COMPARISON_SIZE])
        else:
            below(at, run.blocks)
        at += run.blocks
    if lower is not None and lower.blocks > at:
        below(at, lower.blocks - at)
    return MapChunk(merge_runs(runs, block_size), b"".join(hashes))
