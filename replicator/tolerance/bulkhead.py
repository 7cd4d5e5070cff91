"""A bulkhead: at most so many calls into one part at a time, so that a hanging part can't take every thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import TypeVar

from replicator.errors import ReplicatorError, StoreUnavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BulkheadStatistics:
    """`most` calls allowed at once, `busy` now, `waiting` for a place, `refused` since the start."""

    most: int
    busy: int
    waiting: int
    refused: int


class Bulkhead:
    """`most` places. A call waits up to `wait_s` seconds for one, then fails with `error`, which may be retried."""

    def __init__(
        self, name: str, most: int, *, wait_s: float = 30.0, error: type[ReplicatorError] = StoreUnavailable
    ) -> None:
        self._name = name
        self._most = most
        self._wait = wait_s
        self._error = error
        self._places = BoundedSemaphore(most)
        self._lock = Lock()
        self._busy = self._waiting = self._refused = 0

    def call(self, fn: Callable[[], T]) -> T:
        """The result of `fn`, called in a place of its own."""
        self._enter()
        try:
            return fn()
        finally:
            with self._lock:
                self._busy -= 1
            self._places.release()

    def statistics(self) -> BulkheadStatistics:
        """What it holds now."""
        with self._lock:
            return BulkheadStatistics(self._most, self._busy, self._waiting, self._refused)

    def _enter(self) -> None:
        with self._lock:
            self._waiting += 1
        try:
            entered = self._places.acquire(timeout=self._wait)
        finally:
            with self._lock:
                self._waiting -= 1
        with self._lock:
            if entered:
                self._busy += 1
                return
            self._refused += 1
        raise self._error(
            f"{self._name}: {self._most} requests are under way and none ended within {self._wait:g} s",
            hint="It answers too slowly for what is asked of it.",
        )
