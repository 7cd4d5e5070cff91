"""The clock that everything waits by. Tests pass in one of their own; nothing else calls time.sleep."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from threading import Event
from typing import Protocol


class Clock(Protocol):
    """Two times that must not be mixed: `monotonic` for waiting, `now` for telling people and objects."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...

    def now(self) -> datetime:
        """The wall clock's time, aware, in UTC."""
        ...

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until `event` is set, for at most `seconds`; whether it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def now(self) -> datetime:
        """The time in UTC."""
        return datetime.now(UTC)

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until `event` is set, for at most `seconds`; whether it is set."""
        return event.wait(max(0.0, seconds))
