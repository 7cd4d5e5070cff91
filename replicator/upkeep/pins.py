"""Which snapshots are pinned, by the notes of all stores: one that missed a note keeps its snapshot, too.

Owns that a note which can't be believed only ever pins. Reads, never puts.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.core.finding import Finding
from replicator.errors import IntegrityError, ObjectAbsent
from replicator.repository.catalog import system_ids
from replicator.repository.layout import NoteName, note_name
from replicator.repository.notes import PIN, UNPIN, all_notes, read_note
from replicator.repository.repository import Repository
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore


def pins_of(store: ReadableStore, keyring: Keyring, findings: list[Finding]) -> dict[str, tuple[str, bool]]:
    """By label, the time and the meaning of the newest note about it in one store. Raises StoreUnavailable."""
    found: dict[str, tuple[str, bool]] = {}
    for system_id in system_ids(store):
        for note, _ in all_notes(store, system_id):
            if note.kind in (PIN, UNPIN) and _counts(store, keyring, note, findings):
                place = (note.time, note.kind == PIN)
                found[note.subject] = max(place, found.get(note.subject, place))
    return found


def pinned_of(newest: Mapping[str, tuple[str, bool]]) -> frozenset[str]:
    """The labels that are pinned."""
    return frozenset(label for label, (_, pinned) in newest.items() if pinned)


def pinned_labels(repository: Repository) -> frozenset[str]:
    """The labels that are pinned in any store. Raises StoreUnavailable when one does not answer."""
    newest: dict[str, tuple[str, bool]] = {}
    for store in repository.stores.values():
        for label, found in pins_of(store, repository.keyring, []).items():
            newest[label] = max(found, newest.get(label, found))
    return pinned_of(newest)


def _counts(store: ReadableStore, keyring: Keyring, note: NoteName, findings: list[Finding]) -> bool:
    try:
        read_note(store, note, keyring)
    except ObjectAbsent:
        return False
    except IntegrityError as error:
        name = note_name(note.system_id, note.time, note.kind, note.subject, note.fingerprint)
        findings.append(
            Finding("object_damaged", f"store {store.name}: {error.message}", object=name, store=store.name)
        )
        return note.kind == PIN
    return True
