"""Packs that are mostly dead are referred to no more, the oldest first, within a budget, and nothing is lost by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.progress import silent
from replicator.repository.layout import PackId
from replicator.repository.manifests import read_summary
from replicator.repository.repository import Repository
from replicator.seal.header import Compression
from replicator.snapshot.deadpacks import DEAD, MOST, SHARE, mostly_dead
from replicator.snapshot.job import TakeResult
from replicator.snapshot.take import take
from replicator.store.protocol import Store
from tests.clusters import TestCluster
from tests.snapshot.support import shipping, take_job, verify_tree

PACKS = [PackId(f"2026112{day}T000000Z", 1, number) for day in range(3) for number in range(3)]
GIB = 2**30


@given(st.dictionaries(st.sampled_from(PACKS), st.tuples(st.integers(1, GIB), st.integers(1, GIB))))
def test_the_budget_is_kept(known: dict[PackId, tuple[int, int]]) -> None:
    """Only packs of which less than a quarter is needed, and never more than the budget in all."""
    live = {pack: min(pair) for pack, pair in known.items()}
    chosen = mostly_dead(live, {pack: (max(pair), 1) for pack, pair in known.items()})
    assert all(live[pack] * DEAD < max(known[pack]) for pack in chosen)
    assert sum(live[pack] for pack in chosen) <= min(MOST, sum(live.values()) // SHARE)


def test_the_oldest_goes_first() -> None:
    """What the budget allows is taken from the oldest on; one that is too large for what is left is passed by."""
    live = {PACKS[0]: 60, PACKS[1]: 50, PACKS[2]: 40, PACKS[3]: 850}
    sizes = dict.fromkeys(PACKS, (1000, 900))
    assert mostly_dead(live, sizes) == {PACKS[0], PACKS[2]}


def test_what_is_not_known_stays() -> None:
    """A pack whose size nobody told is not judged."""
    assert mostly_dead({PACKS[0]: 1, PACKS[1]: 10_000}, {}) == frozenset()


def taken(cluster: TestCluster, repository: Repository, state: Path) -> TakeResult:
    """A take with small packs, not compressed."""
    job = take_job(cluster, repository, state)
    return take(replace(job, pack_size=2**20, compression=Compression.NONE), silent, Event())


@pytest.mark.server
def test_what_is_left_is_stored_again(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Of packs whose rows were rewritten but for a few the next snapshot but one refers to none; where the memory of
    the parent was lost as well. The trees are what the server sent.
    """
    primary.sql(
        "CREATE TABLE rencana AS SELECT g AS id, repeat(md5(g::text), 10) AS isi FROM generate_series(1, 20000) g"
    )
    primary.sql("ALTER TABLE rencana SET (autovacuum_enabled = off)")
    primary.sql("VACUUM (FREEZE) rencana")
    primary.sql("CHECKPOINT")
    with shipping(primary, repository):
        first = taken(primary, repository, tmp_path / "state")
        primary.sql("UPDATE rencana SET id = id + 1 WHERE id % 3000 > 300")
        primary.sql("CHECKPOINT")
        results = [taken(primary, repository, tmp_path / "state") for _ in range(2)]
        lost = taken(primary, repository, tmp_path / "other")
    needed = [set(read_summary(stores["local"], one.row.snapshot, repository.keyring).packs) for one in results]
    gone = {pack for pack in needed[0] - needed[1] if pack.label == first.row.snapshot.label}
    assert gone
    assert results[1].row.added_bytes < results[1].row.bytes // SHARE + 2**20
    assert gone.isdisjoint(read_summary(stores["local"], lost.row.snapshot, repository.keyring).packs)
    verify_tree(repository, stores["local"], results[1], tmp_path / "tree")
    verify_tree(repository, stores["local"], lost, tmp_path / "lost")
