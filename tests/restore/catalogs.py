"""Catalogs, summaries and a probe made by hand: for tests of the pure planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import PackId, PieceName, wal_name
from replicator.repository.manifests import ManifestSummary
from replicator.restore.plan import StoreView
from replicator.restore.probe import Ended
from replicator.restore.route import Route

SIZE = 2**20
SYSTEM = 7
PACK = PackId("20261101T000000Z", 1, 0)
#: One second of story time is one kilobyte of WAL.
RATE = 1024


def us_of(lsn: int) -> int:
    """The clock when that byte was written."""
    return 1_000_000_000_000_000 + lsn * 1_000_000 // RATE


def history(timeline: int, *parents: tuple[int, int]) -> TimelineHistory:
    """A history from (timeline, switch point) pairs."""
    return TimelineHistory(timeline, tuple((parent, Lsn(switch)) for parent, switch in parents))


def snapshot(number: int, start: int, stop: int, timeline: int = 1, system: int = SYSTEM) -> Snapshot:
    """A snapshot whose label sorts by `number`."""
    return Snapshot(f"202611{number:02d}T000000Z", system, timeline, Lsn(start), Lsn(stop))


def view(
    snapshots: Sequence[Snapshot],
    wal: Iterable[tuple[int, int]] = (),
    pieces: Iterable[tuple[int, int, int]] = (),
    histories: Iterable[TimelineHistory] = (),
    *,
    store: str = "local",
    system: int = SYSTEM,
    packs: frozenset[PackId] = frozenset({PACK}),
) -> StoreView:
    """What a store holds: `wal` as (timeline, segment number), `pieces` as (timeline, start, end)."""
    whole: dict[str, tuple[str, ...]] = {}
    ranges: list[tuple[int, int, int]] = []
    for timeline, number in wal:
        segment = Segment(timeline, number, SIZE)
        whole[segment.name] = (*whole.get(segment.name, ()), wal_name(system, segment, f"{len(ranges):016x}"))
        ranges.append((timeline, segment.start, segment.end))
    parts: dict[str, tuple[PieceName, ...]] = {}
    for timeline, start, end in pieces:
        name = Segment.holding(timeline, start, SIZE).name
        piece = PieceName(system, timeline, name, Lsn(start), Lsn(end), f"{len(ranges):016x}")
        parts[name] = (*parts.get(name, ()), piece)
        ranges.append((timeline, start, end))
    catalog = StoreCatalog(
        store, system, SIZE, tuple(sorted(snapshots)), whole, parts, {found.timeline: found for found in histories},
        Coverage.of(ranges),
    )  # fmt: skip
    summaries = {
        found.label: ManifestSummary(
            found, None, us_of(found.start), us_of(found.stop), 10**8, 10**7, 10, damaged=False, packs=(PACK,)
        )
        for found in snapshots
    }
    return StoreView(catalog, summaries, packs)


@dataclass
class Wal:
    """What the WAL holds, as probe and send times tell it: (LSN, xid) of commits by timeline, restore points, records.

    Every commit is sent `delay` µs after it is written.
    """

    commits: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    records: Sequence[int] = ()
    delay: int = 0
    asked: int = 0

    def _ends(self, route: Route, number: int) -> list[tuple[Lsn, int]]:
        low, high = number * route.size, min((number + 1) * route.size, route.end)
        found: list[tuple[Lsn, int]] = []
        for stretch in route.history.path():
            for lsn, xid in self.commits.get(stretch.timeline, ()):
                if low <= lsn < high and stretch.holds(lsn):
                    found.append((Lsn(lsn), xid))
        self.asked += 1
        return found

    def newest(self, route: Route, number: int) -> Ended | None:
        """As WalProbe."""
        ends = self._ends(route, number)
        return Ended(ends[-1][0], us_of(ends[-1][0])) if ends else None

    def after(self, route: Route, number: int, us: int, *, inclusive: bool) -> Ended | None:
        """As WalProbe."""
        for lsn, _ in self._ends(route, number):
            if us_of(lsn) > us or (not inclusive and us_of(lsn) == us):
                return Ended(lsn, us_of(lsn))
        return None

    def xid(self, route: Route, number: int, xid: int, start: Lsn) -> Ended | None:
        """As WalProbe."""
        found = next((lsn for lsn, of in self._ends(route, number) if of == xid and lsn >= start), None)
        return Ended(found, us_of(found)) if found is not None else None

    def restore_point(self, route: Route, number: int, name: str, start: Lsn) -> Lsn | None:
        """As WalProbe."""
        lsn = self.points.get(name, -1)
        return Lsn(lsn) if max(start, number * route.size) <= lsn < (number + 1) * route.size else None

    def record(self, route: Route, start: Lsn) -> Lsn | None:
        """As WalProbe."""
        return next((Lsn(lsn) for lsn in self.records if start <= lsn < route.end), None)

    def last_record(self, route: Route) -> Lsn | None:
        """As WalProbe."""
        return max((Lsn(lsn) for lsn in self.records if lsn < route.end), default=None)

    def sent_us(self, route: Route, number: int) -> int:
        """As SendTimes."""
        return us_of(min((number + 1) * route.size, route.end)) + self.delay

    def begun_us(self, route: Route, number: int) -> int:
        """As SendTimes."""
        return us_of(number * route.size) + self.delay
