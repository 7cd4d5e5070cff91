"""Making a snapshot exist in a store: what it stands on is there and stays locked, then its manifest is put once.

Owns what a store must have before it gets a manifest, and the answer to "it is there already": a mirror may have copied
it from a store that had it a moment earlier. Never writes a pack, and never decides what the manifest says.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from replicator.core.snapshot import Snapshot
from replicator.errors import AlreadyExists, StoreUnavailable
from replicator.repository.layout import PackId
from replicator.repository.locks import extend_documents, extend_packs
from replicator.repository.objects import read_header
from replicator.seal.keyring import Keyring
from replicator.snapshot.participants import Participants
from replicator.snapshot.presence import missing_packs
from replicator.store.locks import locks
from replicator.store.protocol import Store

#: So many locks are extended within one deadline, and before it is asked whether to stop.
SLICE = 512


def refuse_lacking(store: Store, system_id: int, packs: Collection[PackId]) -> None:
    """Raise StoreUnavailable when the store does not list every pack."""
    lacking = missing_packs(store, system_id, packs)
    if lacking:
        raise StoreUnavailable(
            f"store {store.name} lacks {len(lacking)} of {len(packs)} packs of the snapshot",
            hint="Take a full snapshot with `--full`, or complete the store from another one.",
            store=store.name,
        )


def extend_locks(
    participants: Participants, keyring: Keyring, snapshot: Snapshot, attempt: int, packs: Collection[PackId]
) -> None:
    """In every store that has locks, extend those of the documents and of all `packs` that this attempt did not put.
    A store that can't is left out. Raises Interrupted when asked to stop, and the last store's error.
    """
    if not any(locks(store) for store in participants.active.values()):
        return
    system_id = snapshot.system_id

    def begin(_: str, store: Store) -> None:
        if locks(store):
            refuse_lacking(store, system_id, packs)
            extend_documents(store, keyring, system_id)

    def extend(older: Collection[PackId], _: str, store: Store) -> None:
        extend_packs(store, system_id, older)

    participants.each(begin, what="extending the locks of documents")
    older = sorted(pack for pack in packs if (pack.label, pack.attempt) != (snapshot.label, attempt))
    for at in range(0, len(older), SLICE):
        participants.each(partial(extend, older[at : at + SLICE]), what="extending the locks of earlier packs")


def put_once(store: Store, name: str, path: Path, keyring: Keyring, attempt: int) -> None:
    """Put a manifest; well when this very attempt's is there already. Raises AlreadyExists for another's."""
    try:
        store.put(name, path)
    except AlreadyExists:
        if read_header(store, name, keyring).attempt != attempt:
            raise
