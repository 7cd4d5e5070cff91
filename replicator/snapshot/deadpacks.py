"""Packs of which little is still needed: what is left of them is stored again, so that retention can let go of them.

Owns which packs, within a budget for each snapshot. No pack is ever rewritten: a take just refers to them no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from replicator.errors import IntegrityError, ObjectAbsent, StoreUnavailable
from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import read_table
from replicator.seal.keyring import Keyring
from replicator.snapshot.parentindex import ParentIndex
from replicator.store.protocol import ReadableStore

#: A pack of which less than one in so many bytes is needed is mostly dead.
DEAD = 4
#: At most one in so many bytes of a snapshot is stored again for this, and at most so many bytes.
SHARE = 10
MOST = 256 * 2**20
#: Packs whose sizes are asked for at once: those of a parent that was read from a store are not known.
_ASKED = 32
_WORKERS = 8

Sizes = Mapping[PackId, tuple[int, int]]


def mostly_dead(live: Mapping[PackId, int], sizes: Sizes) -> frozenset[PackId]:
    """The packs to refer to no more, the oldest first as the budget allows. Pure.

    `live`: the plain bytes that the parent needs of each; `sizes`: their plain and sealed bytes, where known.
    """
    budget = min(MOST, sum(live.values()) // SHARE)
    chosen: set[PackId] = set()
    for pack in sorted(live):
        plain = sizes[pack][0] if pack in sizes else 0
        if live[pack] * DEAD < plain and live[pack] <= budget:
            chosen.add(pack)
            budget -= live[pack]
    return frozenset(chosen)


def pass_over_dead(index: ParentIndex, stores: Mapping[str, ReadableStore], keyring: Keyring, system_id: int) -> Sizes:
    """Have a parent's memory pass over the packs that are mostly dead. Returns the sizes of all that it needs, as far
    as they are known: where the memory was read from a store, a few of the oldest are asked for each time.
    """
    live, known = index.live(), index.packs()
    sizes = {pack: known[pack] for pack in live if pack in known}
    unknown = sorted(live.keys() - sizes.keys())[:_ASKED]
    for store in stores.values() if unknown else ():
        if learned := _ask(store, keyring, system_id, unknown):
            sizes.update(learned)
            break
    index.passed_over = mostly_dead(live, sizes)
    return sizes


def _ask(
    store: ReadableStore, keyring: Keyring, system_id: int, packs: Iterable[PackId]
) -> dict[PackId, tuple[int, int]]:  # fmt: skip
    """The sizes that signed tables tell."""

    def look(pack: PackId) -> tuple[PackId, tuple[int, int]] | None:
        try:
            table = read_table(store, pack_name(system_id, pack), keyring)
        except (ObjectAbsent, IntegrityError, StoreUnavailable):  # not known now: asked again next time
            return None
        return pack, (table.plain_size, table.size)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="snapshot-sizes") as pool:
        return dict(found for found in pool.map(look, packs) if found is not None)
