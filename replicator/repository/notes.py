"""Notes: what the repository must remember beside WAL and snapshots (docs/format.md, section 8).

Owns their bodies. A note is put once; the newest per kind and subject counts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.earlier import read_document, read_sound
from replicator.repository.layout import NoteName, note_name, notes_prefix, parse_name
from replicator.seal.digest import fingerprint
from replicator.seal.document import canonical, open_document, sign_as_writer
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

_log = logging.getLogger(__name__)

#: How often notes are listed again while they are replaced.
_MOST_TRIES = 3

GAP = "gap"
CONFLICT = "conflict"
SYSTEM = "system"
RETIRED = "retired"
PIN, UNPIN = "pin", "unpin"
RESTORING = "restoring"
#: The subject of the `retired` note that sums up what went.
GONE = "gone"


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


def system_note(keyring: Keyring, system_id: int, now: datetime) -> tuple[str, bytes]:
    """A note that says: an operator accepted this cluster as the one to follow."""
    return sign_note(keyring, system_id, SYSTEM, str(system_id), {}, now)


def retired_note(
    keyring: Keyring,
    system_id: int,
    subject: str,
    names: Iterable[str],
    ranges: Iterable[LsnRange] | None,
    now: datetime,
) -> tuple[str, bytes]:
    """A note that says: these objects are to go from the store it is put into; with `ranges` (subject GONE), this WAL
    went.
    """
    facts: dict[str, Any] = {"names": sorted(names)}
    if ranges is not None:
        facts["ranges"] = [[part.timeline, str(part.start), str(part.end)] for part in sorted(ranges)]
    return sign_note(keyring, system_id, RETIRED, subject, facts, now)


def pin_note(keyring: Keyring, system_id: int, label: str, *, pinned: bool, now: datetime) -> tuple[str, bytes]:
    """A note that says: this snapshot stays whatever its age, or no longer."""
    return sign_note(keyring, system_id, PIN if pinned else UNPIN, label, {}, now)


def restoring_note(keyring: Keyring, system_id: int, label: str, target: str, now: datetime) -> tuple[str, bytes]:
    """A note that says: this snapshot is being restored."""
    return sign_note(keyring, system_id, RESTORING, label, {"target": target}, now)


def all_notes(store: ReadableStore, system_id: int) -> Iterator[tuple[NoteName, datetime]]:
    """Every note, oldest first by its name, and when it was put by the store's clock."""
    for info in store.list(notes_prefix(system_id)):
        place = parse_name(info.name)
        if isinstance(place, NoteName):
            yield place, info.modified


def retired_ranges(
    store: ReadableStore, system_id: int, newest: Iterable[NoteName], keyring: Keyring
) -> tuple[LsnRange, ...]:
    """The WAL that retention took from a store, as all its notes say together: two prunes at once each put their own.
    `newest` as `list_notes` gives them. A note that is not signed counts for nothing. Raises StoreUnavailable.
    """
    if not any(note.kind == RETIRED and note.subject == GONE for note in newest):
        return ()
    for _ in range(_MOST_TRIES):
        found = [note for note, _ in all_notes(store, system_id) if (note.kind, note.subject) == (RETIRED, GONE)]
        said: list[LsnRange] = []
        try:
            for note in found:
                said += _taken(store, note, keyring)
        except ObjectAbsent:  # a later one has replaced it
            continue
        return Coverage.of((part.timeline, part.start, part.end) for part in said).ranges()
    return ()


def _taken(store: ReadableStore, note: NoteName, keyring: Keyring) -> tuple[LsnRange, ...]:
    try:
        return ranges_of_note(read_note(store, note, keyring))
    except IntegrityError as error:
        _log.warning("store %s: ignored: %s", store.name, error.message)
        return ()


def ranges_of_note(body: Mapping[str, Any]) -> tuple[LsnRange, ...]:
    """The ranges of a `gone` note. Raises IntegrityError."""
    try:
        return tuple(
            LsnRange(int(timeline), Lsn.parse(start), Lsn.parse(stop)) for timeline, start, stop in body["ranges"]
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise IntegrityError("a retired note that makes no sense") from error


def accepted_system(store: ReadableStore, system_ids: Iterable[int], keyring: Keyring) -> tuple[str, int] | None:
    """(time, system id) of the newest note that says which cluster is followed; None without any. One that is not
    signed counts for nothing, whatever its time says. Raises StoreUnavailable.
    """
    found: list[NoteName] = []
    for system_id in system_ids:
        places = (parse_name(info.name) for info in store.list(notes_prefix(system_id)))
        notes = (place for place in places if isinstance(place, NoteName))
        found += [note for note in notes if note.kind == SYSTEM and note.subject == str(system_id)]
    for note in sorted(found, key=lambda note: note.time, reverse=True):
        try:
            read_note(store, note, keyring)
        except (IntegrityError, ObjectAbsent) as error:
            _log.warning("store %s: ignored: %s", store.name, error.message)
            continue
        return note.time, note.system_id
    return None


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
    body = read_sound(store, name, lambda found: open_document(keyring, "note", name, read_document(found, name)))
    if fingerprint(keyring.repository_id, canonical(body)) != note.fingerprint:
        raise IntegrityError(f"{name}: its fingerprint is another's", object=name)
    return body


def gap_of(note: NoteName) -> LsnRange | None:
    """The range a gap note is about, from its name; None for other notes or a subject that does not parse."""
    parts = note.subject.split(".")
    if note.kind != GAP or [len(part) for part in parts] != [8, 16, 16]:
        return None
    return LsnRange(int(parts[0], 16), Lsn.from_hex16(parts[1]), Lsn.from_hex16(parts[2]))
