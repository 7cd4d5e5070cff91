"""What a store has of a snapshot. Reads names only."""

from __future__ import annotations

from collections.abc import Iterable

from replicator.repository.layout import PackId, PackName, packs_prefix, parse_name
from replicator.store.protocol import ReadableStore


def missing_packs(store: ReadableStore, system_id: int, packs: Iterable[PackId]) -> list[PackId]:
    """Those of `packs` that a store doesn't list: one LIST per label."""
    wanted = sorted(packs)
    held: set[PackId] = set()
    for label in sorted({pack.label for pack in wanted}):
        for info in store.list(packs_prefix(system_id, label)):
            place = parse_name(info.name)
            if isinstance(place, PackName):
                held.add(place.pack)
    return [pack for pack in wanted if pack not in held]
