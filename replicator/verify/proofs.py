"""Since when a repository is proven, by kind, from the records of all stores that answer. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from replicator.core.lsn import Lsn
from replicator.errors import StoreUnavailable, UsageError
from replicator.repository.catalog import system_ids
from replicator.repository.records import KINDS, Record, RecordReader, proven_since
from replicator.repository.repository import Repository
from replicator.verify.history import current_system


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest proof of one kind for one store. `lsn` and `timeline`: where a restore came to; None for a proof that
    reads all.
    """

    kind: str
    store: str
    moment: datetime
    lsn: Lsn | None = None
    timeline: int | None = None


def read_proofs(repository: Repository, now: datetime) -> Mapping[str, datetime | None]:
    """By kind; None while there is no proof. A store that does not answer tells nothing."""
    records = _records(repository, now)
    current = current_system(repository)
    return {kind: proven_since(records, kind, tuple(repository.stores), current) for kind in KINDS}


def read_marks(repository: Repository, now: datetime) -> tuple[Mark, ...]:
    """Of each kind and store the newest proof, of the present cluster alone. A store that does not answer tells
    nothing.
    """
    current = current_system(repository)
    newest: dict[tuple[str, str], Mark] = {}
    for record in _records(repository, now):
        if record.name.system_id == current:
            for store, moment in record.proven.items():
                mark = Mark(record.kind, store, moment, *_reached(record))
                held = newest.setdefault((record.kind, store), mark)
                newest[record.kind, store] = max(held, mark, key=lambda mark: mark.moment)
    return tuple(newest[key] for key in sorted(newest))


def _records(repository: Repository, now: datetime) -> list[Record]:
    records: list[Record] = []
    for store in repository.stores.values():
        try:
            reader = RecordReader(store, repository.keyring)
            records += reader.newest(system_ids(store), tuple(repository.stores), now)
        except StoreUnavailable:  # what it holds the others hold, too
            continue
    return records


def _reached(record: Record) -> tuple[Lsn | None, int | None]:
    """Where a restore came to, as its record says; (None, None) when it says nothing that makes sense."""
    lsn, timelines = record.facts.get("reached_lsn", record.facts.get("lsn")), record.facts.get("timelines")
    try:
        place = Lsn.parse(lsn) if isinstance(lsn, str) else None
    except UsageError:
        place = None
    last = timelines[-1] if isinstance(timelines, list) and timelines else None
    return (place, last if isinstance(last, int) else None) if place is not None else (None, None)
