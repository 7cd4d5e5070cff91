"""Runs of blocks: slicing and merging never change which bytes a block is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.repository.blockmap import BlockRun
from replicator.repository.layout import PackId
from replicator.seal.digest import COMPARISON_SIZE
from replicator.snapshot.runs import RunSlicer, choose_block_size, merge_runs

UNIT = 8
Place = tuple[PackId | None, int, int]


def places(runs: list[BlockRun]) -> list[Place]:
    """Each block's place, one by one."""
    found: list[Place] = []
    for run in runs:
        for block in range(run.blocks):
            found.append((run.pack, run.frame, run.offset + block * UNIT) if run.pack else (None, 0, 0))
    return found


packs = st.sampled_from([None, PackId("20261122T000000Z", 1, 0), PackId("20261122T000000Z", 1, 1)])
run = st.builds(
    lambda blocks, pack, frame, at: BlockRun(blocks, pack, frame, at * UNIT) if pack else BlockRun(blocks, None),
    st.integers(1, 5), packs, st.integers(0, 2), st.integers(0, 6),
)  # fmt: skip


@given(st.lists(run, max_size=12))
def test_merging_keeps_every_block(runs: list[BlockRun]) -> None:
    """The same places, no two neighbours that could be one, and merging again changes nothing."""
    merged = merge_runs(runs, UNIT)
    assert places(list(merged)) == places(runs)
    assert merge_runs(merged, UNIT) == merged


@given(st.lists(run, max_size=12), st.integers(0, 70), st.integers(0, 70))
def test_a_slice_is_the_blocks_asked_for(runs: list[BlockRun], first: int, count: int) -> None:
    """A slice's places are that slice of all places."""
    assert places(RunSlicer(runs, UNIT).slice(first, count)) == places(runs)[first : first + count]


@pytest.mark.parametrize("page", [4096, 8192, 32768])
@pytest.mark.parametrize("size", [-1, 0, 1, 2**20, 64 * 2**20, 2**30])
@pytest.mark.parametrize("total", [0, 2**30, 2**38, 2**41, 2**44])
def test_block_sizes_are_pages(size: int, page: int, total: int) -> None:
    """A multiple of the page, from 8 KiB to 128 KiB; one page where little is stored in all."""
    chosen = choose_block_size(size, page, total)
    assert chosen % page == 0
    assert 8192 <= chosen <= 131072
    assert chosen == max(8192, page) or (total > 2**36 and size > 2**24)


@pytest.mark.parametrize("total", [2**30, 2**37, 2**38, 2**40, 2**42, 40 * 2**40])
def test_maps_stay_small(total: int) -> None:
    """The hashes of all blocks of large files take at most 4 GiB, up to 40 TiB."""
    assert total // choose_block_size(2**30, 8192, total) * COMPARISON_SIZE <= 4 * 2**30
