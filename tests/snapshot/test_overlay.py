"""Chunks laid one over the other: a block is what the upper one knows where that can be used, else the lower one's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.seal.digest import COMPARISON_SIZE
from replicator.snapshot.overlay import NOWHERE, lay_over

UNIT = 8
GOOD, BAD, OLD = (PackId("20261122T000000Z", 1, number) for number in range(3))
Place = tuple[PackId | None, int, bytes]


def places(chunk: MapChunk | None) -> list[Place]:
    """Each block's pack, offset and hash."""
    if chunk is None:
        return []
    found = [
        (run.pack, run.offset + block * UNIT if run.pack else 0) for run in chunk.runs for block in range(run.blocks)
    ]
    return [(pack, offset, chunk.hash_of(number)) for number, (pack, offset) in enumerate(found)]


def chunk_of(kinds: list[tuple[int, PackId | None, int]], salt: int) -> MapChunk:
    """A chunk with these runs, each block with a hash of its own."""
    runs = tuple(BlockRun(n, pack, 1, at * UNIT) if pack else BlockRun(n, None) for n, pack, at in kinds)
    count = sum(run.blocks for run in runs)
    return MapChunk(runs, b"".join(bytes([salt, number + 1]) * (COMPARISON_SIZE // 2) for number in range(count)))


def chunks(*packs: PackId | None) -> st.SearchStrategy[list[tuple[int, PackId | None, int]]]:
    """Runs in these packs."""
    return st.lists(st.tuples(st.integers(1, 4), st.sampled_from(packs), st.integers(0, 9)), max_size=8)


@given(chunks(GOOD, BAD, None), st.none() | chunks(OLD, None))
def test_each_block_is_the_best_that_is_known(
    upper: list[tuple[int, PackId | None, int]], lower: list[tuple[int, PackId | None, int]] | None
) -> None:
    """The upper's place where its pack can be used, else the lower's, else a hash that no block has."""
    above, below = chunk_of(upper, 1), chunk_of(lower, 2) if lower is not None else None
    found = lay_over(above, below, lambda pack: pack != BAD, UNIT)
    over, under = places(above), places(below)
    expected = []
    for number in range(max(len(over), len(under))):
        candidates = [place for place in (*over[number : number + 1],) if place[0] != BAD] + under[number : number + 1]
        expected.append(candidates[0] if candidates else (None, 0, NOWHERE))
    assert places(found) == expected
    assert MapChunk.parse(found.to_bytes()) == found
