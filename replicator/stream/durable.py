"""Up to where the stream is durable, in a store and by the policy's mode (promise 1). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn
from replicator.spool.position import START, Position
from replicator.stream.settings import Acknowledge

#: (timeline, start, end) of bytes that must be there.
Stretch = tuple[int, Lsn, Lsn]


def durable_position(wanted: Iterable[Stretch], coverage: Coverage) -> Position:
    """The end of the gapless run through `wanted`, stretches ascending by timeline; START when nothing is wanted."""
    reached = START
    for timeline, start, end in wanted:
        reached = Position(timeline, min(max(start, coverage.reach(timeline, start)), end))
        if reached.lsn < end:
            break
    return reached


def acknowledgeable(mode: Acknowledge, flushed: Position, durable: Iterable[Position]) -> Position:
    """The position that may be acknowledged: flushed here, and durable where the policy says."""
    if mode == "spool":
        return flushed
    positions = list(durable)
    if not positions:
        return START
    return min(flushed, max(positions) if mode == "store" else min(positions))


def flush_position(
    acknowledged: Position, *, timeline: int, confirmed: Lsn, floor: Lsn, last: Lsn
) -> Lsn:  # fmt: skip
    """The flush position to report on a connection that streams `timeline`.

    Not beyond `confirmed`, what this connection has sent or repeated to us; never back from `last`, what it was told;
    and 0 (nothing to say) while still below `floor`, where the slot stands: a slot would move back.
    """
    if acknowledged.timeline != timeline:
        return last
    flush = min(acknowledged.lsn, confirmed)
    return max(flush, last) if flush >= floor else last
