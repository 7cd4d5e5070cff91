"""The governor's levels: in bytes and in time, never on one look, never while the stream catches up."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.lsn import Lsn
from replicator.stream.governor import URGENT, Governor, Level, Look, Outlook
from replicator.stream.roomwords import choice_problem, room_problem

MB = 2**20
GB = 2**30
PACE = 10.0


class Slot:
    """A slot over time: WAL is made and received at given rates, in bytes per second."""

    def __init__(self, limit: int | None, *, safe: int | None = None, disk: int | None = None) -> None:
        self.governor = Governor(limit, segment_size=16 * MB, pace=PACE)
        self.safe, self.disk = safe, disk
        self.at, self.end, self.restart, self.session = 0.0, 100 * GB, 100 * GB, 1
        self.redo_behind = 0
        self.last = Outlook()

    def turn(self, seconds: float, *, made: float = 0.0, received: float = 0.0) -> Outlook:
        """Let time pass, then look."""
        self.at += seconds
        self.end += int(made * seconds)
        self.restart = min(self.end, self.restart + int(received * seconds))
        kept = self.end - self.restart
        self.last = self.governor.look(
            Look(
                at=self.at,
                wal_end=Lsn(self.end),
                restart=Lsn(self.restart),
                redo=Lsn(self.end - self.redo_behind),
                safe=None if self.safe is None else self.safe - kept,
                disk=None if self.disk is None else self.disk - kept,
                session=self.session,
            )
        )
        return self.last

    @property
    def pause(self) -> float:
        """Until the next look, as the watcher waits."""
        return PACE * (URGENT if self.last.level > Level.WELL else 1.0)


@pytest.mark.parametrize("bound", ["server", "policy", "disk"])
def test_a_stream_that_stands_still_goes_through_every_level(bound: str) -> None:
    """Warned long before, then shed, then the choice, each in its turn and before the end, whatever the bound is."""
    given_bounds = {"server": (None, GB, None), "policy": (GB, None, None), "disk": (None, None, GB)}[bound]
    slot = Slot(given_bounds[0], safe=given_bounds[1], disk=given_bounds[2])
    seen: list[Level] = []
    while slot.last.level < Level.CHOOSE:
        outlook = slot.turn(slot.pause, made=2 * MB)
        if outlook.level not in seen:
            seen.append(outlook.level)
        assert slot.at < 1000
    assert seen == [Level.WELL, Level.WARN, Level.SHED, Level.CHOOSE]
    assert slot.last.bound == bound
    assert slot.last.left is not None
    assert 0 < slot.last.left < 50 * MB
    assert slot.last.strained


def test_the_server_s_bound_counts_before_the_policy_s() -> None:
    """Where max_slot_wal_keep_size is set, slot_limit is not asked; the nearest end counts."""
    assert Slot(64 * MB, safe=GB).turn(1).bound == "server"
    assert Slot(64 * MB).turn(1).bound == "policy"
    nearest = Slot(None, safe=GB, disk=GB // 2).turn(1)
    assert (nearest.bound, nearest.left) == ("disk", GB // 2)


def test_seconds_are_told() -> None:
    """Bytes left over the growth of what is kept; infinity when it does not grow, nothing after one look."""
    slot = Slot(GB)
    assert slot.turn(10, made=10 * MB).seconds is None
    assert slot.turn(10, made=10 * MB).seconds == pytest.approx((GB - 200 * MB) / (10 * MB))
    assert slot.turn(10, made=10 * MB, received=20 * MB).seconds == inf


def test_without_any_bound_nothing_is_said() -> None:
    """No limit of the server, none of the policy, no disk to see: always well."""
    slot = Slot(None)
    for _ in range(100):
        assert slot.turn(10, made=100 * MB).level is Level.WELL


def test_giving_up_must_help() -> None:
    """While the source needs the WAL itself, for its own recovery, the slot is not worth giving up."""
    slot = Slot(GB)
    slot.redo_behind = 40 * GB
    for _ in range(200):
        assert slot.turn(slot.pause, made=20 * MB).level <= Level.SHED
    slot.redo_behind = 0
    for _ in range(3):
        slot.turn(slot.pause, made=20 * MB)
    assert slot.last.level is Level.CHOOSE


def test_an_idle_source_is_not_in_a_hurry() -> None:
    """Little is left, but no WAL is made: the slot is kept, however long."""
    slot = Slot(GB)
    slot.turn(10, made=101 * MB)
    slot.turn(10)
    for _ in range(100):
        assert slot.turn(1).level <= Level.SHED
        assert not slot.last.strained


def test_after_an_outage_the_stream_may_catch_up() -> None:
    """The limit was passed while nobody streamed: a stream that receives faster than WAL is made is never given up."""
    slot = Slot(GB)
    slot.end += 2 * GB
    for _ in range(15):
        assert slot.turn(1, made=10 * MB, received=30 * MB).level <= Level.SHED
    while slot.last.level > Level.WELL:
        assert slot.turn(1, made=10 * MB, received=30 * MB).level < Level.CHOOSE
    assert slot.last.left is not None
    assert slot.last.left > GB // 2


def test_a_new_connection_shows_its_speed_first() -> None:
    """A connection made when the end is near is judged by itself, not by the standstill before it."""
    slot = Slot(GB)
    while slot.last.level < Level.SHED:
        slot.turn(slot.pause, made=5 * MB)
    while slot.last.left is not None and slot.last.left > 105 * MB:
        slot.turn(slot.pause, made=5 * MB)
    slot.session = 2
    for _ in range(30):
        assert slot.turn(1, made=5 * MB, received=6 * MB).level <= Level.SHED


def test_levels_do_not_flap() -> None:
    """What is kept sways around a threshold: the level is reached once, and left once when it is clearly better."""
    slot = Slot(GB)
    slot.turn(10, made=40 * MB)
    changes, level = 0, slot.last.level
    for number in range(200):
        found = slot.turn(1, made=(120 * MB if number % 2 else 0), received=(0 if number % 2 else 120 * MB)).level
        changes, level = changes + (found is not level), found
    assert changes <= 2


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[float, int, int, bool]]:
    """Seconds, bytes made, bytes received, and whether the connection is a new one."""
    step = st.tuples(st.sampled_from([1.0, 10.0]), st.integers(0, 300), st.integers(0, 300), st.booleans())
    return [(s, m * MB, r * MB, new) for s, m, r, new in draw(st.lists(step, max_size=60))]


@given(lives(), st.sampled_from([64 * MB, GB, 8 * GB]))
def test_never_chosen_without_reason(life: list[tuple[float, int, int, bool]], limit: int) -> None:
    """The choice takes three looks in a row at least, growth, and little left; it never comes from a stream that kept
    up, and the outlook always adds up.
    """
    slot = Slot(limit)
    kept: list[int] = []
    for seconds, made, received, new in life:
        slot.session += new
        outlook = slot.turn(seconds, made=made, received=received)
        kept.append(outlook.retained)
        assert outlook.left == limit - outlook.retained
        if outlook.level is Level.CHOOSE:
            assert len(kept) >= 3
            assert outlook.retained > min(kept[-12:])
            assert outlook.retained >= 0.65 * limit
            assert outlook.strained
        if outlook.retained < 32 * MB:
            assert outlook.level is Level.WELL


@given(st.integers(1, 60), st.integers(0, 59), st.sampled_from([4 * GB, 32 * GB, 256 * GB]))
def test_chosen_in_time(made: int, received: int, limit: int) -> None:
    """A stream that is slower than the source for good is given up before the limit is passed, and not early."""
    slow = min(received, made - 1)
    slot = Slot(limit)
    slot.end += max(int(0.3 * limit), limit - 90 * (made - slow) * MB)
    while slot.last.level < Level.CHOOSE:
        outlook = slot.turn(slot.pause, made=made * MB, received=slow * MB)
        assert outlook.left is not None
        assert outlook.left > 0
    assert slot.last.seconds is not None
    assert slot.last.seconds <= 2 * PACE


def test_words_name_bytes_time_and_what_to_do() -> None:
    """A warning names what is kept, what is left and for how long; the last one has the exact line to change."""
    outlook = Outlook(Level.WARN, 600 * MB, 400 * MB, 300.0, "policy")
    problem = room_problem("replicator_frk", outlook)
    assert problem is not None
    assert problem.code == 5
    for part in ("600 MB", "400 MB", "5 min", "replicator_frk"):
        assert part in problem.text
    assert "slot_limit" in problem.hint
    assert room_problem("x", Outlook()) is None
    last = replace(outlook, level=Level.CHOOSE, bound="server", left=0)
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '1200MB';" in choice_problem("x", last, protect="data").hint
    assert 'protect = "primary"' in choice_problem("x", replace(last, bound="disk"), protect="data").hint
    assert "pg_drop_replication_slot('x')" in choice_problem("x", last, protect="primary").hint
