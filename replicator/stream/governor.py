"""How much longer the source can keep WAL for our slot, and what that calls for (promise 9). Pure.

Owns the four levels and when one becomes another: from looks at the slot, in bytes and in time. It knows neither the
policy's choice nor what a level makes others do, and never decides on one look alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Final, Literal

from replicator.core.lsn import Lsn

#: What sets the end: max_slot_wal_keep_size, `[stream] slot_limit`, or the disk of pg_wal.
Bound = Literal["server", "policy", "disk"]

#: Looks that follow each other faster than usual, when not all is well: the part of the pace between them.
URGENT: Final = 0.1
#: So many looks in a row must call for the choice.
_CONFIRM = 3
#: What the slot keeps in segments below which nothing is ever wrong: a stream that is well keeps that much.
_ORDINARY_SEGMENTS = 2
#: A level is left when it would not be reached with thresholds this much lower, and times this much longer.
_SLACK_USED, _SLACK_SECONDS = 0.1, 2.0


class Level(IntEnum):
    """`SHED`: what can be let go of goes, so that the stream catches up. `CHOOSE`: the end is near, and it does not."""

    WELL = 0
    WARN = 1
    SHED = 2
    CHOOSE = 3


@dataclass(frozen=True, slots=True)
class Look:
    """The slot at monotonic second `at`; bytes.

    `restart`: the slot keeps WAL from there. `redo`: the source needs its WAL from there anyway. `safe`: PostgreSQL's
    safe_wal_size. `disk`: what the disk of pg_wal can still take, where it is known. `session` is another number for
    each connection of the stream.
    """

    at: float
    wal_end: Lsn
    restart: Lsn
    redo: Lsn
    safe: int | None = None
    disk: int | None = None
    session: int = 0

    @property
    def retained(self) -> int:
        """What the source keeps for the slot."""
        return max(0, self.wal_end - self.restart)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What follows from the looks so far. `left` in bytes, None without any bound; `seconds` until nothing is left:
    infinity while what is kept does not grow, None while that is not known.
    """

    level: Level = Level.WELL
    retained: int = 0
    left: int | None = None
    seconds: float | None = None
    bound: Bound | None = None

    @property
    def strained(self) -> bool:
        """Whether everything else should make way: the end comes nearer, and load can be shed."""
        return self.level >= Level.SHED and self.seconds is not None and self.seconds < inf


@dataclass(frozen=True, slots=True)
class _Threshold:
    """Reached at a used share (1: all) alone, or at a smaller one when the rest lasts at most `seconds`."""

    level: Level
    alone: float
    share: float
    seconds: float

    def reached(self, used: float, seconds: float, *, slack: bool) -> bool:
        less, longer = (_SLACK_USED, _SLACK_SECONDS) if slack else (0.0, 1.0)
        return used >= self.alone - less or (used >= self.share - less and seconds <= self.seconds * longer)


class Governor:
    """Fed with looks, in order. `limit`: the most that the slot may keep where the server sets no bound, in bytes, None
    for none. `pace`: seconds between looks while all is well.
    """

    def __init__(self, limit: int | None, *, segment_size: int, pace: float) -> None:
        self._limit = limit
        self._ordinary = _ORDINARY_SEGMENTS * segment_size
        self._segment_size = segment_size
        self._window = pace
        self._thresholds = (
            _Threshold(Level.CHOOSE, inf, 0.75, 2 * pace),
            _Threshold(Level.SHED, 0.75, 0.5, 600.0),
            _Threshold(Level.WARN, 0.5, 0.25, 3600.0),
        )
        self._looks: deque[Look] = deque()
        self._level = Level.WELL
        self._wanted = 0

    def forget(self) -> None:
        """Begin anew: the slot is another one, or it could not be looked at."""
        self._looks.clear()
        self._level, self._wanted = Level.WELL, 0

    def look(self, look: Look) -> Outlook:
        """What one more look means."""
        left, bound = self._left(look)
        self._keep(look, left)
        seconds = self._seconds(left)
        if left is None or look.retained < self._ordinary:
            self._level, self._wanted = Level.WELL, 0
        else:
            used = look.retained / (look.retained + max(0, left))
            self._level = self._next(look, used, inf if seconds is None else seconds)
        return Outlook(self._level, look.retained, left, seconds, bound)

    def _left(self, look: Look) -> tuple[int | None, Bound | None]:
        bounds: list[tuple[int, Bound]] = []
        if look.safe is not None:
            bounds.append((look.safe, "server"))
        elif self._limit is not None:
            bounds.append((self._limit - look.retained, "policy"))
        if look.disk is not None:
            bounds.append((look.disk, "disk"))
        return min(bounds, default=(None, None))

    def _keep(self, look: Look, left: int | None) -> None:
        """Add a look to the window. A new connection has to show its speed first, unless nothing is left already."""
        if self._looks:
            last = self._looks[-1]
            back = look.wal_end < last.wal_end or look.restart < last.restart or look.at <= last.at
            if back or (look.session != last.session and (left or 0) > 0):
                self._looks.clear()
                self._wanted = 0
        self._looks.append(look)
        while len(self._looks) > 2 and look.at - self._looks[1].at >= self._window:
            self._looks.popleft()

    def _seconds(self, left: int | None) -> float | None:
        if left is None or len(self._looks) < 2:
            return None
        first, last = self._looks[0], self._looks[-1]
        growth = (last.retained - first.retained) / (last.at - first.at)
        return max(0, left) / growth if growth > 0 else inf

    def _next(self, look: Look, used: float, seconds: float) -> Level:
        """The level now: up at once, but the last only when several looks agree; down when it is clearly better."""
        found = self._reached(used, seconds, slack=False)
        frees = look.redo - look.restart >= self._segment_size  # else giving up the slot would not help the source
        self._wanted = self._wanted + 1 if found is Level.CHOOSE and frees else 0
        stays = min(self._level, self._reached(used, seconds, slack=True))
        level = max(found, stays)
        if level is Level.CHOOSE and self._wanted < _CONFIRM and (self._level is not Level.CHOOSE or not frees):
            return Level.SHED
        return level

    def _reached(self, used: float, seconds: float, *, slack: bool) -> Level:
        return next(
            (found.level for found in self._thresholds if found.reached(used, seconds, slack=slack)), Level.WELL
        )
