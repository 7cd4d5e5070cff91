"""Notes: what the repository must remember beside WAL and snapshots (docs/format.md, section 8).

Owns gap and conflict notes. A note is put once; the newest per kind and subject counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError
from replicator.repository.layout import NoteName, note_name, notes_prefix, parse_name
from replicator.seal.digest import fingerprint
from replicator.seal.document import canonical, open_document, sign_as_writer
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

GAP = "gap"
CONFLICT = "conflict"


def sign_note(
    keyring: Keyring, system_id: int, kind: str, subject: str, facts: dict[str, Any], now: datetime
) -> tuple[str, bytes]:
    """(name, content) of a note, ready to be put into every store."""
    time = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    body = {"kind": kind, "subject": subject, "time": time, **facts}
    name = note_name(system_id, time, kind, subject, fingerprint(keyring.repository_id, canonical(body)))
    return name, sign_as_writer(keyring, "note", name, body)


def gap_note(keyring: Keyring, system_id: int, gap: LsnRange, reason: str, now: datetime) -> tuple[str, bytes]:
    """A note that says: the WAL of `gap` is lost."""
    subject = f"{gap.timeline:08X}.{gap.start.hex16}.{gap.end.hex16}"
    facts = {"timeline": gap.timeline, "start_lsn": str(gap.start), "stop_lsn": str(gap.end), "reason": reason}
    return sign_note(keyring, system_id, GAP, subject, facts, now)


def conflict_note(
    keyring: Keyring, system_id: int, segment: str, names: Iterable[str], now: datetime
) -> tuple[str, bytes]:
    """A note that says: these objects disagree about one range of WAL."""
    return sign_note(keyring, system_id, CONFLICT, segment, {"names": sorted(names)}, now)


def list_notes(store: ReadableStore, system_id: int) -> Iterator[NoteName]:
    """The newest note per kind and subject, from names alone."""
    newest: dict[tuple[str, str], NoteName] = {}
    for info in store.list(notes_prefix(system_id)):
        place = parse_name(info.name)
        if isinstance(place, NoteName):
            newest[(place.kind, place.subject)] = place
    yield from newest.values()


def read_note(store: ReadableStore, note: NoteName, keyring: Keyring) -> dict[str, Any]:
    """The verified body of a note. Raises ObjectAbsent, IntegrityError."""
    name = note_name(note.system_id, note.time, note.kind, note.subject, note.fingerprint)
    body = open_document(keyring, "note", name, store.get(name))
    if fingerprint(keyring.repository_id, canonical(body)) != note.fingerprint:
        raise IntegrityError(f"{name}: its fingerprint is another's", object=name)
    return body


def gap_of(note: NoteName) -> LsnRange | None:
    """The range a gap note is about, from its name; None for other notes or a subject that does not parse."""
    parts = note.subject.split(".")
    if note.kind != GAP or [len(part) for part in parts] != [8, 16, 16]:
        return None
    return LsnRange(int(parts[0], 16), Lsn.from_hex16(parts[1]), Lsn.from_hex16(parts[2]))
