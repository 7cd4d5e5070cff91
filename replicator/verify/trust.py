"""Whose signatures count, whatever single store lost or damaged the document that says so.

Owns joining what the root signed in all stores: a damaged writer's document in one store must not make all that the
writer signed look damaged. What was removed in any store is removed.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from replicator.errors import KeysError, NotFound, ReplicatorError, StoreUnavailable, VerificationFailed
from replicator.repository.keys import load_keyring
from replicator.repository.removals import key_subject, writer_subject
from replicator.repository.repository import Repository, StoreDocuments
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SIGNING, key_text

_log = logging.getLogger(__name__)


def trusted_by_all(repository: Repository) -> Repository:
    """The repository, its keyring with every key and writer that the root signed in any of its stores."""
    keyring = repository.keyring
    root = key_text(SIGNING, keyring.root)
    for name, store in repository.stores.items():
        try:
            found, _ = load_keyring(StoreDocuments(store), repository.cluster, root)
        except (NotFound, StoreUnavailable, VerificationFailed, KeysError) as error:
            _tell(name, error)
            continue
        if found.repository_id == keyring.repository_id:
            keyring = _joined(keyring, found)
    return replace(repository, keyring=keyring)


def _tell(store: str, error: ReplicatorError) -> None:
    """The look at the store's objects makes it a finding."""
    _log.debug("store %s: no keys from there: %s", store, error.message)


def _joined(one: Keyring, other: Keyring) -> Keyring:
    removed = one.removed | other.removed
    public = {**other.public, **one.public}
    writers = {**other.writers, **one.writers}
    return replace(
        one,
        removed=removed,
        public={key_id: key for key_id, key in public.items() if key_subject(key_id) not in removed},
        writers={writer: key for writer, key in writers.items() if writer_subject(writer) not in removed},
    )
