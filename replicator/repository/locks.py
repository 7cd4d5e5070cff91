"""Extending the locks of what a new snapshot stands on, in a store that has Object Lock.

Owns how they are extended, and which documents those are without which nothing opens. Never decides which packs, nor
how many at once: a snapshot's own were locked when they were put.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

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


def extend_packs(store: ReadableStore, system_id: int, packs: Collection[PackId]) -> int:
    """Lock packs for the whole lock time from now; how many. Does nothing where the store has no lock. Raises
    ObjectAbsent, StoreDenied, StoreUnavailable.
    """
    return _extend(store, [pack_name(system_id, pack) for pack in packs], extend_lock) if locks(store) else 0


def extend_documents(store: ReadableStore, keyring: Keyring, system_id: int) -> int:
    """The same for the documents. Raises StoreDenied, StoreUnavailable."""
    return _extend(store, list(_documents(store, keyring, system_id)), _extend_if_there) if locks(store) else 0


def _extend(store: ReadableStore, names: Sequence[str], extend: Callable[[ReadableStore, str], None]) -> int:
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="locks") as pool:
        return sum(1 for _ in pool.map(partial(extend, store), names))


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
