"""A clock for tests: time passes only when somebody waits or `pass_` is called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import Event


class FakeClock:
    """Begins at 2026-11-22T00:00:00Z. `waits` are the waits asked for, in seconds."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return self._seconds

    def now(self) -> datetime:
        """Its time."""
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def wait(self, event: Event, seconds: float) -> bool:
        """Pass the time at once, unless the event is set already."""
        if event.is_set():
            return True
        self.waits.append(seconds)
        self._seconds += seconds
        return event.is_set()

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self._seconds += seconds
