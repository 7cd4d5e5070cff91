"""Object names: built and read here, in keynames and in rangenames alone (docs/format.md, section 2). Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.repository.keynames import KEYS as KEYS
from replicator.repository.keynames import WRITERS as WRITERS
from replicator.repository.keynames import key_name as key_name
from replicator.repository.keynames import parse_key_name as parse_key_name
from replicator.repository.keynames import parse_recipient_name as parse_recipient_name
from replicator.repository.keynames import parse_writer_name as parse_writer_name
from replicator.repository.keynames import recipient_name as recipient_name
from replicator.repository.keynames import writer_name as writer_name
from replicator.repository.rangenames import RangeName as RangeName
from replicator.repository.rangenames import RangesName as RangesName
from replicator.repository.rangenames import SummaryName as SummaryName
from replicator.repository.rangenames import parse_range_name
from replicator.repository.rangenames import range_name as range_name
from replicator.repository.rangenames import ranges_prefix as ranges_prefix
from replicator.repository.rangenames import summary_name as summary_name

ROOT = "replicator.json"
#: What `check` puts and removes to see what a store honours; readers of a repository look at no such name.
PROBE = "probe/"

_T, _L, _S, _F = r"([0-9A-F]{8})", r"([0-9A-F]{16})", r"([0-9A-F]{24})", r"([0-9a-f]{16})"
_LABEL = r"(\d{8}T\d{6}Z)"
_SYSTEM = r"([1-9]\d{0,19})"


class WalName(NamedTuple):
    """A complete segment; `segment` is the 24-digit name (its size comes from the header or the server)."""

    system_id: int
    timeline: int
    segment: str
    fingerprint: str


class PieceName(NamedTuple):
    """The bytes [start, end) of one segment."""

    system_id: int
    timeline: int
    segment: str
    start: Lsn
    end: Lsn
    fingerprint: str


class HistoryName(NamedTuple):
    """A timeline's history."""

    system_id: int
    timeline: int


class PackId(NamedTuple):
    """A pack, as maps and manifests name it."""

    label: str
    attempt: int
    number: int


class PackName(NamedTuple):
    """A pack's object."""

    system_id: int
    pack: PackId


class BeginName(NamedTuple):
    """A snapshot was begun."""

    system_id: int
    label: str
    attempt: int


class ManifestName(NamedTuple):
    """A snapshot exists."""

    snapshot: Snapshot


class NoteName(NamedTuple):
    """A note; `time` is its text form."""

    system_id: int
    time: str
    kind: str
    subject: str
    fingerprint: str


class RecordName(NamedTuple):
    """A verification's record; `time` is its text form."""

    system_id: int
    time: str
    kind: str
    fingerprint: str

    @property
    def id(self) -> str:
        """How people and other records name it."""
        return f"{self.time}-{self.kind}-{self.fingerprint}"


Name = WalName | PieceName | HistoryName | PackName | BeginName | ManifestName | NoteName | RecordName | RangesName

#: What an Object Lock holds of a system id: what a restore needs or a proof says. Never pieces, which give way to
#: their segment, nor notes, which only remark, nor ranges, which only repeat.
_LOCKED = frozenset({"history", "packs", "records", "snapshots", "wal"})


def locked(name: str) -> bool:
    """Whether a store with Object Lock keeps the object of this name from being deleted."""
    first, _, rest = name.partition("/")
    if name == ROOT or name.startswith((KEYS, WRITERS, "removed/")):
        return True
    return SYSTEM_ID.match(first) is not None and rest.partition("/")[0] in _LOCKED


def history_prefix(system_id: int) -> str:
    """All histories."""
    return f"{system_id}/history/"


def history_name(system_id: int, timeline: int) -> str:
    """A timeline's history."""
    return f"{system_id}/history/{timeline:08X}.history"


def wal_prefix(system_id: int, timeline: int | None = None) -> str:
    """All complete segments, or those of one timeline."""
    return f"{system_id}/wal/" if timeline is None else f"{system_id}/wal/{timeline:08X}/"


def segment_prefix(system_id: int, segment: Segment) -> str:
    """Every object of one complete segment: one, or more in a conflict."""
    return f"{system_id}/wal/{segment.timeline:08X}/{segment.log}/{segment.name}-"


def wal_name(system_id: int, segment: Segment, fingerprint: str) -> str:
    """A complete segment."""
    return segment_prefix(system_id, segment) + fingerprint


def pieces_prefix(system_id: int, segment: Segment | None = None) -> str:
    """All pieces, or those of one segment."""
    return f"{system_id}/pieces/" if segment is None else f"{system_id}/pieces/{segment.timeline:08X}/{segment.name}/"


def piece_name(system_id: int, segment: Segment, start: Lsn, end: Lsn, fingerprint: str) -> str:
    """A piece of `segment`."""
    return f"{pieces_prefix(system_id, segment)}{start.hex16}-{end.hex16}-{fingerprint}"


def piece_object(piece: PieceName) -> str:
    """The name of a piece read from a listing."""
    prefix = f"{pieces_prefix(piece.system_id)}{piece.timeline:08X}/{piece.segment}/"
    return f"{prefix}{piece.start.hex16}-{piece.end.hex16}-{piece.fingerprint}"


def packs_prefix(system_id: int, label: str | None = None) -> str:
    """All packs and begins, or those of one label."""
    return f"{system_id}/packs/" if label is None else f"{system_id}/packs/{label}/"


def pack_name(system_id: int, pack: PackId) -> str:
    """A pack."""
    return f"{packs_prefix(system_id, pack.label)}{pack.attempt:08x}-{pack.number:06d}"


def begin_name(system_id: int, label: str, attempt: int) -> str:
    """The mark that a snapshot was begun."""
    return f"{packs_prefix(system_id, label)}begin-{attempt:08x}"


def snapshots_prefix(system_id: int, label: str | None = None) -> str:
    """All manifests, or those of one label."""
    return f"{system_id}/snapshots/" if label is None else f"{system_id}/snapshots/{label}/"


def manifest_name(snapshot: Snapshot) -> str:
    """A snapshot's manifest."""
    prefix = snapshots_prefix(snapshot.system_id, snapshot.label)
    return f"{prefix}{snapshot.timeline:08X}-{snapshot.start.hex16}-{snapshot.stop.hex16}"


def notes_prefix(system_id: int) -> str:
    """All notes."""
    return f"{system_id}/notes/"


def note_name(system_id: int, time: str, kind: str, subject: str, fingerprint: str) -> str:
    """A note; `subject` of letters, digits, dots and underscores."""
    return f"{notes_prefix(system_id)}{time}-{kind}-{subject}-{fingerprint}"


def records_prefix(system_id: int) -> str:
    """All records."""
    return f"{system_id}/records/"


def record_name(record: RecordName) -> str:
    """A record."""
    return f"{records_prefix(record.system_id)}{record.id}"


_WAL = re.compile(rf"{_SYSTEM}/wal/{_T}/{_T}/{_S}-{_F}\Z")
_PIECE = re.compile(rf"{_SYSTEM}/pieces/{_T}/{_S}/{_L}-{_L}-{_F}\Z")
_HISTORY = re.compile(rf"{_SYSTEM}/history/{_T}\.history\Z")
_PACK = re.compile(rf"{_SYSTEM}/packs/{_LABEL}/([0-9a-f]{{8}})-(\d{{6}})\Z")
_BEGIN = re.compile(rf"{_SYSTEM}/packs/{_LABEL}/begin-([0-9a-f]{{8}})\Z")
_MANIFEST = re.compile(rf"{_SYSTEM}/snapshots/{_LABEL}/{_T}-{_L}-{_L}\Z")
_NOTE = re.compile(rf"{_SYSTEM}/notes/(\d{{8}}T\d{{12}}Z)-([a-z]+)-([A-Za-z0-9._]+)-{_F}\Z")
_RECORD = re.compile(rf"{_SYSTEM}/records/(\d{{8}}T\d{{12}}Z)-([a-z]+)-{_F}\Z")
SYSTEM_ID = re.compile(rf"{_SYSTEM}\Z")


def parse_name(name: str) -> Name | None:
    """What a name within a system id says; None for anything else, which readers ignore."""
    parts = name.split("/")
    parser = _PARSERS.get(parts[1]) if len(parts) > 2 else None
    return parser(name) if parser is not None else None


def _parse_wal(name: str) -> Name | None:
    match = _WAL.match(name)
    if match is None or match[4][:8] != match[2] or match[4][8:16] != match[3] or int(match[2], 16) == 0:
        return None
    return WalName(int(match[1]), int(match[2], 16), match[4], match[5])


def _parse_piece(name: str) -> Name | None:
    match = _PIECE.match(name)
    if match is None or match[3][:8] != match[2] or int(match[2], 16) == 0:
        return None
    start, end = Lsn.from_hex16(match[4]), Lsn.from_hex16(match[5])
    return PieceName(int(match[1]), int(match[2], 16), match[3], start, end, match[6]) if start < end else None


def _parse_history(name: str) -> Name | None:
    match = _HISTORY.match(name)
    return HistoryName(int(match[1]), int(match[2], 16)) if match else None


def _parse_pack(name: str) -> Name | None:
    match = _PACK.match(name)
    if match:
        return PackName(int(match[1]), PackId(match[2], int(match[3], 16), int(match[4])))
    match = _BEGIN.match(name)
    return BeginName(int(match[1]), match[2], int(match[3], 16)) if match else None


def _parse_manifest(name: str) -> Name | None:
    match = _MANIFEST.match(name)
    if match is None:
        return None
    start, stop = Lsn.from_hex16(match[4]), Lsn.from_hex16(match[5])
    return ManifestName(Snapshot(match[2], int(match[1]), int(match[3], 16), start, stop)) if start < stop else None


def _parse_note(name: str) -> Name | None:
    match = _NOTE.match(name)
    return NoteName(int(match[1]), match[2], match[3], match[4], match[5]) if match else None


def _parse_record(name: str) -> Name | None:
    match = _RECORD.match(name)
    return RecordName(int(match[1]), match[2], match[3], match[4]) if match else None


_PARSERS = {
    "wal": _parse_wal,
    "pieces": _parse_piece,
    "history": _parse_history,
    "packs": _parse_pack,
    "snapshots": _parse_manifest,
    "notes": _parse_note,
    "records": _parse_record,
    "ranges": parse_range_name,
}
