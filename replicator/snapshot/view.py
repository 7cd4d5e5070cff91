"""The snapshots that exist, as `snapshot list` and `snapshot show` tell them. Reads stores; needs no private key.

Everything comes from names and signed tables; the facts of a manifest are added where this host can open it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.core.moment import rfc3339_of
from replicator.core.snapshot import Snapshot
from replicator.errors import ObjectAbsent, SnapshotNotFound, StoreUnavailable
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.known import KnownReader
from replicator.repository.layout import manifest_name, pack_name
from replicator.repository.manifests import ManifestReader, ManifestSummary, read_summary
from replicator.repository.notes import list_notes
from replicator.repository.repository import Repository
from replicator.snapshot.presence import missing_packs
from replicator.snapshot.row import SnapshotRow


@dataclass(frozen=True)
class Listing:
    """The rows of the stores that answered, oldest first, and why the others are silent."""

    rows: tuple[SnapshotRow, ...]
    silent: Mapping[str, StoreUnavailable]


@dataclass(frozen=True)
class _Held:
    """What the stores that answered hold: each snapshot's stores, and the times of pins and unpins by label."""

    snapshots: Mapping[Snapshot, tuple[str, ...]]
    pinned: frozenset[str]
    silent: Mapping[str, StoreUnavailable]


def list_rows(repository: Repository) -> Listing:
    """Every snapshot of every store of `repository`.

    Raises StoreUnavailable when no store answers, IntegrityError when a manifest's table is not as it was signed.
    """
    held = _look(repository)
    rows: list[SnapshotRow] = []
    known = _known(repository, held)
    for snapshot, stores in sorted(held.snapshots.items()):
        summary = known.get(snapshot)
        try:
            summary = summary or read_summary(repository.store(stores[0]), snapshot, repository.keyring)
        except ObjectAbsent:  # removed since it was listed
            continue
        rows.append(_row(snapshot, summary, stores, held.pinned))
    return Listing(tuple(rows), held.silent)


def show(repository: Repository, label: str) -> dict[str, Any]:
    """One snapshot: its row, its facts and packs, and what each store has of it, ready for JSON.

    Raises SnapshotNotFound when every store answered and none has it, StoreUnavailable when that can't be known.
    """
    held = _look(repository)
    snapshot = max((found for found in held.snapshots if found.label == label), default=None)
    if snapshot is None:
        if held.silent:
            raise next(iter(held.silent.values()))
        raise SnapshotNotFound(
            f"{repository.cluster} has no snapshot {label}",
            hint=f"List them with `replicator snapshot list {repository.cluster}`.",
        )
    stores = held.snapshots[snapshot]
    store = repository.store(stores[0])
    summary = read_summary(store, snapshot, repository.keyring)
    return {
        **_row(snapshot, summary, stores, held.pinned).as_json(),
        "system_id": str(snapshot.system_id),
        "start_time": rfc3339_of(summary.start_us),
        "files": summary.files,
        "packs": [pack_name(snapshot.system_id, pack) for pack in summary.packs],
        "presence": _presence(repository, snapshot, summary, held),
        "facts": _facts(repository, snapshot, stores[0]),
    }


def _look(repository: Repository) -> _Held:
    snapshots: dict[Snapshot, tuple[str, ...]] = {}
    silent: dict[str, StoreUnavailable] = {}
    moments: dict[str, dict[str, str]] = {"pin": {}, "unpin": {}}
    for name, store in repository.stores.items():
        try:
            for system_id in system_ids(store):
                for snapshot in list_snapshots(store, system_id):
                    snapshots[snapshot] = (*snapshots.get(snapshot, ()), name)
                for note in list_notes(store, system_id):
                    if note.kind in moments:
                        of_kind = moments[note.kind]
                        of_kind[note.subject] = max(note.time, of_kind.get(note.subject, ""))
        except StoreUnavailable as error:
            silent[name] = error
    if silent and len(silent) == len(repository.stores):
        raise next(iter(silent.values()))
    return _Held(snapshots, _pinned(moments["pin"], moments["unpin"]), silent)


def _known(repository: Repository, held: _Held) -> dict[Snapshot, ManifestSummary]:
    """What summaries tell of manifests, whose tables then need not be read; a manifest says the same in every store."""
    found: dict[Snapshot, ManifestSummary] = {}
    for system_id in sorted({snapshot.system_id for snapshot in held.snapshots}):
        for name in {stores[0]: None for snapshot, stores in held.snapshots.items() if snapshot.system_id == system_id}:
            try:
                found |= KnownReader(repository.store(name), repository.keyring).summaries(system_id)
            except StoreUnavailable:  # who needs one of its tables will say so
                continue
    return found


def _pinned(pins: Mapping[str, str], unpins: Mapping[str, str]) -> frozenset[str]:
    return frozenset(label for label, time in pins.items() if time > unpins.get(label, ""))


def _row(snapshot: Snapshot, summary: ManifestSummary, stores: Iterable[str], pinned: frozenset[str]) -> SnapshotRow:
    return SnapshotRow(
        snapshot, summary.stop_us, summary.parent, summary.bytes, summary.added_bytes, snapshot.label in pinned,
        tuple(stores), summary.damaged,
    )  # fmt: skip


def _presence(
    repository: Repository, snapshot: Snapshot, summary: ManifestSummary, held: _Held
) -> dict[str, dict[str, Any] | None]:
    """By store: whether it has the manifest, and how many packs it lacks; None for one that doesn't answer."""
    found: dict[str, dict[str, Any] | None] = {}
    for name, store in repository.stores.items():
        if name in held.silent:
            found[name] = None
            continue
        lacking = missing_packs(store, snapshot.system_id, summary.packs)
        found[name] = {"manifest": name in held.snapshots[snapshot], "missing_packs": len(lacking)}
    return found


def _facts(repository: Repository, snapshot: Snapshot, store: str) -> dict[str, Any] | None:
    """The clear facts of the manifest, without its comparison key; None where this host can't open it."""
    if not repository.keyring.can_open:
        return None
    facts = ManifestReader(repository.store(store), snapshot, repository.keyring).facts
    return {
        "manifest": manifest_name(snapshot),
        "server_version": facts.server_version,
        "wal_segment_size": facts.wal_segment_size,
        "checksums": facts.checksums,
        "block_page": facts.block_page,
        "settings": dict(facts.settings),
        "tablespaces": list(facts.tablespaces),
        "findings": list(facts.findings),
    }
