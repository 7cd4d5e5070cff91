"""A place in the stream: a timeline and a byte of it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from replicator.core.lsn import Lsn


class Position(NamedTuple):
    """The byte before which everything of `timeline` is there. Orders as the stream goes: a later timeline is further,
    although its first segment repeats bytes from before its switch point.
    """

    timeline: int
    lsn: Lsn

    def __str__(self) -> str:
        return f"{self.lsn} on timeline {self.timeline}"


START = Position(0, Lsn(0))
