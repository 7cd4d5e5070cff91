"""When a piece is cut. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from replicator.stream.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class Uncut:
    """The flushed bytes after the last piece: how many, how long the first has been here (None: unknown), whether the
    last piece still waits for a store, whether a cut is wanted now (asked for, shutting down, or the segment's end).
    """

    size: int
    age: float | None
    outstanding: bool
    wanted: bool


def seconds_until_cut(uncut: Uncut, settings: StreamSettings) -> float:
    """0: now; infinity: only something new can change the answer."""
    if uncut.size <= 0:
        return inf
    if uncut.wanted:
        return 0.0
    if uncut.outstanding:
        return inf
    if settings.acknowledge != "spool" or uncut.size >= settings.piece_size or uncut.age is None:
        return 0.0
    return max(0.0, settings.piece_interval - uncut.age)
