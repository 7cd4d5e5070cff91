"""A point in time after which a wait is over, however many steps it has."""

from __future__ import annotations

from replicator.errors import DeadlineExceeded
from replicator.tolerance.clock import Clock


class Deadline:
    """`seconds` from now by `clock`. Pass it down instead of a fresh timeout for each step."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._end = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - self._clock.monotonic())

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.remaining() <= 0.0

    def check(self, what: str) -> None:
        """Raise DeadlineExceeded, naming `what`, when no time is left."""
        if self.over:
            raise DeadlineExceeded(f"{what} took longer than {self._seconds:g} s")
