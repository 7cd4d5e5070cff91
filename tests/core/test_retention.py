"""Retention against a model: for every rule and history, each promised moment stays reachable, and little else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn
from replicator.core.retention import Retention, Rule, Taken, labels_in_use, retain, sentences
from replicator.core.snapshot import Snapshot, label_of
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import windows

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600
RATE = 1000  # bytes of WAL in an hour of the model
SEGMENT = 256


def moment(hour: float) -> datetime:
    """Hours since the model began."""
    return EPOCH + timedelta(hours=hour)


def taken(hour: int, timeline: int = 1, **facts: bool) -> Taken:
    """A snapshot of half an hour that stopped at `hour`."""
    start, stop = Lsn(int((hour - 0.5) * RATE)), Lsn(hour * RATE)
    return Taken(Snapshot(label_of(moment(hour - 0.5)), 7, timeline, start, stop), moment(hour), **facts)


def decide(snapshots: list[Taken], rule: Rule, now: int, switches: tuple[int, ...] = ()) -> Retention:
    """The decision at hour `now`, with a promotion at each hour of `switches`."""
    histories, last = world(now, switches)
    return retain(snapshots, rule, moment(now), histories, last)


def world(now: int, switches: tuple[int, ...]) -> tuple[dict[int, TimelineHistory], dict[int, datetime]]:
    """Timelines one after the other, and when each had its last byte."""
    histories = {}
    parents: tuple[tuple[int, Lsn], ...] = ()
    for number, hour in enumerate(switches, 2):
        parents = (*parents, (number - 1, Lsn(hour * RATE)))
        histories[number] = TimelineHistory(number, parents)
    last = {number: moment(hour) for number, hour in enumerate([*switches, now], 1)}
    return histories, last


def left(plan: Retention, now: int, switches: tuple[int, ...]) -> Coverage:
    """What WAL remains, object by object, when everything from hour 0 to `now` was there in segments."""
    found, begin = [], 0
    for timeline, end in enumerate([*(hour * RATE for hour in switches), now * RATE], 1):
        for start in range(begin // SEGMENT * SEGMENT, end, SEGMENT):
            stop = min(start + SEGMENT, end)
            if plan.keeps(timeline, start, stop):
                found.append((timeline, start, stop))
        begin = end
    return Coverage.of(found)


@st.composite
def stories(draw: st.DrawFn) -> tuple[list[Taken], Rule, int, tuple[int, ...]]:
    """Snapshots, promotions and a rule over sixty days."""
    now = draw(st.integers(48, 60 * 24))
    switches = tuple(sorted(draw(st.sets(st.integers(2, now - 1), max_size=3))))
    hours = sorted(draw(st.sets(st.integers(2, now), max_size=40)))
    snapshots = []
    for hour in hours:
        timeline = 1 + sum(1 for switch in switches if switch <= hour - 1)
        if not any(hour - 1 < switch <= hour for switch in switches):
            snapshots.append(taken(hour, timeline, pinned=draw(st.integers(0, 9)) == 0))
    counts = [draw(st.integers(0, 6)) for _ in range(3)]
    return snapshots, Rule(draw(st.integers(0, 30 * 24)) * HOUR, *counts), now, switches


@given(stories())
def test_every_promised_moment_stays_reachable(story: tuple[list[Taken], Rule, int, tuple[int, ...]]) -> None:
    """What could be reached in the window can be reached after, and each kept snapshot by itself."""
    snapshots, rule, now, switches = story
    plan = decide(snapshots, rule, now, switches)
    histories, _ = world(now, switches)
    every = decide(snapshots, Rule(10**9), now, switches)
    before = windows([one.snapshot for one in snapshots], left(every, now, switches), histories)
    kept = [one for one in snapshots if one.label in plan.kept]
    after = windows([one.snapshot for one in kept], left(plan, now, switches), histories)
    cutoff = max(0, int(now * RATE - rule.window / HOUR * RATE))
    for window in before:
        if window.end <= cutoff:
            continue
        for target in {max(window.start, cutoff), window.end, (max(window.start, cutoff) + window.end) // 2}:
            assert any(other.timeline == window.timeline and other.start <= target <= other.end for other in after), (
                window,
                target,
            )
    for one in kept:
        assert left(plan, now, switches).holds(one.snapshot.timeline, one.snapshot.start, one.snapshot.stop)
    assert all(one.label in plan.kept for one in snapshots if one.pinned)
    assert not snapshots or max(snapshots, key=lambda one: one.stopped).label in plan.kept


@given(stories())
def test_nothing_is_kept_without_a_reason(story: tuple[list[Taken], Rule, int, tuple[int, ...]]) -> None:
    """Kept and gone are everything, and what goes is outside the window and the counts."""
    snapshots, rule, now, switches = story
    plan = decide(snapshots, rule, now, switches)
    assert {*plan.kept, *plan.gone} == {one.label for one in snapshots}
    assert not set(plan.kept) & set(plan.gone)
    most = rule.daily + rule.weekly + rule.monthly + sum(one.pinned for one in snapshots)
    begins = sum(1 for why in plan.kept.values() if "begins the window" in why)
    inside = sum(1 for one in snapshots if one.stopped > moment(now) - timedelta(seconds=rule.window))
    assert len(plan.kept) <= most + begins + inside + 1
    assert begins <= len(switches) + 1


def test_an_old_snapshot_keeps_only_its_own_wal() -> None:
    """A monthly one from long ago is an isolated point."""
    plan = decide([taken(5), taken(900)], Rule(24 * HOUR, monthly=3), 950)
    assert set(plan.kept) == {taken(5).label, taken(900).label}
    assert plan.keeps(1, 4500, 4700)
    assert not plan.keeps(1, 5200, 5400)
    assert plan.keeps(1, 949_000, 949_200)


def test_a_damaged_snapshot_is_not_what_others_rest_on() -> None:
    """It counts for no period, begins no window, and the newest good one stays beside it."""
    good, bad = taken(10), taken(20, damaged=True)
    plan = decide([good, bad], Rule(0, daily=1), 100)
    assert plan.kept[good.label] == ("begins the window", "daily", "the newest")
    assert plan.kept[bad.label] == ("the newest",)
    assert plan.keeps(1, 10_000, 10_100)


def test_an_abandoned_timeline_goes_with_its_window() -> None:
    """Its tail stays while a moment of it is in the window, and goes after."""
    snapshots = [taken(10), taken(60, timeline=2)]
    soon = decide(snapshots, Rule(24 * HOUR), 55 + 20, (55,))
    assert soon.keeps(1, 54_900, 55_000)
    late = decide(snapshots, Rule(24 * HOUR), 200, (55,))
    assert not late.keeps(1, 54_900, 55_000)
    assert late.keeps(2, 199_000, 199_100)
    assert late.gone == (taken(10).label,)


def test_without_a_snapshot_all_wal_stays() -> None:
    """The first snapshot is still to come."""
    plan = decide([], Rule(0), 100)
    assert plan.keeps(1, 0, 1)
    assert plan.keeps(1, 99_999, 100_000)


def test_what_is_in_use_stays() -> None:
    """A restore under way and a parent of a snapshot that is being taken."""
    plan = decide([taken(5, in_use=True), taken(50)], Rule(0), 100)
    assert plan.kept[taken(5).label] == ("in use",)
    assert labels_in_use([("b", "a"), ("c", None)]) == {"a", "b", "c"}


@pytest.mark.parametrize(("count", "kept"), [(0, 1), (1, 1), (3, 3), (100, 10)])
def test_counts_are_of_periods_that_have_one(count: int, kept: int) -> None:
    """A day without a snapshot does not use up a count; the last of a day stands for it."""
    snapshots = [taken(48 * day + hour) for day in range(1, 11) for hour in (3, 20)]
    plan = decide(snapshots, Rule(0, daily=count), 48 * 11)
    assert len(plan.kept) == kept
    assert all(label.endswith("T193000Z") for label in plan.kept)


def test_the_plan_reads_as_sentences() -> None:
    """One line for each snapshot, and what it comes to."""
    plan = decide([taken(5), taken(50)], Rule(0), 100)
    assert sentences(plan, "local", 3, "4 MB") == [
        "local: 20260103T013000Z is kept: begins the window, the newest.",
        "local: 20260101T043000Z goes.",
        "local: 3 objects go, 4 MB.",
    ]
