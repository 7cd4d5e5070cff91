"""Cron schedules mean what every cron means, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from replicator.errors import UsageError
from replicator.policy import Schedule

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)  # a Sunday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 2 * * *", "2026-11-23T02:00"),
        ("30 12 * * *", "2026-11-22T12:30"),
        ("0 12 * * *", "2026-11-23T12:00"),
        ("*/15 * * * *", "2026-11-22T12:15"),
        ("5/20 * * * *", "2026-11-22T12:05"),
        ("0 4 * * 0", "2026-11-29T04:00"),
        ("0 4 * * 7", "2026-11-29T04:00"),
        ("0 13 * * 0", "2026-11-22T13:00"),
        ("0 4 * * 1-5", "2026-11-23T04:00"),
        ("0 0 1 * *", "2026-12-01T00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00"),
        ("0 0 13 * 5", "2026-11-27T00:00"),
        ("0 0 */2 * 1", "2026-11-23T00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59"),
        ("0,30 6-8 * * *", "2026-11-23T06:00"),
    ],
)
def test_next_time(text: str, expected: str) -> None:
    """The next run is strictly later, weekdays count from Sunday, and either restricted day field suffices."""
    assert Schedule.parse(text).next_after(NOON) == datetime.fromisoformat(f"{expected}+00:00")


def test_next_time_of_another_zone_is_utc() -> None:
    """A moment in Jakarta is the same moment in UTC."""
    jakarta = NOON.astimezone(timezone(timedelta(hours=7)))
    assert Schedule.parse("0 2 * * *").next_after(jakarta) == datetime(2026, 11, 23, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "a * * * *",
        "@daily",
        "0 0 31 2 *",
        "0 0 31 4,6,9,11 *",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    """A wrong field, a wrong count and a day that never comes are named, with an example."""
    with pytest.raises(UsageError) as refused:
        Schedule.parse(text)
    assert "0 2 * * *" in refused.value.hint
