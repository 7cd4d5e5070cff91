"""Retention on the real layout: whatever the history and the rule, each promised moment stays reachable."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.core.lsn import Segment
from replicator.core.retention import Rule
from tests.upkeep.depot import SIZE
from tests.upkeep.pruning import DAY, SEGMENTS, Years

DAYS = 6


@st.composite
def stories(draw: st.DrawFn) -> tuple[set[int], set[int], Rule, int]:
    """The days with a snapshot, those whose is pinned, the rule, and after how many steps the first run is killed."""
    taken = draw(st.sets(st.integers(0, DAYS - 1), min_size=1))
    pinned = draw(st.sets(st.sampled_from(sorted(taken)), max_size=1))
    rule = Rule(draw(st.integers(0, DAYS)) * DAY, *(draw(st.integers(0, 2)) for _ in range(3)))
    return taken, pinned, rule, draw(st.integers(0, 6))


class Killed(Exception):
    """The end of a run that is not its own."""


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(stories())
def test_every_promised_moment_stays_on_the_real_layout(story: tuple[set[int], set[int], Rule, int]) -> None:
    """What could be reached within the window can be after, killed or not; what is kept has all that it needs."""
    taken, pinned, rule, left = story
    with tempfile.TemporaryDirectory() as base:
        years = Years(Path(base), ("local",), days=DAYS)
        before = None
        for day in range(DAYS):
            for part in range(SEGMENTS):
                years.segment_at(day * SEGMENTS + 1 + part, day + 0.3 * part, "local")
            if day in taken:
                pack = years.pack(years.label(day), 0, "local", size=300)
                years.snapshot_at(day, [pack] if before is None else [before, pack], "local")
                before = pack
        years.age_all("local")
        for day in pinned:
            years.note("pin", years.label(day), {}, "local")
        promised = [point for point in points(years) if years.written(point) > DAYS - rule.window / DAY]

        def steps(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        try:
            years.prune(rule, steps=steps)
        except Killed:
            years.check_promises()
        years.until_done(rule)
        years.check_promises()
        reached = set(points(years))
        assert set(promised) <= reached
        assert {years.label(day) for day in pinned} <= years.labels("local")
        assert years.label(max(taken)) in years.labels("local")
        assert years.catalog("local").gaps == ()


def points(years: Years) -> list[int]:
    """Every segment's end that can be recovered to."""
    windows = years.catalog("local").windows
    ends = [Segment(1, number, SIZE).end for number in range(1, DAYS * SEGMENTS + 1)]
    return [end for end in ends if any(window.start <= end <= window.end for window in windows)]
