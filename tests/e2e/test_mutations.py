"""A short seeded sample of the mutation campaign: every mutation, every kind of object, and every lie of a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.lib.campaigns.mutate import Campaign
from scripts.lib.campaigns.mutate_ground import Ground, ground
from tests.clusters import have_binaries

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]
SEED = 7


@pytest.fixture(scope="module")
def held() -> Iterator[Ground]:
    """A repository with two stores, two timelines and four snapshots, and another one of the same writer."""
    with ground() as found:
        yield found


def test_whatever_is_done_to_an_object_is_named_and_mended(held: Ground) -> None:
    """Each mutation and each kind at least once: verification names it, repair from the other store mends it."""
    said: list[str] = []
    campaign = Campaign(held, SEED, 0, said.append)
    mutations: set[str] = set()
    kinds: set[str] = set()
    for mutation, kind in campaign.all():
        if mutation not in mutations or kind not in kinds:
            campaign.harm(mutation, kind, restores=False)
            mutations.add(mutation)
            kinds.add(kind)
    assert said == []
    assert campaign.counts.missed == campaign.counts.unrepaired == 0


@pytest.mark.parametrize("mutation", ["flip", "short answer"])
def test_a_restore_refuses_or_brings_back_what_was_there(held: Ground, mutation: str) -> None:
    """From a store with a damaged pack, and from one that lies about a segment."""
    said: list[str] = []
    campaign = Campaign(held, SEED, 1, said.append)
    campaign.harm(mutation, "pack" if mutation == "flip" else "wal", restores=True)
    assert said == []
    assert campaign.counts.restored + campaign.counts.refused == 1
    assert campaign.counts.lost == 0
