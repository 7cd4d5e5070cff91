"""Recoverable windows and gaps, from snapshots, coverage and histories. Pure.

A target is reachable if and only if it lies in a window (PostgreSQL recovers from a snapshot's stop on, along one
timeline path, as far as WAL is held without a hole).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory


@dataclass(frozen=True, slots=True)
class Window:
    """From `snapshot`'s stop to `end`, on the path to `timeline`. A point when both are equal."""

    timeline: int
    start: Lsn
    end: Lsn
    snapshot: Snapshot


def history_of(timeline: int, histories: Mapping[int, TimelineHistory]) -> TimelineHistory:
    """The known history of a timeline; one without parents when none is known (timeline 1, or the first we saw)."""
    return histories.get(timeline, TimelineHistory(timeline, ()))


def run_of(snapshot: Snapshot, history: TimelineHistory, coverage: Coverage) -> tuple[int, Lsn] | None:
    """Where the gapless run that holds `snapshot` ends along `history`: (timeline, LSN); None when the snapshot's own
    WAL (start to stop) is not held, or the path leaves its timeline before its stop.
    """
    if not history.on_path(snapshot.timeline):
        return None
    switch = history.switchpoint(snapshot.timeline)
    if switch is not None and switch < snapshot.stop:
        return None
    if not coverage.holds(snapshot.timeline, snapshot.start, snapshot.stop):
        return None
    if not coverage.holds(snapshot.timeline, snapshot.stop, snapshot.stop + 1) and switch != snapshot.stop:
        return snapshot.timeline, snapshot.stop
    return coverage.reach_along(history, snapshot.stop)


def windows(
    snapshots: Iterable[Snapshot], coverage: Coverage, histories: Mapping[int, TimelineHistory]
) -> tuple[Window, ...]:
    """Every maximal window, ascending by timeline and start: one per gapless run that holds a snapshot, and one per
    timeline that branches off.
    """
    best: dict[tuple[int, Lsn], Window] = {}
    timelines = set(coverage.by_timeline) | set(histories)
    ordered = sorted(snapshots, key=lambda snapshot: (snapshot.stop, snapshot.label))
    for timeline in sorted(timelines | {snapshot.timeline for snapshot in ordered}):
        history = history_of(timeline, histories)
        for snapshot in ordered:
            run = run_of(snapshot, history, coverage)
            if run is None or run[0] != timeline:
                continue
            best.setdefault((timeline, run[1]), Window(timeline, snapshot.stop, run[1], snapshot))
    return tuple(sorted(best.values(), key=lambda window: (window.timeline, window.start, window.end)))


@dataclass(frozen=True, slots=True)
class Gap:
    """A hole in coverage: open until a snapshot taken after it is complete."""

    timeline: int
    start: Lsn
    stop: Lsn
    open: bool


def holes(coverage: Coverage) -> tuple[LsnRange, ...]:
    """What is missing between held ranges of one timeline."""
    return tuple(
        LsnRange(timeline, Lsn(left[1]), Lsn(right[0]))
        for timeline, pairs in coverage.by_timeline.items()
        for left, right in pairwise(pairs)
    )


def gaps(
    snapshots: Iterable[Snapshot],
    coverage: Coverage,
    recorded: Iterable[LsnRange] = (),
    retired: Iterable[LsnRange] = (),
) -> tuple[Gap, ...]:
    """Recorded gaps and holes between held ranges of one timeline; closed when a snapshot starts at or after the hole's
    end on the same timeline or a later one. What retention took away (`retired`) is no gap.
    """
    taken = list(snapshots)
    accounted = coverage.union(Coverage.of((part.timeline, part.start, part.end) for part in retired))
    found: dict[tuple[int, int, int], Gap] = {}
    for hole in [*holes(coverage), *recorded]:
        still = accounted.missing(hole.timeline, hole.start, hole.end)
        for part in still:
            closed = any(snapshot.start >= part.end and snapshot.timeline >= part.timeline for snapshot in taken)
            found[(part.timeline, part.start, part.end)] = Gap(part.timeline, part.start, part.end, not closed)
    return tuple(found[key] for key in sorted(found))
