"""Waiting until stores hold the WAL that a snapshot needs, from its start to its stop (pieces count).

Lists only the segments that are still missing. It never reads WAL and never asks the server for any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.progress import Progress, Report
from replicator.errors import Interrupted, StreamNotRunning
from replicator.repository.layout import PieceName, WalName, parse_name, pieces_prefix, segment_prefix, wal_prefix
from replicator.snapshot.participants import Participants
from replicator.store.protocol import ReadableStore, Store
from replicator.tolerance import Clock, Deadline

_FIRST_WAIT = 0.02
_MOST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class WalNeed:
    """The bytes that a snapshot can't be used without."""

    system_id: int
    segment_size: int
    range: LsnRange

    def segments(self, position: int) -> Iterator[Segment]:
        """The segments that hold [position, end)."""
        segment = Segment.holding(self.range.timeline, position, self.segment_size)
        while segment.start < self.range.end:
            yield segment
            segment = segment.next()


class StoreWal:
    """What one store was seen to hold of the need; a position only ever advances."""

    def __init__(self, need: WalNeed) -> None:
        self._need = need
        self._held = Coverage.of()
        self.reach: Lsn = need.range.start
        zero = Segment(need.range.timeline, 0, need.segment_size)
        #: By prefix: the last name seen of the WAL before the need.
        self._earlier = {
            wal_prefix(need.system_id): segment_prefix(need.system_id, zero),
            pieces_prefix(need.system_id): pieces_prefix(need.system_id, zero),
        }

    @property
    def complete(self) -> bool:
        """Whether everything needed was seen."""
        return self.reach >= self._need.range.end

    @property
    def hole(self) -> bool:
        """Whether WAL was seen behind the place where what is needed stands still."""
        held = self._held.by_timeline.get(self._need.range.timeline, ())
        return any(start > self.reach for start, _ in held)

    def look(self, store: ReadableStore) -> bool:
        """List what is missing; whether the position advanced."""
        before = self.reach
        for timeline, start, end in self._listed(store):
            self._held = self._held.add(timeline, start, end)
        self.reach = self._held.reach(self._need.range.timeline, self._need.range.start)
        return self.reach > before

    def nearer(self, store: ReadableStore) -> bool:
        """Whether earlier WAL of the timeline came since it was asked last: a store that works off what it missed
        comes nearer while nothing of the need itself is there. The first time lists all that there is.
        """
        need, came = self._need, False
        first = Segment.holding(need.range.timeline, need.range.start, need.segment_size)
        ends = segment_prefix(need.system_id, first), pieces_prefix(need.system_id, first)
        for prefix, end in zip(self._earlier, ends, strict=True):
            for info in store.list(prefix, after=self._earlier[prefix]):
                if info.name >= end:
                    break
                self._earlier[prefix], came = info.name, True
        return came

    def _listed(self, store: ReadableStore) -> Iterator[tuple[int, int, int]]:
        need, found = self._need, set()
        first = Segment.holding(need.range.timeline, self.reach, need.segment_size)
        last = Segment.holding(need.range.timeline, need.range.end - 1, need.segment_size)
        after = segment_prefix(need.system_id, first)
        for info in store.list(wal_prefix(need.system_id, need.range.timeline), after=after):
            place = parse_name(info.name)
            if info.name > f"{segment_prefix(need.system_id, last)}~":
                break
            if isinstance(place, WalName):
                found.add(place.segment)
        for segment in need.segments(self.reach):
            if segment.name in found:
                yield segment.timeline, segment.start, segment.end
                continue
            for info in store.list(pieces_prefix(need.system_id, segment)):
                place = parse_name(info.name)
                if isinstance(place, PieceName):
                    yield place.timeline, place.start, place.end


def wait_for_wal(
    participants: Participants, need: WalNeed, *, clock: Clock, stop: Event, deadline_s: float, report: Report
) -> None:
    """Return when every store that still takes part holds what is needed. One whose coverage stands still for
    `deadline_s`, before the need or in it, is left out. Raises StreamNotRunning when that is so of all, Interrupted.
    """
    seen = {name: StoreWal(need) for name in participants.active}
    deadlines = {name: Deadline(clock, deadline_s) for name in seen}
    pause = _FIRST_WAIT
    total = need.range.end - need.range.start
    while True:
        pending = {name for name in participants.active if not seen[name].complete}
        if not pending:
            return

        def look(name: str, store: Store, pending: frozenset[str] = frozenset(pending)) -> bool:
            if name not in pending:
                return False
            before = seen[name].reach == need.range.start
            return seen[name].look(store) or (before and seen[name].nearer(store))

        advanced = participants.each(look, what="waiting for WAL")
        for name in sorted(pending & set(participants.active)):
            if advanced[name]:
                deadlines[name], pause = Deadline(clock, deadline_s), _FIRST_WAIT
            elif deadlines[name].over and not seen[name].complete:
                participants.leave_out(name, _standing(name, seen[name].reach, need.range.end, deadline_s))
        least = min(seen[name].reach for name in participants.active)
        report(Progress("snapshot", "wal", min(total, least - need.range.start), total))
        if any(not seen[name].complete for name in participants.active) and clock.wait(stop, pause):
            raise Interrupted("stopped while waiting for WAL")
        pause = min(_MOST_WAIT, pause * 1.5)


def _standing(name: str, reach: Lsn, needed: Lsn, seconds: float) -> StreamNotRunning:
    return StreamNotRunning(
        f"store {name} holds WAL up to {reach}, the snapshot needs it up to {needed}, nothing came for {seconds:g} s",
        hint="See with `replicator status` that the daemon streams this cluster and that the store keeps up.",
        store=name,
    )
