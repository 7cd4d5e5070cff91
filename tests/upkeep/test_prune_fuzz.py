"""Retention on the real layout: whatever the history and the rule, each promised moment stays reachable.

REPLICATOR_TEST_EXAMPLES says how many stories are drawn.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.core.lsn import Lsn, Segment
from replicator.core.retention import Rule
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.repository.layout import history_name
from replicator.restore.gather import gather, plan_from
from replicator.restore.plan import PlanRequest, RecoveryPlan
from replicator.seal.signature import base64url
from tests.upkeep.depot import SIZE, SYSTEM
from tests.upkeep.pruning import DAY, SEGMENTS, Years

DAYS = 6
EXAMPLES = int(os.environ.get("REPLICATOR_TEST_EXAMPLES", "10"))


@dataclass(frozen=True)
class Story:
    """The days with a snapshot, those whose is pinned, the day that begins the second timeline (DAYS: none does), the
    rule, and after how many steps the first run is killed.
    """

    taken: frozenset[int]
    pinned: frozenset[int]
    forked: int
    rule: Rule
    steps: int


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Any of them."""
    taken = draw(st.frozensets(st.integers(0, DAYS - 1), min_size=1))
    pinned = draw(st.frozensets(st.sampled_from(sorted(taken)), max_size=1))
    rule = Rule(draw(st.integers(0, DAYS)) * DAY, *(draw(st.integers(0, 2)) for _ in range(3)))
    return Story(taken, pinned, draw(st.integers(1, DAYS)), rule, draw(st.integers(0, 6)))


class Killed(Exception):
    """The end of a run that is not its own."""


def lived(years: Years, story: Story) -> None:
    """Make every day; each snapshot refers to the one before it."""
    before = None
    for day in range(DAYS):
        timeline = 2 if day >= story.forked else 1
        for part in range(SEGMENTS):
            years.segment_at(day * SEGMENTS + 1 + part, day + 0.3 * part, "local", timeline=timeline)
        if day in story.taken:
            pack = years.pack(years.label(day), 0, "local", size=300)
            years.snapshot_at(day, [pack] if before is None else [before, pack], "local", timeline=timeline)
            before = pack
    if story.forked < DAYS:
        switch = Lsn(Segment(1, story.forked * SEGMENTS + 1, SIZE).start)
        body = {"timeline": 2, "content": base64url(f"1\t{switch}\tno recovery target specified\n".encode())}
        years.document("history", history_name(SYSTEM, 2), body, "local")
    years.age_all("local")
    for day in story.pinned:
        years.note("pin", years.label(day), {}, "local")


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(stories())
def test_every_promised_moment_stays_on_the_real_layout(story: Story) -> None:
    """What could be reached within the window can be after, killed or not, as the planner of restores says itself; what
    is kept has all that it needs.
    """
    left = story.steps
    with tempfile.TemporaryDirectory() as base:
        years = Years(Path(base), ("local",), days=DAYS)
        lived(years, story)
        promised = [point for point in points(years) if years.written(point) > DAYS - story.rule.window / DAY]

        def steps(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        try:
            years.prune(story.rule, steps=steps)
        except Killed:
            check(years, story, promised)
        years.until_done(story.rule)
        check(years, story, promised)
        assert years.catalog("local").gaps == ()


def check(years: Years, story: Story, promised: list[int]) -> None:
    """Every promise holds."""
    years.check_promises()
    assert set(promised) <= set(points(years))
    assert {years.label(day) for day in story.pinned} <= years.labels("local")
    assert years.label(max(story.taken)) in years.labels("local")
    gathered = gather(years.repository)
    asked = [PlanRequest("frk", RecoveryTarget(TargetKind.LSN, lsn=Lsn(point))) for point in promised]
    asked += [
        PlanRequest("frk", RecoveryTarget(TargetKind.IMMEDIATE), snapshot=label) for label in years.labels("local")
    ]
    for request in asked:
        planned(years, plan_from(years.repository, request, gathered, None))


def planned(years: Years, plan: RecoveryPlan) -> None:
    """All that a plan needs is there: the snapshot's packs, each file of WAL, the histories of its timelines."""
    assert plan.missing == ()
    assert plan.snapshot.label in years.labels("local")
    held = years.held("local")
    assert all(source.name in held for file in plan.files[: plan.needed] for source in file.sources)
    assert all(history_name(SYSTEM, timeline) in held for timeline in plan.timelines if timeline > 1)


def points(years: Years) -> list[int]:
    """Every segment's end that can be recovered to."""
    windows = years.catalog("local").windows
    ends = [Segment(1, number, SIZE).end for number in range(1, DAYS * SEGMENTS + 1)]
    return [end for end in ends if any(window.start <= end <= window.end for window in windows)]
