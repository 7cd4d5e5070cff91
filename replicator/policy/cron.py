"""Cron schedules of five fields, in UTC: what they mean and when they come next.

Owns the meaning: Sunday is 0 (7 too), a day matches when day of month or weekday does if both are restricted, as in
every cron since 1987. Pure. It starts nothing: the daemon's scheduler does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from replicator.errors import UsageError

_PART = re.compile(r"(\*|[0-9]{1,2}(?:-[0-9]{1,2})?)(?:/([0-9]{1,2}))?\Z")
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_HINT = 'Write five fields, minute hour day month weekday, in UTC with Sunday as 0, for example "0 2 * * *".'
#: Two leap cycles across a century that skips one: longer than any schedule that comes at all needs.
_HORIZON_DAYS = 366 * 12


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed schedule. `weekdays` counts Sunday as 0; `text` is what the policy says."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either_day: bool

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read "0 2 * * 0". Raises UsageError for anything else, and for a schedule that never comes."""
        fields = text.split()
        if len(fields) != len(_FIELDS):
            raise UsageError(f"{text!r} has {len(fields)} fields, not 5", hint=_HINT)
        pairs = zip(fields, _FIELDS, strict=True)
        minutes, hours, days, months, weekdays = (_numbers(field, *bounds) for field, bounds in pairs)
        sundays = tuple(sorted({day % 7 for day in weekdays}))
        # Vixie's rule: a field that begins with a star restricts nothing, so the other one alone decides.
        either = not fields[2].startswith("*") and not fields[4].startswith("*")
        schedule = cls(text, minutes, hours, days, months, sundays, either)
        if schedule._next(datetime(2000, 1, 1, tzinfo=UTC)) is None:
            raise UsageError(f"{text!r} never comes: no month of it has that day", hint=_HINT)
        return schedule

    def next_after(self, moment: datetime) -> datetime:
        """The first time strictly after an aware moment, in UTC."""
        found = self._next(moment)
        assert found is not None  # parse refused what never comes
        return found

    def _next(self, moment: datetime) -> datetime | None:
        earliest = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        midnight = earliest.replace(hour=0, minute=0)
        for _ in range(_HORIZON_DAYS):
            if self._has_day(midnight):
                for hour in self.hours:
                    for minute in self.minutes:
                        candidate = midnight.replace(hour=hour, minute=minute)
                        if candidate >= earliest:
                            return candidate
            midnight += timedelta(days=1)
        return None

    def _has_day(self, day: datetime) -> bool:
        by_month_day = day.day in self.days
        by_weekday = day.isoweekday() % 7 in self.weekdays
        matches = (by_month_day or by_weekday) if self.either_day else (by_month_day and by_weekday)
        return day.month in self.months and matches


def _numbers(field: str, name: str, least: int, most: int) -> tuple[int, ...]:
    """Every number that one field means."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.match(part)
        if match is None:
            raise UsageError(f"{field!r} is not a {name}", hint=_HINT)
        span, step = match[1], int(match[2] or 1)
        low, _, high = span.partition("-")
        first = least if span == "*" else int(low)
        # "5/10" means from 5 to the end in steps, as vixie cron reads it; "5" is 5 alone.
        last = int(high) if high else (most if span == "*" or match[2] else first)
        if not least <= first <= last <= most or step == 0:
            raise UsageError(f"{field!r} is not a {name} from {least} to {most}", hint=_HINT)
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))
