"""A bell: who waits hears every ring since it last looked, so none is lost between looking and waiting."""

from __future__ import annotations

from threading import Condition, Event

#: A waiting worker looks at its stop event at least this often, in seconds.
_LOOK = 0.5


class Bell:
    """Rings are counted; `wait` returns the count to pass to the next `wait`."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._rings = 0

    def ring(self) -> None:
        """Wake everyone who waits."""
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    @property
    def rings(self) -> int:
        """How often it rang."""
        return self._rings

    def wait(self, seen: int, seconds: float, stop: Event) -> int:
        """Wait until it rang more than `seen` times, `stop` is set, or `seconds` have passed."""
        with self._condition:
            while self._rings == seen and seconds > 0 and not stop.is_set():
                self._condition.wait(min(seconds, _LOOK))
                seconds -= _LOOK
            return self._rings
