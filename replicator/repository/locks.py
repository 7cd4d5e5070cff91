"""Extending the locks of what a new snapshot stands on, in a store that has Object Lock.

Owns which objects those are: the packs of earlier snapshots that it refers to, and the documents without which nothing
opens. What the snapshot put itself was locked when it was put.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from replicator.errors import ObjectAbsent
from replicator.repository.layout import (
    KEYS,
    ROOT,
    WRITERS,
    PackId,
    history_prefix,
    pack_name,
    parse_key_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.repository.removals import REMOVED, key_subject, recipient_subject, writer_subject
from replicator.seal.keyring import Keyring
from replicator.store.locks import extend_lock, locks
from replicator.store.protocol import ReadableStore

#: As many as a store takes at once.
_WORKERS = 8
_BATCH = 1024


def extend_locks(
    store: ReadableStore, keyring: Keyring, system_id: int, packs: Iterable[PackId], *, new: tuple[str, int]
) -> int:
    """Lock the documents and every pack but the `new` ones (label, attempt) for the whole lock time from now; how many
    objects. Does nothing where the store has no lock. Raises ObjectAbsent, StoreDenied, StoreUnavailable.
    """
    if not locks(store):
        return 0
    names = (pack_name(system_id, pack) for pack in packs if (pack.label, pack.attempt) != new)
    documents = list(_documents(store, keyring, system_id))
    count = 0
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="locks") as pool:
        while batch := list(islice(names, _BATCH)):
            count += sum(1 for _ in pool.map(lambda name: extend_lock(store, name), batch))
        count += sum(1 for _ in pool.map(lambda name: _extend_if_there(store, name), documents))
    return count


def _extend_if_there(store: ReadableStore, name: str) -> None:
    """A document that was removed since it was listed needs no lock."""
    with suppress(ObjectAbsent):
        extend_lock(store, name)


def _documents(store: ReadableStore, keyring: Keyring, system_id: int) -> Iterator[str]:
    """The names of the documents in use. One whose removal the root signed is let go."""
    yield ROOT
    for prefix in (KEYS, WRITERS, REMOVED, history_prefix(system_id)):
        yield from (info.name for info in store.list(prefix) if not _removed(keyring, info.name))


def _removed(keyring: Keyring, name: str) -> bool:
    key, writer, wrapped = parse_key_name(name), parse_writer_name(name), parse_recipient_name(name)
    subjects = [key_subject(key)] if key is not None else []
    subjects += [writer_subject(writer)] if writer is not None else []
    subjects += [key_subject(wrapped[0]), recipient_subject(wrapped[1])] if wrapped is not None else []
    return any(subject in keyring.removed for subject in subjects)
