"""Block sizes and runs of blocks: the arithmetic of maps. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from replicator.repository.blockmap import BlockRun

_MIB = 2**20
#: The smallest block, in bytes: PostgreSQL's usual page.
SMALLEST = 8192


def choose_block_size(size: int, page: int) -> int:
    """The block size of a file that no parent has, a multiple of the server's `page`.

    A page for files under 64 MiB: a changed row costs one page. Larger ones, where a page's 16 bytes of hash add up,
    take 2, 4 and 16 pages, so the maps of 1 GiB segments stay at 0.05 % and no map is above 0.2 %. `size` -1: unknown.
    """
    base = max(SMALLEST, page)
    if size < 64 * _MIB:
        return base
    if size < 256 * _MIB:
        return min(2 * base, 128 * 1024)
    return min((4 if size <= 1024 * _MIB else 16) * base, 128 * 1024)


def merge_runs(runs: Iterable[BlockRun], block_size: int) -> tuple[BlockRun, ...]:
    """The same blocks in as few runs as can be: neighbours in a frame, and zeros, are joined."""
    merged: list[BlockRun] = []
    for run in runs:
        if merged and run.pack == merged[-1].pack:
            last = merged[-1]
            follows = last.frame == run.frame and run.offset == last.offset + last.blocks * block_size
            if run.pack is None or follows:
                merged[-1] = BlockRun(last.blocks + run.blocks, last.pack, last.frame, last.offset)
                continue
        merged.append(run)
    return tuple(merged)


def slice_runs(runs: Iterable[BlockRun], first: int, count: int, block_size: int) -> list[BlockRun]:
    """The runs of the blocks [first, first + count)."""
    found: list[BlockRun] = []
    position = 0
    for run in runs:
        low = max(first, position)
        high = min(first + count, position + run.blocks)
        if low < high:
            offset = 0 if run.pack is None else run.offset + (low - position) * block_size
            found.append(BlockRun(high - low, run.pack, run.frame, offset))
        position += run.blocks
        if position >= first + count:
            break
    return found
