"""A rate limit for reading: so many bytes a second over the whole, in steps of what is read at once.

Owns the waiting. Never reads, and saves up nothing that was not used.
"""

from __future__ import annotations

from threading import Event

from replicator.errors import Interrupted
from replicator.tolerance import Clock


class Pace:
    """`take` before reading. `rate` in bytes per second; None does not limit."""

    def __init__(self, rate: int | None, clock: Clock, stop: Event) -> None:
        self._rate = rate
        self._clock = clock
        self._stop = stop
        self._due = clock.monotonic()

    def take(self, count: int) -> None:
        """Wait until `count` bytes more may be read. What was not used is not saved up. Raises Interrupted."""
        if self._rate is None:
            return
        wait_s = self._due - self._clock.monotonic()
        if wait_s > 0 and self._clock.wait(self._stop, wait_s):
            raise Interrupted("the snapshot was stopped")
        self._due = max(self._due, self._clock.monotonic()) + count / self._rate
