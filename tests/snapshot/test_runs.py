"""Runs of blocks: slicing and merging never change which bytes a block is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.repository.blockmap import BlockRun
from replicator.repository.layout import PackId
from replicator.snapshot.runs import choose_block_size, merge_runs, slice_runs

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
    assert places(slice_runs(runs, first, count, UNIT)) == places(runs)[first : first + count]


@pytest.mark.parametrize("page", [4096, 8192, 32768])
@pytest.mark.parametrize("size", [-1, 0, 1, 2**20, 64 * 2**20, 255 * 2**20, 2**30, 2**40])
def test_block_sizes_are_pages(size: int, page: int) -> None:
    """A multiple of the page, from 8 KiB to 128 KiB."""
    chosen = choose_block_size(size, page)
    assert chosen % page == 0
    assert 8192 <= chosen <= 131072
