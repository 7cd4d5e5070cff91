"""`snapshot pin`, `unpin` and `remove`: what an operator decides about one snapshot.

Owns when a snapshot may be removed by hand. Its manifest goes at once, as a prune would do it; packs and WAL that
nothing else needs go with the next prunes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from replicator.core.moment import rfc3339
from replicator.core.snapshot import Snapshot
from replicator.errors import (
    AlreadyExists,
    Conflict,
    IntegrityError,
    ReplicatorError,
    SnapshotNotFound,
    StoreUnavailable,
)
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.layout import manifest_name
from replicator.repository.notes import GONE, pin_note, retired_note
from replicator.repository.repository import Repository
from replicator.store.locks import free
from replicator.store.protocol import Store
from replicator.upkeep.pins import pinned_labels
from replicator.upkeep.prune import PruneJob, alone, store_now
from replicator.upkeep.prune_facts import read_facts, summaries
from replicator.upkeep.prune_model import Facts


@dataclass(frozen=True)
class Changed:
    """What became of a snapshot: the stores in which it was done, the end of the lock in those that keep it still, and
    those that failed.
    """

    label: str
    stores: tuple[str, ...]
    locked: Mapping[str, datetime]
    silent: Mapping[str, ReplicatorError]

    @property
    def exit_code(self) -> int:
        """6 when a store did not answer or refused."""
        return 6 if self.silent else 0

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "label": self.label,
            "stores": list(self.stores),
            "locked": {name: rfc3339(until) for name, until in self.locked.items()},
            "silent": {name: error.as_json() for name, error in self.silent.items()},
        }


def pin(repository: Repository, label: str, *, pinned: bool, now: datetime) -> Changed:
    """Note in every store that a snapshot is kept whatever its age, or no longer.

    Raises SnapshotNotFound when every store answered and none has it; StoreUnavailable when that can't be known.
    """
    held, silent = _find(repository, label)
    done: list[str] = []
    notes = [pin_note(repository.keyring, system, label, pinned=pinned, now=now)
             for system in sorted({snapshot.system_id for found in held.values() for snapshot in found})]  # fmt: skip
    for name, store in repository.stores.items():
        if name in silent:
            continue
        try:
            for note, body in notes:
                _put(store, note, body)
            done.append(name)
        except StoreUnavailable as error:
            silent[name] = error
    return Changed(label, tuple(done), {}, silent)


def _put(store: Store, name: str, body: bytes) -> None:
    try:
        store.put(name, body)
    except AlreadyExists:  # the same name says the same
        return


def _find(repository: Repository, label: str) -> tuple[dict[str, list[Snapshot]], dict[str, ReplicatorError]]:
    """By store, the manifests of a label. Raises SnapshotNotFound, StoreUnavailable."""
    held: dict[str, list[Snapshot]] = {}
    silent: dict[str, ReplicatorError] = {}
    for name, store in repository.stores.items():
        try:
            found = [one for system in system_ids(store) for one in list_snapshots(store, system) if one.label == label]
        except StoreUnavailable as error:
            silent[name] = error
            continue
        if found:
            held[name] = found
    if not held:
        if silent:
            raise next(iter(silent.values()))
        raise SnapshotNotFound(
            f"{repository.cluster} has no snapshot {label}",
            hint=f"List them with `replicator snapshot list {repository.cluster}`.",
        )
    return held, silent


def remove(job: PruneJob, label: str, steps: Callable[[str], None] = lambda _: None) -> Changed:
    """Remove a snapshot from every store.

    Raises SnapshotNotFound, Conflict when it is a store's last good one, pinned or in use, StoreUnavailable.
    """
    repository = job.repository
    with alone(job.state_directory, repository.cluster):
        held, silent = _find(repository, label)
        if label in pinned_labels(repository.only(tuple(name for name in repository.stores if name not in silent))):
            raise Conflict(
                f"snapshot {label} is pinned", hint=f"Run `replicator snapshot unpin {repository.cluster} {label}`."
            )
        facts: dict[str, list[Facts]] = {}
        for name in held:
            _refuse_last(repository, name, label)
            try:
                facts[name] = _facts(job, repository.stores[name], held[name])
            except StoreUnavailable as error:
                silent[name] = error
        done: list[str] = []
        locked: dict[str, datetime] = {}
        for name, known in facts.items():
            try:
                until = _remove(job, repository.stores[name], known, held[name], steps)
            except StoreUnavailable as error:
                silent[name] = error
                continue
            if until is not None:
                locked[name] = until
            else:
                done.append(name)
        return Changed(label, tuple(done), locked, silent)


def _refuse_last(repository: Repository, name: str, label: str) -> None:
    store = repository.stores[name]
    snapshots = [one for system in system_ids(store) for one in list_snapshots(store, system)]
    good = [
        snapshot.label
        for snapshot, found in summaries(store, repository.keyring, snapshots)
        if found is not None and not isinstance(found, IntegrityError) and not found.damaged
    ]
    if set(good) == {label}:
        raise Conflict(
            f"snapshot {label} is the last good one of store {name}",
            hint="Take another one first; nothing could be restored from that store without it.",
            store=name,
        )


def _facts(job: PruneJob, store: Store, found: list[Snapshot]) -> list[Facts]:
    """What is known of the systems of a label's manifests. Raises Conflict when it is in use."""
    now = store_now(store)
    facts = [read_facts(store, job.repository.keyring, snapshot.system_id, now, ()) for snapshot in found]
    for one in facts:
        _refuse_used(one, found[0].label)
    return facts


def _remove(
    job: PruneJob, store: Store, known: list[Facts], found: list[Snapshot], steps: Callable[[str], None]
) -> datetime | None:
    """The note first, then the manifest. The end of the lock that keeps it."""
    until = None
    for facts, snapshot in zip(known, found, strict=True):
        name = manifest_name(snapshot)
        names = {*facts.gone_names, name}
        note, body = retired_note(facts.keyring, snapshot.system_id, GONE, names, facts.gone_ranges, job.clock.now())
        steps("put note")
        _put(store, note, body)
        steps("delete manifest")
        until = free(store, name) or until
        for earlier in facts.gone_notes:
            free(store, earlier)
    return until


def _refuse_used(facts: Facts, label: str) -> None:
    if any(one.label == label and one.in_use for one in facts.taken):
        raise Conflict(
            f"snapshot {label} is in use: it is being restored, or another one that refers to it is being taken",
            hint="Wait until that has ended; a restore counts for a day after it began.",
            store=facts.store.name,
        )


__all__ = ["Changed", "pin", "remove"]
