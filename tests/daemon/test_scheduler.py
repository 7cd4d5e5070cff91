"""The schedule: APScheduler fires exactly when the policy's cron says, and a missed run counts once."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.daemon.scheduler import PolicyTrigger, Scheduler, missed
from replicator.policy import Schedule

_SATURDAY = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 2 * * *", _SATURDAY, datetime(2026, 11, 22, 2, 0, tzinfo=UTC)),
        ("0 4 * * 0", _SATURDAY, datetime(2026, 11, 22, 4, 0, tzinfo=UTC)),
        ("0 4 * * 7", _SATURDAY, datetime(2026, 11, 22, 4, 0, tzinfo=UTC)),
        ("0 4 * * 1", _SATURDAY, datetime(2026, 11, 23, 4, 0, tzinfo=UTC)),
        ("0 4 1 * 0", _SATURDAY, datetime(2026, 11, 22, 4, 0, tzinfo=UTC)),
        ("30 2 * * *", datetime(2026, 10, 25, 2, 30, tzinfo=UTC), datetime(2026, 10, 26, 2, 30, tzinfo=UTC)),
    ],
)
def test_trigger_counts_sunday_as_zero(text: str, after: datetime, expected: datetime) -> None:
    """Sunday is 0 and 7, two restricted day fields mean either, and no hour of autumn comes twice."""
    trigger = PolicyTrigger(Schedule.parse(text))
    assert trigger.get_next_fire_time(None, after) == expected
    assert trigger.get_next_fire_time(after, after) == expected


@settings(deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 7), st.integers(0, 10**8))
def test_trigger_always_goes_on(minute: int, hour: int, weekday: int, seconds: int) -> None:
    """Each fire time lies after the one before, on the day and time that the schedule says."""
    trigger = PolicyTrigger(Schedule.parse(f"{minute} {hour} * * {weekday}"))
    first = trigger.get_next_fire_time(None, _SATURDAY + timedelta(seconds=seconds))
    second = trigger.get_next_fire_time(first, first)
    assert second - first == timedelta(days=7)
    assert (first.minute, first.hour, first.isoweekday() % 7) == (minute, hour, weekday % 7)


@pytest.mark.parametrize(
    ("newest", "now", "expected"),
    [
        (None, _SATURDAY, True),
        (datetime(2026, 11, 21, 2, 0, 1, tzinfo=UTC), _SATURDAY, False),
        (datetime(2026, 11, 20, 2, 0, 1, tzinfo=UTC), _SATURDAY, True),
        (datetime(2026, 11, 1, 2, 0, 1, tzinfo=UTC), _SATURDAY, True),
    ],
)
def test_missed_run(newest: datetime | None, now: datetime, expected: bool) -> None:
    """A run was missed when a scheduled time has passed since the newest snapshot began, or there is none."""
    assert missed(Schedule.parse("0 2 * * *"), newest, now) is expected


class Often(Schedule):
    """Every tenth of a second."""

    def next_after(self, moment: datetime) -> datetime:
        """As Schedule."""
        return moment + timedelta(seconds=0.1)


def test_a_schedule_comes_again_and_again() -> None:
    """Every time of the schedule calls what was added, also after one that was late because the call took long."""
    often = Often("* * * * *", (), (), (), (), (), either_day=False)
    scheduler, called, enough = Scheduler(), list[float](), Event()

    def enqueue() -> None:
        called.append(time.monotonic())
        time.sleep(0.25 if len(called) == 2 else 0)
        if len(called) == 5:
            enough.set()

    scheduler.add("snapshot", "frk", often, enqueue)
    scheduler.start()
    try:
        assert enough.wait(60)
    finally:
        scheduler.stop()
    assert called[4] - called[0] > 0.25


def test_scheduler_starts_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    """What is added is waiting; ending it leaves no thread, and doing so twice is harmless."""
    scheduler = Scheduler()
    scheduler.add("snapshot", "frk", Schedule.parse("0 2 * * *"), Event().set)
    scheduler.start()
    jobs = scheduler._scheduler.get_jobs()
    assert [(job.id, job.coalesce, job.misfire_grace_time, job.max_instances) for job in jobs] == [
        ("snapshot/frk", True, None, 1)
    ]
    scheduler.stop()
    scheduler.stop()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
