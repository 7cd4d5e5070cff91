"""What a store lacks of what the others hold, by their listings. Pure but for the listing itself.

Owns which objects are to be copied and in which order. Names are claims: what is copied is verified then.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import UsageError
from replicator.repository.catalog import longest_chain
from replicator.repository.layout import (
    BeginName,
    HistoryName,
    ManifestName,
    NoteName,
    PackName,
    PieceName,
    RangeName,
    RecordName,
    SummaryName,
    WalName,
    parse_name,
    piece_object,
)
from replicator.repository.notes import RESTORING, RETIRED
from replicator.store.protocol import ReadableStore


@dataclass
class Inventory:
    """What one store lists of one system id: sizes by name, and the names by kind. Grows while things are copied."""

    store: str
    sizes: dict[str, int] = field(default_factory=dict)
    histories: set[str] = field(default_factory=set)
    documents: set[str] = field(default_factory=set)
    wal: dict[str, set[str]] = field(default_factory=dict)
    pieces: dict[str, set[PieceName]] = field(default_factory=dict)
    packs: set[str] = field(default_factory=set)
    begins: dict[str, set[str]] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)

    def add(self, name: str, size: int) -> None:
        """One more object."""
        match parse_name(name):
            case HistoryName():
                self.histories.add(name)
            case WalName(segment=segment):
                self.wal.setdefault(segment, set()).add(name)
            case PieceName(segment=segment) as piece:
                self.pieces.setdefault(segment, set()).add(piece)
            case PackName():
                self.packs.add(name)
            case BeginName(label=label):
                self.begins.setdefault(label, set()).add(name)
            case ManifestName(snapshot=snapshot):
                self.snapshots[name] = snapshot
            case NoteName(kind=kind) if kind == RETIRED:
                self.retired.add(name)
            case NoteName(kind=kind) if kind == RESTORING:
                return  # about the store that holds it
            case RangeName() | SummaryName():
                return  # each store's prune writes its own
            case NoteName() | RecordName():
                self.documents.add(name)
            case None:
                return
        self.sizes[name] = size


def read_inventory(store: ReadableStore, system_id: int) -> Inventory:
    """One listing. Raises StoreUnavailable."""
    found = Inventory(store.name)
    for info in store.list(f"{system_id}/"):
        found.add(info.name, info.size)
    return found


@dataclass(frozen=True)
class Gone:
    """What some store let go of: a container of names. `wal`: the WAL that retention took."""

    names: frozenset[str]
    wal: Coverage
    segment_size: int

    def __contains__(self, name: object) -> bool:
        """Whether an object is named, or is WAL that lies within what was taken."""
        if name in self.names:
            return True
        match parse_name(str(name)):
            case WalName(segment=text) if self.segment_size:
                try:
                    segment = Segment.parse(text, self.segment_size)
                except UsageError:
                    return False
                return self.wal.holds(segment.timeline, segment.start, segment.end)
            case PieceName(timeline=timeline, start=start, end=end):
                return self.wal.holds(timeline, start, end)
        return False


@dataclass(frozen=True)
class Lacking:
    """What a target lacks, each kind in the order in which it is copied. `conflicts`: segments of which two contents
    exist: neither is copied to where the other is.
    """

    histories: tuple[str, ...]
    documents: tuple[str, ...]
    wal: tuple[str, ...]
    pieces: tuple[str, ...]
    snapshots: tuple[Snapshot, ...]
    conflicts: tuple[str, ...]


def lacking(target: Inventory, sources: Collection[Inventory], gone: Container[str]) -> Lacking:
    """What `target` lacks of what `sources` list, but for `gone`.

    WAL and snapshots come newest first, so that coverage grows backwards without a hole and the newest moments can be
    recovered soonest.
    """
    wal, conflicts = _wal(target, sources, gone)
    held = {parsed.segment for name in wal if isinstance(parsed := parse_name(name), WalName)} | set(target.wal)
    pieces = [piece for piece in _pieces(target, sources, held) if piece not in gone]
    manifests = {name: snapshot for source in sources for name, snapshot in source.snapshots.items()}
    missing = (manifests[name] for name in manifests if name not in target.snapshots and name not in gone)
    return Lacking(
        _missing((source.histories for source in sources), target.histories, gone),
        _missing((source.documents for source in sources), target.documents, gone),
        tuple(wal),
        tuple(pieces),
        tuple(sorted(missing, reverse=True)),
        conflicts,
    )


def _missing(offered: Iterable[Collection[str]], held: Collection[str], gone: Container[str]) -> tuple[str, ...]:
    names = {name for names in offered for name in names}
    return tuple(sorted(name for name in names if name not in held and name not in gone))


def _wal(target: Inventory, sources: Collection[Inventory], gone: Container[str]) -> tuple[list[str], tuple[str, ...]]:
    offered: dict[str, set[str]] = {}
    for source in sources:
        for segment, names in source.wal.items():
            offered.setdefault(segment, set()).update(name for name in names if name not in gone)
    wanted: list[str] = []
    conflicts: set[str] = set()
    for segment in sorted(offered, reverse=True):
        held = target.wal.get(segment, set())
        if len(offered[segment] | held) > 1:
            conflicts.add(segment)
        elif not held:
            wanted.extend(offered[segment])
    return wanted, tuple(sorted(conflicts))


def _pieces(target: Inventory, sources: Collection[Inventory], complete: Collection[str]) -> Iterable[str]:
    """The pieces of segments that are not complete there, which cover what the target's own don't."""
    offered: dict[str, set[PieceName]] = {}
    for source in sources:
        for segment, pieces in source.pieces.items():
            if segment not in complete:
                offered.setdefault(segment, set()).update(pieces)
    for segment in sorted(offered, reverse=True):
        held = Coverage.of((p.timeline, p.start, p.end) for p in target.pieces.get(segment, ()))
        start = min(piece.start for piece in offered[segment])
        for piece in longest_chain(tuple(offered[segment]), start):
            if not held.holds(piece.timeline, piece.start, piece.end):
                yield piece_object(piece)


def lost(names: Iterable[str], snapshot: Snapshot, segment_size: int) -> str:
    """The first range of a snapshot's own WAL that these objects don't hold, in words; empty when they hold all."""
    ranges: list[tuple[int, int, int]] = []
    for name in names:
        match parse_name(name):
            case WalName(segment=text):
                try:
                    segment = Segment.parse(text, segment_size)
                except UsageError:
                    continue
                ranges.append((segment.timeline, segment.start, segment.end))
            case PieceName(timeline=timeline, start=start, end=end):
                ranges.append((timeline, start, end))
    for hole in Coverage.of(ranges).missing(snapshot.timeline, snapshot.start, snapshot.stop):
        return f"{Lsn(hole.start)} to {Lsn(hole.end)} of timeline {snapshot.timeline}"
    return ""


def segments_of(snapshot: Snapshot, segment_size: int) -> list[Segment]:
    """The segments that hold a snapshot's own WAL, from its start to its stop."""
    segment = Segment.holding(snapshot.timeline, snapshot.start, segment_size)
    found = []
    while segment.start < snapshot.stop:
        found.append(segment)
        segment = segment.next()
    return found


def until(wal: tuple[str, ...], snapshot: Snapshot, segment_size: int) -> int:
    """How many of `wal`, newest first, are not older than a snapshot's start."""
    first = Segment.holding(snapshot.timeline, snapshot.start, segment_size).name
    count = 0
    for name in wal:
        place = parse_name(name)
        if isinstance(place, WalName) and place.segment < first:
            break
        count += 1
    return count
