"""Moments: UTC times as the repository stores them (microseconds since the Unix epoch) and as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from replicator.errors import UsageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: PostgreSQL counts microseconds from 2000-01-01 00:00 UTC (protocol docs, "Streaming Replication Protocol").
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000


def to_microseconds(moment: datetime) -> int:
    """Microseconds since the Unix epoch of an aware datetime, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(value: int) -> datetime:
    """The aware UTC datetime of that many microseconds since the Unix epoch."""
    return _EPOCH + timedelta(microseconds=value)


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with a Z; microseconds only when there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def rfc3339_of(microseconds: int | None) -> str | None:
    """RFC 3339 of a stored time; None stays None, and 0 (unknown) becomes None."""
    return rfc3339(from_microseconds(microseconds)) if microseconds else None


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time that carries a UTC offset. Raises UsageError: a time without one means two moments."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a time", hint="Write it as 2026-11-22T10:30:00+07:00, or with Z for UTC."
        ) from error
    if moment.tzinfo is None:
        raise UsageError(
            f"{text!r} has no UTC offset", hint=f"Add one, for example {text.strip()}+07:00, or Z for UTC."
        )
    return moment.astimezone(UTC)
