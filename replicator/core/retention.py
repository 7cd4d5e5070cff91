"""What is kept and what goes: snapshots, and the WAL that a kept moment needs. Pure.

Owns the rule, not the deleting. Every moment of the window stays reachable; older snapshots are kept by count or pin,
each with only the WAL from its start to its stop. A store's newest good snapshot never goes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import history_of

#: The end of a range that is kept whatever comes after.
END = Lsn(2**64 - 1)


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy's [retention]: seconds of the window, and how many days, weeks and months keep one snapshot."""

    window: float
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A complete snapshot of one store: when it stopped (UTC), whether it is marked as damaged, pinned, or in use by
    someone (a restore under way, a snapshot that refers to its packs).
    """

    snapshot: Snapshot
    stopped: datetime
    damaged: bool = False
    pinned: bool = False
    in_use: bool = False

    @property
    def label(self) -> str:
        """The snapshot's."""
        return self.snapshot.label


@dataclass(frozen=True, slots=True)
class Retention:
    """The decision for one system id in one store. `kept` gives a label's reasons, for people; `wal` are the ranges of
    which any object that touches one stays.
    """

    kept: Mapping[str, tuple[str, ...]]
    gone: tuple[str, ...]
    wal: tuple[LsnRange, ...]

    def keeps(self, timeline: int, start: int, end: int) -> bool:
        """Whether an object with the WAL [start, end) of `timeline` stays."""
        return any(
            part.timeline == timeline and part.start < max(end, start + 1) and start < part.end for part in self.wal
        )


def retain(
    taken: Iterable[Taken],
    rule: Rule,
    now: datetime,
    histories: Mapping[int, TimelineHistory],
    last_wal: Mapping[int, datetime],
) -> Retention:
    """Decide. `last_wal`: by timeline that has WAL, an upper bound of when its newest byte was written."""
    ordered = sorted(taken, key=lambda one: (one.stopped, one.label))
    cutoff = now - timedelta(seconds=rule.window)
    reasons: dict[str, list[str]] = {}
    wal: list[LsnRange] = []
    for timeline in sorted(last_wal):
        if last_wal[timeline] >= cutoff:
            wal += _window(ordered, cutoff, history_of(timeline, histories), reasons)
    _counted(ordered, rule, reasons)
    for one in ordered:
        if one.pinned:
            reasons.setdefault(one.label, []).append("pinned")
        if one.in_use:
            reasons.setdefault(one.label, []).append("in use")
            wal += _onward(one, last_wal, histories)  # whoever uses it may need all that came after
    for newest in (ordered[-1:], [one for one in ordered if not one.damaged][-1:]):
        if newest:
            reasons.setdefault(newest[0].label, []).append("the newest")
            wal += _onward(newest[0], last_wal, histories)
    wal += [LsnRange(one.snapshot.timeline, one.snapshot.start, one.snapshot.stop)
            for one in ordered if one.label in reasons]  # fmt: skip
    if not ordered:
        wal = [LsnRange(timeline, Lsn(0), END) for timeline in last_wal]  # nothing can be restored yet: keep all
    gone = tuple(one.label for one in ordered if one.label not in reasons)
    kept = {one.label: tuple(dict.fromkeys(reasons[one.label])) for one in ordered if one.label in reasons}
    return Retention(kept, gone, tuple(dict.fromkeys(wal)))


def _window(
    ordered: list[Taken], cutoff: datetime, history: TimelineHistory, reasons: dict[str, list[str]]
) -> list[LsnRange]:
    """Keep what reaches every moment since `cutoff` on the path to one timeline: all snapshots since, and the newest
    good one before. The WAL from the oldest of them on.
    """
    path = [one for one in ordered if _on_path(one, history)]
    since = [one for one in path if one.stopped > cutoff]
    before = [one for one in path if one.stopped <= cutoff and not one.damaged][-1:]
    for one in since:
        reasons.setdefault(one.label, []).append("in the window")
    for one in before:
        reasons.setdefault(one.label, []).append("begins the window")
    first = min((one.snapshot.start for one in [*before, *since]), default=None)
    return [] if first is None else _along(history, first)


def _on_path(one: Taken, history: TimelineHistory) -> bool:
    if not history.on_path(one.snapshot.timeline):
        return False
    switch = history.switchpoint(one.snapshot.timeline)
    return switch is None or one.snapshot.stop <= switch


def _onward(
    one: Taken, last_wal: Mapping[int, datetime], histories: Mapping[int, TimelineHistory]
) -> list[LsnRange]:  # fmt: skip
    """Everything after the newest snapshot, on every timeline that comes from it."""
    paths = [history_of(timeline, histories) for timeline in {*last_wal, one.snapshot.timeline}]
    return [part for path in paths if _on_path(one, path) for part in _along(path, one.snapshot.start)]


def _along(history: TimelineHistory, first: Lsn) -> list[LsnRange]:
    """The path's stretches from `first` on. A stretch ends at its switch point: what lies beyond is another future."""
    found = []
    for stretch in history.path():
        end = END if stretch.end is None else stretch.end
        if end > first:
            found.append(LsnRange(stretch.timeline, max(first, stretch.start), end))
    return found


def _counted(ordered: list[Taken], rule: Rule, reasons: dict[str, list[str]]) -> None:
    """The last good snapshot of each of the newest days, weeks and months that have one."""
    periods: tuple[tuple[str, int, Callable[[datetime], object]], ...] = (
        ("daily", rule.daily, lambda moment: moment.date()),
        ("weekly", rule.weekly, lambda moment: moment.isocalendar()[:2]),
        ("monthly", rule.monthly, lambda moment: (moment.year, moment.month)),
    )
    for word, count, period in periods:
        last = {period(one.stopped.astimezone(UTC)): one for one in ordered if not one.damaged}
        for one in list(last.values())[len(last) - count if count < len(last) else 0 :]:
            if count:
                reasons.setdefault(one.label, []).append(word)


def sentences(plan: Retention, store: str, objects: int, size: str) -> list[str]:
    """The plan as an operator reads it. `objects` and `size` are what goes altogether."""
    lines = [f"{store}: {label} is kept: {', '.join(why)}." for label, why in plan.kept.items()]
    lines += [f"{store}: {label} goes." for label in plan.gone]
    what = "nothing goes" if not objects else f"{objects} objects go, {size}"
    return [*lines, f"{store}: {what}."]


def labels_in_use(begun: Collection[tuple[str, str | None]]) -> frozenset[str]:
    """What snapshots that are being taken protect: (label, parent) pairs of their `begin` objects."""
    return frozenset(label for pair in begun for label in pair if label is not None)
