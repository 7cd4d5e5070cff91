"""Retries with a budget: exponential backoff with jitter, over tenacity.

Owns when a failed call is made again. An error says itself whether that can help (`retryable`); anything else,
integrity errors above all, goes straight through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from replicator.errors import Interrupted, ReplicatorError
from replicator.tolerance.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """Counts since the start: `calls` asked for, `retries` made after a failure, `given_up` with the budget spent."""

    calls: int = 0
    retries: int = 0
    given_up: int = 0


class Retry:
    """Each call may spend `budget_s` seconds on trying: waits start near `first` seconds and double up to `most`.

    An error that carries `retry_after` (seconds, as an open breaker's does) is not tried again before that. When `stop`
    is set the waiting ends with Interrupted.
    """

    def __init__(
        self, clock: Clock, budget_s: float, first: float = 0.1, most: float = 5.0, stop: Event | None = None
    ) -> None:
        self._clock = clock
        self._budget = budget_s
        self._stop = stop if stop is not None else Event()
        self._backoff = wait_exponential(multiplier=first, max=most - first) + wait_random(0, first)
        self._lock = Lock()
        self._statistics = RetryStatistics()

    def call(self, fn: Callable[[], T], *, what: str, on_failure: Callable[[ReplicatorError], None] | None = None) -> T:
        """The result of `fn`, or its last error once the next wait would pass the budget. `on_failure` sees every
        retryable error before the wait. Raises Interrupted, naming `what`, when asked to stop.
        """
        started = self._clock.monotonic()

        def spent(state: RetryCallState) -> bool:
            return self._clock.monotonic() - started + state.upcoming_sleep > self._budget

        def failed(state: RetryCallState) -> None:
            error = _error_of(state)
            if on_failure is not None and error is not None:
                on_failure(error)

        def wait(seconds: float) -> None:
            self._count(retries=1)
            if self._clock.wait(self._stop, seconds):
                raise Interrupted(f"stopped while waiting to retry: {what}")

        self._count(calls=1)
        attempts = Retrying(
            retry=retry_if_exception(_can_help),
            wait=self._wait,
            stop=spent,
            sleep=wait,
            after=failed,
            reraise=True,
        )
        try:
            return attempts(fn)
        except ReplicatorError as error:
            if error.retryable:
                self._count(given_up=1)
            raise

    def statistics(self) -> RetryStatistics:
        """What happened so far."""
        return self._statistics

    def _wait(self, state: RetryCallState) -> float:
        error = _error_of(state)
        told = float(error.context.get("retry_after", 0.0)) if error is not None else 0.0
        return max(told, self._backoff(state))

    def _count(self, *, calls: int = 0, retries: int = 0, given_up: int = 0) -> None:
        with self._lock:
            was = self._statistics
            self._statistics = RetryStatistics(was.calls + calls, was.retries + retries, was.given_up + given_up)


def _can_help(error: BaseException) -> bool:
    return isinstance(error, ReplicatorError) and error.retryable


def _error_of(state: RetryCallState) -> ReplicatorError | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if isinstance(error, ReplicatorError) else None
