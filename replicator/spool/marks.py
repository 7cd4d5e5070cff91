"""When the server sent which byte: a bounded memory of send times. Pure.

Times are the server's clock in microseconds. What it no longer knows exactly it answers with an upper bound.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock

from replicator.spool.position import Position

_MERGE_US = 50_000
_MOST = 4096


@dataclass(slots=True)
class _Mark:
    start: Position
    end: Position
    first_us: int
    last_us: int
    arrived: float


class SendTimes:
    """Remembers runs of bytes by when they were sent and when they arrived (monotonic seconds)."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque(maxlen=2 * _MOST)
        self._lock = Lock()

    def add(self, start: Position, end: Position, first_us: int, last_us: int, arrived: float) -> None:
        """Bytes [start, end) were sent between these times. Runs close in time become one; bytes that were sent again
        keep their first times.
        """
        with self._lock:
            self._add(_Mark(start, end, first_us, last_us, arrived))

    def _add(self, mark: _Mark) -> None:
        last = self._marks[-1] if self._marks else None
        if last is not None and mark.start.timeline == last.end.timeline:
            mark.start = max(mark.start, last.end)
            if mark.end <= mark.start:
                return
        if last is not None and last.end == mark.start and mark.last_us - last.first_us < _MERGE_US:
            last.end, last.last_us = mark.end, max(last.last_us, mark.last_us)
            return
        self._marks.append(mark)
        if len(self._marks) > _MOST:
            self._halve()

    def between(self, start: Position, end: Position) -> tuple[int, int] | None:
        """The send times of the first and last byte of [start, end); None when nothing is known of them. A first byte
        from before our memory gets the earliest time known, which is an upper bound.
        """
        first: int | None = None
        last = 0
        with self._lock:
            for mark in reversed(self._marks):
                if mark.end <= start:
                    break
                if mark.start < end:
                    first, last = mark.first_us, max(last, mark.last_us)
        return None if first is None else (first, last)

    def arrival_after(self, position: Position) -> float | None:
        """When the first byte at or after `position` arrived; None when there is none."""
        found: float | None = None
        with self._lock:
            for mark in reversed(self._marks):
                if mark.end <= position:
                    break
                found = mark.arrived
        return found

    def _halve(self) -> None:
        """Merge neighbours: times become bounds of longer runs, memory stays bounded; the oldest go at the last."""
        merged: deque[_Mark] = deque(maxlen=_MOST)
        for index, mark in enumerate(self._marks):
            last = merged[-1] if index % 2 else None
            if last is not None and last.end == mark.start:
                last.end, last.last_us = mark.end, max(last.last_us, mark.last_us)
            else:
                merged.append(mark)
        self._marks = merged
