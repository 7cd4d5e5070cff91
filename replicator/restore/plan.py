"""The planner: from a target and what stores hold to a RecoveryPlan, or the exact reachable windows. Pure.

Owns the choice of store, snapshot and timeline. It reads nothing itself: catalogs and summaries are given, and what
only the WAL can tell is asked of a probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.core.windows import Window, windows
from replicator.errors import SnapshotNotFound, TargetUnreachable, UsageError
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import PackId, pack_name
from replicator.repository.manifests import ManifestSummary
from replicator.restore.outlook import WindowFacts, window_facts
from replicator.restore.probe import SendTimes, WalProbe
from replicator.restore.route import Route, WalFile, routes
from replicator.restore.search import Search, Stop

#: WAL beyond the plan's need that the guard still knows of, should one record be that long.
_SPARE = 1024 * 1024 * 1024
#: What expected_s stands on: bytes written per second, and WAL replayed per second (docs/decisions.md).
WRITE_RATE = 100e6
REPLAY_RATE = 64e6
_LONG_S = 24 * 3600.0


@dataclass(frozen=True)
class StoreView:
    """What one store holds of one system id, and its snapshots' summaries by label. `packs`: those it holds."""

    catalog: StoreCatalog
    summaries: Mapping[str, ManifestSummary]
    packs: frozenset[PackId]

    @property
    def complete(self) -> tuple[Snapshot, ...]:
        """The snapshots whose packs are all there."""
        return tuple(found for found in self.catalog.snapshots if not self.lacks(found))

    def lacks(self, snapshot: Snapshot) -> tuple[str, ...]:
        """The names of packs that a snapshot needs and this store has not."""
        absent = [pack for pack in self.summaries[snapshot.label].packs if pack not in self.packs]
        return tuple(pack_name(snapshot.system_id, pack) for pack in absent)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its recoverable windows, from complete snapshots alone."""
        return windows(self.complete, self.catalog.coverage, self.catalog.histories)


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked for. `views` are given newest system first, then in the policy's order of stores."""

    cluster: str
    target: RecoveryTarget
    snapshot: str | None = None
    action: str = "promote"
    can_open: bool = True


@dataclass(frozen=True)
class RecoveryPlan:
    """How a target is reached. `stop` is what recovery is told (LATEST: nothing); bytes from `until` on are delivered
    as zeros; `files` in replay order, of which the first `needed` are read for certain.
    """

    target: RecoveryTarget
    stop: RecoveryTarget
    store: str
    snapshot: Snapshot
    summary: ManifestSummary
    timeline: int
    timelines: tuple[int, ...]
    histories: tuple[int, ...]
    segment_size: int
    until: Lsn
    files: tuple[WalFile, ...]
    needed: int
    missing: tuple[str, ...]
    windows: tuple[WindowFacts, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def segments(self) -> int:
        """Complete segments that recovery reads."""
        return sum(any(source.whole for source in file.sources) for file in self.files[: self.needed])

    @property
    def pieces(self) -> int:
        """Pieces that recovery reads."""
        return sum(not source.whole for file in self.files[: self.needed] for source in file.sources)

    @property
    def wal_bytes(self) -> int:
        """Plain bytes of WAL held for recovery to read."""
        return sum(file.end - file.start for file in self.files[: self.needed])

    @property
    def bytes(self) -> int:
        """Plain bytes to write: files and WAL."""
        return self.summary.bytes + self.wal_bytes

    @property
    def expected_s(self) -> float:
        """A rough estimate in seconds: write everything, replay the WAL, start."""
        return round(1 + self.bytes / WRITE_RATE + self.wal_bytes / REPLAY_RATE, 1)

    def as_json(self) -> dict[str, Any]:
        """The value of `restore --dry-run --json`."""
        return {
            "target": str(self.target),
            "snapshot": self.snapshot.label,
            "store": self.store,
            "timelines": list(self.timelines),
            "segments": self.segments,
            "pieces": self.pieces,
            "bytes": self.bytes,
            "missing": list(self.missing),
            "expected_s": self.expected_s,
            "windows": [window.as_json() for window in self.windows],
        }


def plan(request: PlanRequest, views: Sequence[StoreView], times: SendTimes, probe: WalProbe | None) -> RecoveryPlan:
    """The plan for a target. `views`: newest system id first, then the stores in the policy's order.

    Raises UsageError for a request that makes no sense, SnapshotNotFound, WalConflict, and TargetUnreachable with the
    windows.
    """
    check(request)
    chosen = _with_label(request, views)
    if not any(view.catalog.snapshots for view in chosen):
        raise SnapshotNotFound(
            f"there is no snapshot of {request.cluster} in {_names(views)}",
            hint=f"Take one with `replicator snapshot take {request.cluster}`.",
        )
    for group in _systems(chosen):
        best = _best(request, group, times, probe)
        if best is not None:
            return _build(request, *best, times, probe)
        if request.target.kind is TargetKind.LATEST:
            break
    raise unreachable(request, chosen, times, probe)


def check(request: PlanRequest) -> None:
    """Raise UsageError for what no repository could answer."""
    target = request.target
    if not target.inclusive and target.kind in (TargetKind.LATEST, TargetKind.IMMEDIATE):
        raise UsageError(
            f"--exclusive makes no sense with --{target.kind.value}",
            hint="It goes with --to-time, --to-lsn, --to-xid and --to-name.",
        )


def _with_label(request: PlanRequest, views: Sequence[StoreView]) -> list[StoreView]:
    """The views that hold the snapshot asked for, with it alone; all of them when none is asked for."""
    if request.snapshot is None:
        return list(views)
    found: list[StoreView] = []
    for view in views:
        kept = tuple(snapshot for snapshot in view.catalog.snapshots if snapshot.label == request.snapshot)
        if kept:
            found.append(replace(view, catalog=replace(view.catalog, snapshots=kept)))
    if not found:
        raise SnapshotNotFound(
            f"there is no snapshot {request.snapshot} of {request.cluster} in {_names(views)}",
            hint=f"`replicator snapshot list {request.cluster}` shows those there are.",
        )
    return found


def _systems(views: Sequence[StoreView]) -> Iterator[list[StoreView]]:
    for system_id in dict.fromkeys(view.catalog.system_id for view in views):
        group = [view for view in views if view.catalog.system_id == system_id]
        if any(view.catalog.snapshots for view in group):
            yield group


def _best(
    request: PlanRequest, group: Sequence[StoreView], times: SendTimes, probe: WalProbe | None
) -> tuple[StoreView, Route, Stop] | None:
    """The newest timeline that the target lies on: there the first definite stop, else the furthest end of WAL."""
    found: list[tuple[int, StoreView, Route]] = []
    for order, view in enumerate(group):
        found += [(order, view, route) for route in routes(view.catalog, view.complete, request.target.timeline)]
    if request.target.kind is TargetKind.IMMEDIATE:
        found.sort(key=lambda item: (item[2].snapshots[-1].label, -item[0]), reverse=True)
    elif request.target.kind is TargetKind.LATEST:
        found.sort(key=lambda item: (item[2].history.timeline, item[2].end, -item[0]), reverse=True)
    else:
        found.sort(key=lambda item: (item[2].history.timeline, -item[0], item[2].end), reverse=True)
    best: tuple[StoreView, Route, Stop] | None = None
    for _, view, route in found:
        if best is not None and route.history.timeline < best[1].history.timeline:
            break  # an older timeline goes on after the fork, but that is another future
        stop = Search(view.summaries, times, probe).locate(request.target, route)
        if stop is None:
            continue
        if not stop.latest or request.target.kind is TargetKind.LATEST:
            return view, route, stop
        if best is None or route.end > best[1].end:
            best = view, route, stop
    return best


def _build(
    request: PlanRequest, view: StoreView, route: Route, stop: Stop, times: SendTimes, probe: WalProbe | None
) -> RecoveryPlan:
    snapshot, summary = stop.snapshot, view.summaries[stop.snapshot.label]
    numbers = route.numbers(snapshot.start, stop.limit)
    spare = route.numbers(snapshot.start, min(route.end, stop.limit + _SPARE))
    files = tuple(route.file(number) for number in spare)
    missing = [file.name for file in files[: len(numbers)] if file.end < min(file.start + file.size, stop.limit)]
    path = route.history.path()
    return RecoveryPlan(
        target=request.target,
        stop=_told(request, route, stop, probe),
        store=view.catalog.store,
        snapshot=snapshot,
        summary=summary,
        timeline=route.history.timeline,
        timelines=tuple(
            stretch.timeline
            for stretch in path
            if (stretch.end is None or stretch.end > snapshot.start) and stretch.start < stop.limit
        ),
        histories=tuple(sorted(view.catalog.histories)),
        segment_size=route.size,
        until=route.end,
        files=files,
        needed=len(numbers),
        missing=tuple(missing),
        windows=window_facts(view.windows, view.catalog, view.summaries, times, probe),
        warnings=tuple(_warnings(request, summary, stop)),
    )


def _told(request: PlanRequest, route: Route, stop: Stop, probe: WalProbe | None) -> RecoveryTarget:
    """What recovery is told: nothing where nothing follows the target, for PostgreSQL refuses a target at the very end
    of WAL. To pause or shut down there, it is told the last record.
    """
    target = request.target
    if stop.latest:
        last = probe.last_record(route) if probe is not None and request.action != "promote" else None
        if last is not None:
            return RecoveryTarget(TargetKind.LSN, lsn=last)
        return RecoveryTarget(TargetKind.LATEST)
    if target.kind is TargetKind.NAME and not target.inclusive:  # PostgreSQL has no such thing
        return RecoveryTarget(TargetKind.LSN, lsn=stop.position, inclusive=False)
    return target


def _warnings(request: PlanRequest, summary: ManifestSummary, stop: Stop) -> Iterator[str]:
    if summary.damaged:
        yield f"snapshot {summary.snapshot.label} holds pages whose checksums were wrong at the source"
    if not request.can_open:
        yield "this host can't open the repository: times are at most these, and it can't restore"
    if summary.bytes / WRITE_RATE > _LONG_S:
        yield "this restore may take more than 24 h: don't prune the repository meanwhile"
    if stop.latest and request.target.kind is not TargetKind.LATEST:
        yield f"nothing follows the target: recovery goes to the end of what is held, {stop.limit}"


def unreachable(
    request: PlanRequest, views: Sequence[StoreView], times: SendTimes, probe: WalProbe | None
) -> TargetUnreachable:
    """The refusal, with the exact reachable windows of every store asked."""
    lines: list[str] = []
    found: list[dict[str, Any]] = []
    for view in views:
        for window in window_facts(view.windows, view.catalog, view.summaries, times, probe):
            lines.append(f"store {view.catalog.store}: {window}")
            if window.as_json() not in found:
                found.append(window.as_json())
    lacking = [name for view in views for snapshot in view.catalog.snapshots for name in view.lacks(snapshot)]
    where = f" with snapshot {request.snapshot}" if request.snapshot else ""
    path = f" on timeline {request.target.timeline}" if request.target.timeline is not None else ""
    said = f"Reachable are: {'; '.join(lines)}." if lines else "Nothing is reachable: no snapshot has all of its WAL."
    if lacking:
        said += f" Missing from snapshots: {', '.join(sorted(set(lacking))[:5])}."
    return TargetUnreachable(
        f"{request.target} can't be reached{path}{where} in {_names(views)}",
        windows=tuple(found),
        hint=said,
    )


def _names(views: Sequence[StoreView]) -> str:
    names = list(dict.fromkeys(view.catalog.store for view in views))
    return f"store {', '.join(names)}" if names else "its stores"
