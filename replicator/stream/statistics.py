"""What a stream says of itself: plain values for status, metrics and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.core.lsn import Lsn
from replicator.core.windows import Gap
from replicator.errors import ReplicatorError
from replicator.stream.governor import Outlook


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong now: the exit code it stands for, a sentence, and what to do."""

    code: int
    text: str
    hint: str = ""

    @classmethod
    def of(cls, error: ReplicatorError) -> Problem:
        """An error as a problem."""
        return cls(error.exit_code, error.message, error.hint)


@dataclass(frozen=True, slots=True)
class StoreStreamStatistics:
    """One store. `state`: starting, ok, away, refused, absent (no repository), untrusted, damaged.

    `durable_lsn` None: not known yet. `lag_s`: how long its oldest missing byte has been here.
    """

    state: str
    breaker: str
    durable_lsn: Lsn | None
    lag_bytes: int | None
    lag_s: float | None
    retries: int


@dataclass(frozen=True, slots=True)
class StreamStatistics:
    """The whole stream. `state`: starting, connecting, streaming, away, refused, slot_missing, slot_busy, conflict,
    changing, foreign, failed, stopped. LSNs are None while nothing is known. `awaited`: commits may wait for us.
    """

    state: str
    host: str | None
    timeline: int | None
    system_id: int | None
    received_lsn: Lsn | None
    flushed_lsn: Lsn | None
    acknowledged_lsn: Lsn | None
    only_in_spool_bytes: int
    spool_bytes: int
    back_pressure: bool
    wal_status: str | None
    safe_wal_bytes: int | None
    server_lsn: Lsn | None
    stores: Mapping[str, StoreStreamStatistics] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    problems: tuple[Problem, ...] = ()
    outlook: Outlook | None = None
    awaited: bool = True
