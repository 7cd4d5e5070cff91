"""Where on a route recovery would stop for a target. Pure but for the probe that it asks.

Owns the meaning of each kind of target, as PostgreSQL's recovery has it: an LSN or a time stops only at a later record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.core.moment import to_microseconds
from replicator.core.snapshot import Snapshot
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.repository.manifests import ManifestSummary
from replicator.restore.probe import SendTimes, WalProbe
from replicator.restore.route import Route

#: Bytes of WAL after the stop's record that a recovering server may read: the record itself, and its read-ahead.
READ_AHEAD = 2 * 1024 * 1024
#: What WAL holds of a transaction's number: pg_current_xact_id() also counts how often that wrapped around.
_XID = 2**32 - 1
#: How far the clock of a host that takes snapshots may be from the server's.
CLOCK_SLACK_US = 30_000_000


@dataclass(frozen=True, slots=True)
class Stop:
    """`position`: the record at which recovery stops; `limit`: the WAL it reads at most. `latest`: nothing follows the
    target, so recovery runs to the end of what is held.
    """

    snapshot: Snapshot
    position: Lsn
    limit: Lsn
    latest: bool = False


@dataclass(frozen=True)
class Search:
    """What a search stands on. `probe` None: this host can't read WAL, and says only what the clear tables tell."""

    summaries: Mapping[str, ManifestSummary]
    times: SendTimes
    probe: WalProbe | None

    def locate(self, target: RecoveryTarget, route: Route) -> Stop | None:
        """The stop on this route; None when the target is not on it. Raises WalConflict and the probe's errors."""
        ways: dict[TargetKind, Callable[[RecoveryTarget, Route], Stop | None]] = {
            TargetKind.LATEST: self._latest,
            TargetKind.IMMEDIATE: self._immediate,
            TargetKind.LSN: self._lsn,
            TargetKind.TIME: self._time,
            TargetKind.XID: self._xid,
            TargetKind.NAME: self._name,
        }
        return ways[target.kind](target, route)

    def _latest(self, _: RecoveryTarget, route: Route) -> Stop:
        return Stop(route.snapshots[-1], route.end, route.end, latest=True)

    def _immediate(self, _: RecoveryTarget, route: Route) -> Stop:
        snapshot = route.snapshots[-1]
        return Stop(snapshot, snapshot.stop, _ahead(snapshot.stop, route))

    def _lsn(self, target: RecoveryTarget, route: Route) -> Stop | None:
        assert target.lsn is not None
        snapshot = route.newest(target.lsn)
        if snapshot is None or target.lsn > route.end:
            return None
        if self.probe is None:
            return Stop(snapshot, target.lsn, route.end, latest=target.lsn == route.end)
        record = self.probe.record(route, target.lsn) if target.lsn < route.end else None
        if record is None:
            return Stop(snapshot, target.lsn, route.end, latest=True)
        return Stop(snapshot, record, _ahead(record, route))

    def _time(self, target: RecoveryTarget, route: Route) -> Stop | None:
        assert target.time is not None
        us = to_microseconds(target.time)
        begun = [snapshot for snapshot in route.snapshots if self._begun(snapshot, us, route)]
        numbers = route.numbers(route.snapshots[0].start, route.end)
        if not begun or self.times.sent_us(route, numbers[-1]) < us:
            return None
        first = _first(numbers, lambda number: self.times.sent_us(route, number) >= us)
        if self.probe is None:
            return self._at_most(begun, us, first, route)
        at = self._first_after(route, range(first, numbers.stop), us, inclusive=target.inclusive)
        if at is None:
            return Stop(begun[-1], route.end, route.end, latest=True)
        snapshot = next((found for found in reversed(begun) if found.stop <= at), None)
        return None if snapshot is None else Stop(snapshot, at, _ahead(at, route))

    def _begun(self, snapshot: Snapshot, us: int, route: Route) -> bool:
        """Whether no commit before the snapshot's first segment is later than `us`: by the server's clock, or, where
        WAL was sent late, by the clock of the host that took it, which may be somewhat off.
        """
        sent = self.times.begun_us(route, snapshot.start // route.size)
        return 0 < sent <= us or self.summaries[snapshot.label].start_us + CLOCK_SLACK_US <= us

    def _at_most(self, begun: list[Snapshot], us: int, first: int, route: Route) -> Stop | None:
        """The stop as far as send times tell: not before segment `first`, maybe not at all."""
        done = [snapshot for snapshot in begun if self.summaries[snapshot.label].stop_us <= us]
        return Stop(done[-1], Lsn(max(first * route.size, done[-1].stop)), route.end) if done else None

    def _first_after(self, route: Route, numbers: range, us: int, *, inclusive: bool) -> Lsn | None:
        """The first transaction end after `us`, by bisection: times ascend from segment to segment."""
        assert self.probe is not None
        low, high = numbers.start, numbers.stop
        while low < high:
            number = middle = (low + high) // 2
            newest = self.probe.newest(route, number)
            while newest is None and number + 1 < high:
                number += 1
                newest = self.probe.newest(route, number)
            if newest is not None and (newest.us < us or (inclusive and newest.us == us)):
                low = number + 1
            else:
                high = middle
        for number in range(low, numbers.stop):
            found = self.probe.after(route, number, us, inclusive=inclusive)
            if found is not None:
                return found.lsn
        return None

    def _xid(self, target: RecoveryTarget, route: Route) -> Stop | None:
        def look(number: int, start: Lsn) -> Lsn | None:
            assert self.probe is not None
            assert target.xid is not None
            found = self.probe.xid(route, number, target.xid & _XID, start)
            return found.lsn if found is not None else None

        return self._scan(route, look)

    def _name(self, target: RecoveryTarget, route: Route) -> Stop | None:
        def look(number: int, start: Lsn) -> Lsn | None:
            assert self.probe is not None
            return self.probe.restore_point(route, number, target.name or "", start)

        return self._scan(route, look)

    def _scan(self, route: Route, look: Callable[[int, Lsn], Lsn | None]) -> Stop | None:
        """Read the WAL after the newest snapshot, then before it back to the one before, and so on."""
        if self.probe is None:
            return None
        end = route.end
        for snapshot in reversed(route.snapshots):
            for number in route.numbers(snapshot.stop, end):
                found = look(number, snapshot.stop)
                if found is not None and found < end:
                    return Stop(snapshot, found, _ahead(found, route))
            end = snapshot.stop
        return None


def _ahead(position: Lsn, route: Route) -> Lsn:
    return min(route.end, position + READ_AHEAD)


def _first(numbers: range, holds: Callable[[int], bool]) -> int:
    """The first number for which `holds`, which stays true from there on; the last one holds."""
    low, high = numbers.start, numbers.stop - 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def newest_first(route: Route, most: int) -> Iterator[int]:
    """The route's segments from its end backwards, `most` at most, not before its first snapshot."""
    numbers = route.numbers(route.snapshots[0].start, route.end)
    yield from reversed(numbers[-most:])
