"""What is asked for next, what is foreign, and what is lost."""

from __future__ import annotations

import pytest

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.errors import ForeignSource
from replicator.stream.position import (
    Source,
    StartAt,
    after_removal,
    check_histories,
    check_system,
    first_start,
    gaps_between,
    next_start,
)  # fmt: skip

S = 2**20
ONE = TimelineHistory(1, ())
TWO = TimelineHistory(2, ((1, Lsn(5 * S + 100)),))
FIVE = TimelineHistory(5, ((1, Lsn(5 * S + 100)), (2, Lsn(9 * S))))


def source(history: TimelineHistory, end: int = 20 * S) -> Source:
    """A source on that history."""
    return Source(7, history.timeline, Lsn(end), history)


@pytest.mark.parametrize(
    ("history", "held", "expected"),
    [
        (ONE, {1: 3 * S + 5}, StartAt(1, Lsn(3 * S), Lsn(3 * S + 5))),
        (ONE, {1: 3 * S}, StartAt(1, Lsn(3 * S), Lsn(3 * S))),
        (TWO, {1: 3 * S + 5}, StartAt(1, Lsn(3 * S), Lsn(3 * S + 5))),
        (TWO, {1: 5 * S + 100}, StartAt(2, Lsn(5 * S), Lsn(5 * S + 100))),
        (
            TWO,
            {1: 6 * S},
            StartAt(2, Lsn(5 * S), Lsn(5 * S + 100), LsnRange(1, Lsn(5 * S + 100), Lsn(6 * S))),
        ),
        (TWO, {1: 5 * S + 100, 2: 5 * S + 50}, StartAt(2, Lsn(5 * S), Lsn(5 * S + 50))),
        (FIVE, {1: 5 * S + 100, 2: 9 * S}, StartAt(5, Lsn(9 * S), Lsn(9 * S))),
        # a restore branched off timeline 1 although timeline 3 was followed meanwhile
        (
            TimelineHistory(4, ((1, Lsn(2 * S)),)),
            {1: 5 * S, 3: 8 * S},
            StartAt(4, Lsn(2 * S), Lsn(2 * S), LsnRange(1, Lsn(2 * S), Lsn(5 * S))),
        ),
        # the other side of a fork won: what it wrote on timeline 1 after we had left for timeline 2 is lost to us
        (
            TimelineHistory(3, ((1, Lsn(7 * S + 9)),)),
            {1: 5 * S + 100, 2: 6 * S},
            StartAt(3, Lsn(7 * S), Lsn(7 * S + 9), lost=LsnRange(1, Lsn(5 * S + 100), Lsn(7 * S))),
        ),
        # nothing is: the first segment of timeline 3 repeats it
        (
            TimelineHistory(3, ((1, Lsn(5 * S + 200)),)),
            {1: 5 * S + 100, 2: 6 * S},
            StartAt(3, Lsn(5 * S), Lsn(5 * S + 200)),
        ),
    ],
)
def test_we_always_ask_for_our_own_end(history: TimelineHistory, held: dict[int, int], expected: StartAt) -> None:
    """Our own durable end rounded down to a segment, on the timeline that goes on from there."""
    assert next_start(source(history), {timeline: Lsn(end) for timeline, end in held.items()}, S) == expected


@pytest.mark.parametrize(
    ("history", "held", "end"),
    [
        (ONE, {2: 9 * S}, 20 * S),
        (ONE, {1: 5 * S, 2: 9 * S}, 20 * S),
        (ONE, {1: 9 * S}, 8 * S),
        (TimelineHistory(9, ((8, Lsn(S)),)), {1: 9 * S}, 20 * S),
    ],
)
def test_a_source_that_contradicts_us_is_foreign(history: TimelineHistory, held: dict[int, int], end: int) -> None:
    """An older timeline, a shorter one, or one that never was ours."""
    with pytest.raises(ForeignSource):
        next_start(source(history, end), {timeline: Lsn(at) for timeline, at in held.items()}, S)


def test_histories_must_agree() -> None:
    """The same timeline number with another switch point, or an ancestor with one, is foreign."""
    check_histories(FIVE, {2: TWO, 5: FIVE, 3: TimelineHistory(3, ((1, Lsn(1)),))})
    with pytest.raises(ForeignSource):
        check_histories(TWO, {2: TimelineHistory(2, ((1, Lsn(5 * S)),))})
    with pytest.raises(ForeignSource):
        check_histories(FIVE, {2: TimelineHistory(2, ((1, Lsn(5 * S)),))})


def test_system_ids() -> None:
    """Nothing known: anyone; else one of ours."""
    check_system(7, [])
    check_system(7, [6, 7])
    with pytest.raises(ForeignSource):
        check_system(7, [6])


def test_the_first_run_begins_where_the_slot_stands() -> None:
    """At the slot's restart LSN rounded down, else at the source's end; on the timeline of that byte."""
    assert first_start(source(ONE), Lsn(3 * S + 9), S) == StartAt(1, Lsn(3 * S), Lsn(3 * S))
    assert first_start(source(ONE, 4 * S + 1), None, S) == StartAt(1, Lsn(4 * S), Lsn(4 * S))
    assert first_start(source(TWO), Lsn(5 * S + 200), S).timeline == 1
    assert first_start(source(TWO), Lsn(6 * S), S).timeline == 2


def test_after_removal_the_slot_is_tried_first() -> None:
    """Only places behind our own end count."""
    start = StartAt(1, Lsn(3 * S), Lsn(3 * S + 5))
    assert [later.lsn for later in after_removal(source(ONE), start, Lsn(8 * S + 1), S)] == [8 * S, 20 * S]
    assert [later.lsn for later in after_removal(source(ONE), start, Lsn(3 * S), S)] == [20 * S]
    assert after_removal(source(ONE, 3 * S + 5), start, None, S) == ()


def test_a_gap_is_cut_at_switch_points() -> None:
    """What is lost is named by the timeline that held it."""
    start = StartAt(1, Lsn(3 * S), Lsn(3 * S + 5))
    assert gaps_between(ONE, start, StartAt(1, Lsn(8 * S), Lsn(8 * S))) == (LsnRange(1, Lsn(3 * S + 5), Lsn(8 * S)),)
    assert gaps_between(FIVE, start, StartAt(5, Lsn(12 * S), Lsn(12 * S))) == (
        LsnRange(1, Lsn(3 * S + 5), Lsn(5 * S + 100)),
        LsnRange(2, Lsn(5 * S + 100), Lsn(9 * S)),
        LsnRange(5, Lsn(9 * S), Lsn(12 * S)),
    )
