"""What earlier verifications left in the repository, and where the next record goes.

Owns reading the newest record over all stores that answer, and putting a new one into each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.errors import AlreadyExists, IntegrityError, ObjectAbsent, ReplicatorError, StoreUnavailable
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.layout import RecordName, record_name
from replicator.repository.records import Record, list_records, read_record
from replicator.repository.repository import Repository

_log = logging.getLogger(__name__)


def last_record(repository: Repository, stores: Iterable[str], kind: str) -> Record | None:
    """The newest record of a kind that verifies, from any of these stores. A store that fails is left out."""
    found: dict[RecordName, list[str]] = {}
    for name in stores:
        store = repository.store(name)
        try:
            for system_id in system_ids(store):
                for record in list_records(store, system_id):
                    if record.kind == kind:
                        found.setdefault(record, []).append(name)
        except StoreUnavailable as error:
            _log.debug("store %s: no records from there: %s", name, error.message)
    for record in sorted(found, key=lambda record: record.time, reverse=True):
        for name in found[record]:
            try:
                return read_record(repository.store(name), record, repository.keyring)
            except (IntegrityError, ObjectAbsent, StoreUnavailable) as error:
                _log.warning("store %s: ignored: %s", name, error.message)
    return None


def current_system(repository: Repository) -> int | None:
    """The system id of the newest snapshot in any store that answers; without one the last that is listed."""
    newest: tuple[str, int] | None = None
    for name, store in repository.stores.items():
        try:
            for system_id in system_ids(store):
                snapshots = list_snapshots(store, system_id)
                found = (snapshots[-1].label if snapshots else "", system_id)
                newest = max(newest, found) if newest is not None else found
        except StoreUnavailable as error:
            _log.debug("store %s: %s", name, error.message)
    return newest[1] if newest is not None else None


def keep_record(repository: Repository, name: RecordName, data: bytes) -> Mapping[str, ReplicatorError]:
    """Put a record into every store; the stores that did not take it, and why."""
    failed: dict[str, ReplicatorError] = {}
    for store_name, store in repository.stores.items():
        try:
            store.put(record_name(name), data)
        except AlreadyExists:  # its name holds its fingerprint: it is the same
            continue
        except StoreUnavailable as error:
            failed[store_name] = error
    return failed


def not_kept(store: str, error: ReplicatorError) -> Finding:
    """The remark that a store lacks the record."""
    return Finding(
        code_of(error.type), f"the record could not be put into store {store}: {error.message}", error.hint, store=store
    )
