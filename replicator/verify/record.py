"""The records of a repository over all its stores, as `record list` and `record show` show them. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replicator.core.moment import rfc3339
from replicator.errors import IntegrityError, NotFound, ObjectAbsent, StoreUnavailable
from replicator.repository.catalog import system_ids
from replicator.repository.layout import RecordName
from replicator.repository.records import Record, list_records, read_record
from replicator.repository.repository import Repository


@dataclass(frozen=True)
class Kept:
    """A record and the stores that hold it. `error`: why it can't be believed, in any of them."""

    name: RecordName
    stores: tuple[str, ...]
    record: Record | None
    error: IntegrityError | None = None

    def as_row(self) -> dict[str, Any]:
        """One row of `record list --json`."""
        body: Mapping[str, Any] = self.record.body if self.record is not None else {}
        return {
            "id": self.name.id,
            "time": rfc3339(self.record.time) if self.record is not None else None,
            "kind": self.name.kind,
            "ok": self.record.ok if self.record is not None else False,
            "checked": body.get("checked"),
            "elapsed_s": body.get("elapsed_s"),
            "findings": body.get("findings_total"),
            "proven": sorted(self.record.proven) if self.record is not None else [],
            "stores": list(self.stores),
        }

    def as_json(self) -> dict[str, Any]:
        """`record show --json`: all that the record says."""
        body = dict(self.record.body) if self.record is not None else {}
        return {**body, **self.as_row(), "findings": body.get("findings", []), "looked_at": body.get("stores", [])}


@dataclass(frozen=True)
class Listing:
    """All records, oldest first, and the stores that did not answer."""

    records: tuple[Kept, ...]
    silent: Mapping[str, StoreUnavailable]


def list_kept(repository: Repository) -> Listing:
    """Every record of every store. Raises StoreUnavailable when none answers."""
    names, silent = _names(repository)
    return Listing(tuple(_kept(repository, name, names[name]) for name in sorted(names, key=_by_time)), silent)


def find_kept(repository: Repository, record_id: str | None) -> Kept:
    """The record of that id, or of the only one that begins so; without an id the newest.

    Raises NotFound, StoreUnavailable when that may be for a silent store's sake.
    """
    names, silent = _names(repository)
    chosen = [name for name in sorted(names, key=_by_time) if record_id is None or name.id.startswith(record_id)]
    if not chosen or (record_id is not None and len(chosen) > 1):
        if silent and not chosen:
            raise next(iter(silent.values()))
        what = "no record" if record_id is None else f"{len(chosen) or 'no'} records begin with {record_id!r}"
        raise NotFound(
            f"{repository.cluster} has {what}" if record_id is None else f"{what} in {repository.cluster}'s stores",
            hint=f"See `replicator record list {repository.cluster}`.",
        )
    return _kept(repository, chosen[-1], names[chosen[-1]])


def _by_time(name: RecordName) -> tuple[str, str]:
    return name.time, name.id


def _names(repository: Repository) -> tuple[dict[RecordName, tuple[str, ...]], dict[str, StoreUnavailable]]:
    found: dict[RecordName, tuple[str, ...]] = {}
    silent: dict[str, StoreUnavailable] = {}
    for store_name, store in repository.stores.items():
        try:
            for system_id in system_ids(store):
                for name in list_records(store, system_id):
                    found[name] = (*found.get(name, ()), store_name)
        except StoreUnavailable as error:
            silent[store_name] = error
    if silent and len(silent) == len(repository.stores):
        raise next(iter(silent.values()))
    return found, silent


def _kept(repository: Repository, name: RecordName, stores: tuple[str, ...]) -> Kept:
    wrong: IntegrityError | None = None
    for store in stores:
        try:
            return Kept(name, stores, read_record(repository.store(store), name, repository.keyring))
        except IntegrityError as error:
            wrong = error
        except (ObjectAbsent, StoreUnavailable):
            continue
    return Kept(name, stores, None, wrong)
