"""A circuit breaker over pybreaker: after enough failures in a row a dead part is left alone for a while.

pybreaker keeps the states and the counter. Its own `call` holds a lock while the callable runs (one slow request would
hold up all others) and reads the wall clock; so calls are made outside of it, outcomes are told to it afterwards, and
the time is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TypeVar

from pybreaker import CircuitBreaker

from replicator.errors import Interrupted, ReplicatorError, SourceUnavailable, StoreUnavailable
from replicator.tolerance.clock import Clock

T = TypeVar("T")

#: Longer than any process lives: pybreaker must never decide by the wall clock that an open breaker may be tried.
_NEVER = 1e9


class BreakerState(StrEnum):
    """The three states, as status and metrics name them."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """`failures` in a row now; `opened` times since the start."""

    state: BreakerState
    failures: int
    opened: int


class Breaker:
    """Opens after `failures` unavailable answers in a row, lets one call through after `reset_s` seconds, and closes
    when that one succeeds.

    Only StoreUnavailable and SourceUnavailable that may be retried count: a part that says "no" is alive.
    """

    def __init__(
        self,
        name: str,
        failures: int,
        reset_s: float,
        clock: Clock,
        *,
        error: type[ReplicatorError] = StoreUnavailable,
    ) -> None:
        self._name = name
        self._reset = reset_s
        self._clock = clock
        self._error = error
        self._machine = CircuitBreaker(fail_max=failures, reset_timeout=_NEVER, throw_new_error_on_trip=False)
        self._lock = Lock()
        self._tried_at = 0.0
        self._opened = 0

    def call(self, fn: Callable[[], T]) -> T:
        """The result of `fn`. While open raises `error` at once, whose `retry_after` says when to try again."""
        round_ = self._admit()
        try:
            result = fn()
        except BaseException as error:
            self._told(round_, error)
            raise
        self._told(round_, None)
        return result

    @property
    def state(self) -> BreakerState:
        """Closed, open, or half-open while the one call that decides is under way."""
        return BreakerState(self._machine.current_state)

    def statistics(self) -> BreakerStatistics:
        """What it knows now."""
        with self._lock:
            return BreakerStatistics(self.state, self._machine.fail_counter, self._opened)

    def _admit(self) -> int:
        """Let a call through or raise; the number tells a late answer from before an opening from a present one."""
        with self._lock:
            if self.state is BreakerState.CLOSED:
                return self._opened
            waited = self._clock.monotonic() - self._tried_at
            if waited >= self._reset:
                # Also when half-open: the call that should have decided hangs, so another may.
                self._tried_at = self._clock.monotonic()
                self._machine.half_open()
                return self._opened
            deciding = self.state is BreakerState.HALF_OPEN
            raise self._error(
                f"{self._name}: left alone after {self._machine.fail_max} failures in a row",
                hint=f"It is tried again within {self._reset:g} s.",
                retry_after=0.0 if deciding else self._reset - waited,
            )

    def _told(self, round_: int, error: BaseException | None) -> None:
        with self._lock:
            if round_ != self._opened or self.state is BreakerState.OPEN:
                return
            if error is not None and (not isinstance(error, ReplicatorError) or isinstance(error, Interrupted)):
                return  # it says nothing about the part: a half-open breaker stays so until its next try
            if error is None or not _counts(error):
                self._machine.call(_nothing)
                return
            with suppress(type(error)):
                self._machine.call(_raise, error)
            if self._machine.current_state == BreakerState.OPEN:
                self._opened += 1
                self._tried_at = self._clock.monotonic()


def _counts(error: BaseException) -> bool:
    return isinstance(error, StoreUnavailable | SourceUnavailable) and error.retryable


def _nothing() -> None:
    return None


def _raise(error: BaseException) -> None:
    raise error
