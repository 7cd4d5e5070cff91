"""Block sizes and runs of blocks: the arithmetic of maps. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from replicator.repository.blockmap import BlockRun

_MIB = 2**20
#: The smallest block, in bytes: PostgreSQL's usual page.
SMALLEST = 8192
#: The largest.
LARGEST = 128 * 1024
#: Pages in a block where all files together have fewer bytes than that.
_PAGES = ((128 * 1024 * _MIB, 1), (1024**2 * _MIB, 2), (4 * 1024**2 * _MIB, 4))


def choose_block_size(size: int, page: int, total: int = 0) -> int:
    """The block size of a file that no parent has, a multiple of the server's `page`; `total` bytes are in all files.

    A page: a changed row costs one page, and a page's 12 bytes of hash are 0.15 % of it. Where these add up, beyond
    128 GiB in all, files of 64 MiB and more take 2 pages, beyond 1 TiB 4, beyond 4 TiB 16: maps stay within 4 GiB up
    to 40 TiB. `size` -1: unknown.
    """
    base = max(SMALLEST, page)
    if size < 64 * _MIB:
        return base
    pages = next((pages for most, pages in _PAGES if total < most), 16)
    return min(pages * base, LARGEST)


def merge_runs(runs: Iterable[BlockRun], block_size: int) -> tuple[BlockRun, ...]:
    """The same blocks in as few runs as can be: neighbours in a frame, and zeros, are joined."""
    merged: list[BlockRun] = []
    for run in runs:
        if merged and (run.pack is merged[-1].pack or run.pack == merged[-1].pack):
            last = merged[-1]
            follows = last.frame == run.frame and run.offset == last.offset + last.blocks * block_size
            if run.pack is None or follows:
                merged[-1] = BlockRun(last.blocks + run.blocks, last.pack, last.frame, last.offset)
                continue
        merged.append(run)
    return tuple(merged)


class RunSlicer:
    """Slices of the same runs, each found at once however many runs there are."""

    def __init__(self, runs: Sequence[BlockRun], block_size: int) -> None:
        self._runs = runs
        self._ends = list(accumulate(run.blocks for run in runs))
        self._block_size = block_size

    def slice(self, first: int, count: int) -> list[BlockRun]:
        """The runs of the blocks [first, first + count), as far as there are any."""
        found: list[BlockRun] = []
        stop = first + count
        at = bisect_right(self._ends, first)
        while at < len(self._runs) and first < stop:
            run, end = self._runs[at], self._ends[at]
            begin = end - run.blocks
            high = min(stop, end)
            if first == begin and high == end:
                found.append(run)
            elif first < high:
                offset = 0 if run.pack is None else run.offset + (first - begin) * self._block_size
                found.append(BlockRun(high - first, run.pack, run.frame, offset))
            first = high
            at += 1
        return found
