"""Since when a repository is proven, by kind, from the records of all stores that answer. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from replicator.errors import StoreUnavailable
from replicator.repository.catalog import system_ids
from replicator.repository.records import KINDS, Record, RecordReader, proven_since
from replicator.repository.repository import Repository
from replicator.verify.history import current_system


def read_proofs(repository: Repository, now: datetime) -> Mapping[str, datetime | None]:
    """By kind; None while there is no proof. A store that does not answer tells nothing."""
    records: list[Record] = []
    for store in repository.stores.values():
        try:
            reader = RecordReader(store, repository.keyring)
            records += reader.newest(system_ids(store), tuple(repository.stores), now)
        except StoreUnavailable:  # what it holds the others hold, too
            continue
    current = current_system(repository)
    return {kind: proven_since(records, kind, tuple(repository.stores), current) for kind in KINDS}
