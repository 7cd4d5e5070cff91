"""Where the WAL of each timeline ends in a store, and when that was written at the latest.

Owns that only signed tables say a time; where none does, the store's clock is an upper bound. Reads, never puts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from replicator.core.coverage import LsnRange
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn, Segment
from replicator.core.moment import from_microseconds
from replicator.core.retention import END
from replicator.core.timeline import TimelineHistory
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.catalog import read_history_file
from replicator.repository.layout import (
    HistoryName,
    Name,
    PieceName,
    WalName,
    history_prefix,
    parse_name,
    pieces_prefix,
    wal_prefix,
)
from replicator.repository.objects import read_header, read_table
from replicator.store.protocol import ObjectInfo
from replicator.upkeep.prune_model import Facts


def range_of(place: Name | None, segment_size: int) -> LsnRange | None:
    """The WAL that an object's name claims; None for one that claims none, or no segment of this size."""
    match place:
        case WalName(timeline=timeline, segment=text):
            try:
                segment = Segment.parse(text, segment_size)
            except UsageError:
                return None
            return LsnRange(timeline, segment.start, segment.end)
        case PieceName(timeline=timeline, start=start, end=end):
            return LsnRange(timeline, start, end)
    return None


def read_histories(facts: Facts) -> None:
    """Every timeline history that verifies. Raises StoreUnavailable."""
    for info in facts.store.list(history_prefix(facts.system_id)):
        place = parse_name(info.name)
        if not isinstance(place, HistoryName):
            continue
        try:
            content = read_history_file(facts.store, facts.system_id, place.timeline, facts.keyring)
            facts.histories[place.timeline] = TimelineHistory.parse(place.timeline, content)
        except IntegrityError as error:
            facts.damaged(info.name, error, f"timeline {place.timeline}")


@dataclass
class _End:
    """The newest WAL of a timeline by its names, and the time of its youngest object."""

    put: datetime
    segment: str = ""
    piece: tuple[Lsn, str] = (Lsn(0), "")


def read_ends(facts: Facts, noted: Collection[str]) -> None:
    """When each timeline's last byte was written, at the latest; the segment size; the sizes of `noted` names.

    Raises StoreUnavailable.
    """
    ends: dict[int, _End] = {}
    for info in listed_wal(facts):
        if info.name in noted:
            facts.sizes[info.name] = info.size
        match parse_name(info.name):
            case WalName(timeline=timeline):
                _end(ends, timeline, info).segment = info.name
            case PieceName(timeline=timeline, end=last):
                end = _end(ends, timeline, info)
                end.piece = max(end.piece, (last, info.name))
    for timeline, end in sorted(ends.items()):
        _believe(facts, timeline, end)


def listed_wal(facts: Facts) -> Iterator[ObjectInfo]:
    """All WAL. Pieces first: they go once their segment is there."""
    yield from facts.store.list(pieces_prefix(facts.system_id))
    yield from facts.store.list(wal_prefix(facts.system_id))


def _end(ends: dict[int, _End], timeline: int, info: ObjectInfo) -> _End:
    end = ends.setdefault(timeline, _End(info.modified))
    end.put = max(end.put, info.modified)
    return end


def _believe(facts: Facts, timeline: int, end: _End) -> None:
    """The end of one timeline. Where its newest objects don't verify, the store's clock is an upper bound."""
    times: list[datetime] = []
    for name in filter(None, (end.segment, end.piece[1])):
        try:
            written = read_table(facts.store, name, facts.keyring).last_us
            times.append(from_microseconds(written) if written else end.put)
            facts.segment_size = facts.segment_size or read_header(facts.store, name, facts.keyring).segment_size
        except ObjectAbsent:  # a piece that has given way to its segment
            times.append(end.put)
        except IntegrityError as error:
            facts.damaged(name, error, f"timeline {timeline}")
    facts.last_wal[timeline] = max(times, default=end.put)
    if timeline > 1 and timeline not in facts.histories:
        facts.kept_wal.append(LsnRange(timeline, Lsn(0), END))
        if times:
            facts.hold_all.append(f"the history of timeline {timeline} is not there, and what leads to it is not known")
            facts.findings.append(
                Finding(
                    "history_missing",
                    f"store {facts.store.name} holds WAL of timeline {timeline} and not its history",
                    "Run `replicator mirror`: it takes the history from another store.",
                    affects=f"timeline {timeline}",
                    store=facts.store.name,
                )
            )
