"""What depends on an object: the snapshots that need it, and the moments that can't be reached without it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import UsageError
from replicator.repository.layout import (
    ROOT,
    BeginName,
    HistoryName,
    ManifestName,
    Name,
    NoteName,
    PackId,
    PackName,
    PieceName,
    RangeName,
    RecordName,
    SummaryName,
    WalName,
    parse_key_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.verify.inventory import Holdings, system_of

#: More labels than this are counted, not named.
_NAMED = 8


@dataclass(frozen=True)
class Dependents:
    """Of one store. `holdings` by names alone, `good` without what is damaged; `needs`: the labels of the snapshots
    whose manifests name a pack.
    """

    holdings: Mapping[int, Holdings]
    good: Mapping[int, Holdings]
    segment_sizes: Mapping[int, int]
    needs: Mapping[tuple[int, PackId], Set[str]] = field(default_factory=dict)

    def of(self, name: str, place: Name | None) -> str:
        """What does not work without this object; never empty."""
        match place:
            case None:
                return _root(name)
            case PackName(system_id, pack):
                return named(self.needs.get((system_id, pack), frozenset())) or "no snapshot: none names it"
            case ManifestName(snapshot):
                return f"snapshot {snapshot.label}"
            case HistoryName(_, timeline):
                return f"recovery to timeline {timeline}"
            case WalName() | PieceName():
                return self._wal(place)
            case RecordName():
                return "what was verified until then"
            case NoteName():
                return f"what the note says of {place.subject}"
            case RangeName() | SummaryName():
                return "nothing else: readers list what it would have told"
            case BeginName():
                return "the guard against two snapshots at once"

    def _wal(self, place: WalName | PieceName) -> str:
        held = self.holdings.get(system_of(place))
        reach = range_of(place, self.segment_sizes.get(system_of(place), 0))
        if held is None or reach is None:
            return f"recovery through WAL segment {place.segment}"
        start, end = reach
        good = self.good.get(system_of(place))
        if good is not None and good.coverage.holds(place.timeline, start, end):
            return "nothing else: other objects hold the same WAL"
        snapshots = [found for found in held.snapshots if _crosses(found, place.timeline, start, end)]
        parts = [named({found.label for found in snapshots})] if snapshots else []
        if any(found.stop <= end and found.timeline <= place.timeline for found in held.snapshots):
            last = max(end, held.coverage.reach(place.timeline, end))
            parts.append(f"every moment from {start} to {last} on timeline {place.timeline}")
        return " and ".join(parts) or "no snapshot that is kept"


def _crosses(snapshot: Snapshot, timeline: int, start: Lsn, end: Lsn) -> bool:
    """Whether a snapshot needs these bytes to be consistent."""
    return snapshot.timeline == timeline and snapshot.start < end and start < snapshot.stop


def range_of(place: WalName | PieceName, segment_size: int) -> tuple[Lsn, Lsn] | None:
    """The bytes that a WAL object's name claims; None when it is no segment of this size."""
    if isinstance(place, PieceName):
        return place.start, place.end
    try:
        segment = Segment.parse(place.segment, segment_size) if segment_size else None
    except UsageError:
        return None
    return (segment.start, segment.end) if segment is not None else None


def named(labels: Set[str]) -> str:
    """Snapshots for people; empty for none."""
    if not labels:
        return ""
    shown = ", ".join(sorted(labels)[:_NAMED])
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"snapshot{'s' if len(labels) > 1 else ''} {shown}{more}"


def _root(name: str) -> str:
    if name == ROOT:
        return "this store's whole repository"
    if parse_key_name(name) is not None:
        return "all that is to be sealed with this key"
    if parse_recipient_name(name) is not None:
        return "restoring with this recipient's secret"
    if parse_writer_name(name) is not None:
        return "all that this writer signed"
    return "nothing: readers ignore it"
