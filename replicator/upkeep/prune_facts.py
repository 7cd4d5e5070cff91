"""What a store says that bears on retention: its snapshots, who uses them, and what was let go of before.

Owns what is believed of it: signed tables and documents count, names alone only ever keep something. Reads, never puts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Any

from replicator.core.moment import from_microseconds
from replicator.core.retention import Taken
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, ObjectAbsent
from replicator.repository.catalog import list_snapshots
from replicator.repository.earlier import read_document
from replicator.repository.layout import (
    BeginName,
    NoteName,
    manifest_name,
    note_name,
    packs_prefix,
    parse_name,
)
from replicator.repository.manifests import ManifestSummary, read_summary
from replicator.repository.notes import GONE, RESTORING, RETIRED, all_notes, ranges_of_note, read_note
from replicator.seal.document import open_document
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore
from replicator.upkeep.prune_ends import read_ends, read_histories
from replicator.upkeep.prune_model import WAIT, Facts, Going

_WORKERS = 8


def read_facts(store: ReadableStore, keyring: Keyring, system_id: int, now: datetime, pinned: Collection[str]) -> Facts:
    """Read them, what is put first before what is put last: a label that is begun meanwhile is not known.

    Raises StoreUnavailable.
    """
    facts = Facts(store, keyring, system_id, now)
    restoring = _notes(facts)
    noted = frozenset(name for note in facts.going for name in note.names)
    newest = _labels(facts, noted)
    snapshots = list_snapshots(store, system_id)
    have = {snapshot.label for snapshot in snapshots}
    parents = _living(facts, newest, have)
    _hold(facts, parents, restoring, have)
    for snapshot, summary in _summaries(facts, snapshots):
        if summary is None:
            facts.unreadable.append(snapshot)
            facts.hold_packs.append(f"the manifest of {snapshot.label} can not be read, and what it needs is not known")
            continue
        stopped = from_microseconds(summary.stop_us)
        facts.taken.append(
            Taken(
                snapshot,
                stopped,
                damaged=summary.damaged,
                pinned=snapshot.label in pinned,
                in_use=snapshot.label in parents or snapshot.label in restoring,
            )
        )
    read_histories(facts)
    read_ends(facts, noted)
    return facts


def _notes(facts: Facts) -> set[str]:
    """What was let go of before; the labels that are being restored."""
    restoring: set[str] = set()
    for note, put in all_notes(facts.store, facts.system_id):
        name = note_name(note.system_id, note.time, note.kind, note.subject, note.fingerprint)
        if note.kind == RESTORING:
            if facts.now - put >= 2 * WAIT:
                facts.outdated.append(name)
            elif facts.now - put < WAIT and _body(facts, note, name) is not None:
                restoring.add(note.subject)
        elif note.kind == RETIRED:
            _retired(facts, note, name, put)
    return restoring


def _retired(facts: Facts, note: NoteName, name: str, put: datetime) -> None:
    body = _body(facts, note, name)
    if body is None:
        return
    names = tuple(str(known) for known in body.get("names", ()))
    if note.subject != GONE:
        facts.going.append(Going(name, put, names))
        return
    facts.gone_notes.append(name)
    facts.gone_names.update(names)
    facts.gone_ranges += ranges_of_note(body)


def _body(facts: Facts, note: NoteName, name: str) -> Mapping[str, Any] | None:
    """None for a note that is gone again, or that is not signed: it counts for nothing, and is told."""
    try:
        return read_note(facts.store, note, facts.keyring)
    except ObjectAbsent:
        return None
    except IntegrityError as error:
        facts.damaged(name, error, None)
        return None


def _labels(facts: Facts, noted: Collection[str]) -> dict[str, datetime]:
    """When the newest object was put under each label that has packs or marks."""
    newest: dict[str, datetime] = {}
    for info in facts.store.list(packs_prefix(facts.system_id)):
        place = parse_name(info.name)
        if place is None:
            continue
        label = info.name.split("/")[2]
        facts.labels.add(label)
        newest[label] = max(info.modified, newest.get(label, info.modified))
        if isinstance(place, BeginName):
            facts.marks.setdefault(label, []).append(info.name)
        elif info.name in noted:
            facts.sizes[info.name] = info.size
    return newest


def _living(facts: Facts, newest: Mapping[str, datetime], have: Collection[str]) -> dict[str, str]:
    """Note which labels are being put; the parents that their marks name, by parent. One whose manifest was removed was
    taken to its end.
    """
    parents: dict[str, str] = {}
    ended = {name.split("/")[2] for name in facts.gone_names if name.count("/") > 2}
    for label, put in newest.items():
        if label in have or label in ended or facts.now - put >= WAIT:
            continue
        facts.living.add(label)
        marks = facts.marks.get(label, [])
        if not marks:
            facts.hold_packs.append(f"packs of {label} are being copied here")
        for name in marks:
            body = _begun(facts, name, label)
            if body.get("parent") is not None:
                parents[str(body["parent"])] = label
            # What it goes on from is put under other labels, and named by no manifest yet.
            facts.living.update(str(other) for other in body.get("continues", ()))
    return parents


def _begun(facts: Facts, name: str, label: str) -> Mapping[str, Any]:
    """What a mark says; nothing where it can't be believed."""
    try:
        return open_document(facts.keyring, "begin", name, read_document(facts.store, name))
    except ObjectAbsent:
        return {}
    except IntegrityError as error:
        facts.damaged(name, error, None)
        facts.hold_packs.append(f"the mark of {label} can not be read, and what it refers to is not known")
        return {}


def _hold(facts: Facts, parents: Mapping[str, str], restoring: Iterable[str], have: Collection[str]) -> None:
    """Who uses what has gone already keeps everything: nobody knows any more what it needs."""
    for parent, label in parents.items():
        if parent not in have:
            facts.hold_packs.append(f"snapshot {label} is being taken and refers to {parent}, which has gone")
    for label in restoring:
        if label not in have:
            facts.hold_all.append(f"snapshot {label}, which has gone, is being restored")


def _summaries(facts: Facts, snapshots: Iterable[Snapshot]) -> Iterator[tuple[Snapshot, ManifestSummary | None]]:
    """Each snapshot with what its signed table says; None where it can't be believed. Those gone are left out."""
    for snapshot, found in summaries(facts.store, facts.keyring, snapshots):
        if isinstance(found, IntegrityError):
            facts.damaged(manifest_name(snapshot), found, snapshot.label)
            yield snapshot, None
        elif found is not None:
            yield snapshot, found


def summaries(
    store: ReadableStore, keyring: Keyring, snapshots: Iterable[Snapshot]
) -> Iterator[tuple[Snapshot, ManifestSummary | IntegrityError | None]]:
    """What each manifest's signed table says, a few at a time; None for one that is not there."""

    def read(snapshot: Snapshot) -> ManifestSummary | IntegrityError | None:
        try:
            return read_summary(store, snapshot, keyring)
        except IntegrityError as error:
            return error
        except ObjectAbsent:
            return None

    rest = iter(snapshots)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="manifests") as pool:
        while batch := list(islice(rest, _WORKERS)):
            yield from zip(batch, pool.map(read, batch), strict=True)


__all__ = ["read_facts", "summaries"]
