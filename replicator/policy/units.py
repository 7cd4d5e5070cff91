"""Sizes and durations as a policy writes them, and back.

Owns the two notations: sizes as in postgresql.conf (B kB MB GB TB, powers of 1024) and durations (ms s m h d).
Pure. It never guesses a unit: a bare number is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal

from replicator.errors import UsageError

_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\Z")
#: PostgreSQL's own letters: kB with a small k, the others in capitals (manual, section 20.1.1).
SIZE_UNITS = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
#: In milliseconds, so that every allowed unit is a whole number.
DURATION_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_SIZE_HINT = 'Write a number and one of B, kB, MB, GB, TB, for example "10GB".'
_DURATION_HINT = 'Write a number and one of ms, s, m, h, d, for example "30s".'


def parse_size(text: str) -> int:
    """Bytes of "10GB". Raises UsageError for anything without a known unit or not a whole number of bytes."""
    return _parse(text, SIZE_UNITS, "size", _SIZE_HINT)


def parse_duration(text: str) -> float:
    """Seconds of "30s". Raises UsageError for anything without a known unit or finer than a millisecond."""
    return _parse(text, DURATION_UNITS, "duration", _DURATION_HINT) / 1000


def format_size(size: int) -> str:
    """The shortest exact notation: 10737418240 is "10GB"."""
    return _format(size, SIZE_UNITS)


def format_duration(seconds: float) -> str:
    """The shortest exact notation: 120.0 is "2m"."""
    return _format(round(seconds * 1000), DURATION_UNITS)


def _parse(text: str, units: dict[str, int], noun: str, hint: str) -> int:
    match = _NUMBER.match(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a {noun}", hint=hint)
    number, unit = match.groups()
    if not unit:
        raise UsageError(f"{text!r} has no unit", hint=hint)
    if unit not in units:
        raise UsageError(f"{text!r} has an unknown unit {unit!r}", hint=hint)
    amount = Decimal(number) * units[unit]
    if amount != int(amount):
        raise UsageError(f"{text!r} is finer than the smallest unit", hint=hint)
    return int(amount)


def _format(amount: int, units: dict[str, int]) -> str:
    if amount == 0:
        return f"0{next(iter(units))}"
    unit, factor = next((unit, factor) for unit, factor in reversed(units.items()) if amount % factor == 0)
    return f"{amount // factor}{unit}"
