"""What the names of the repository's objects say to the spool. Pure."""

from __future__ import annotations

from functools import partial

from replicator.core.lsn import Segment
from replicator.errors import UsageError
from replicator.repository.layout import NoteName, PieceName, WalName, parse_name
from replicator.spool import Describe, Position, SealedFile


def describe(segment_size: int, name: str, size: int) -> SealedFile | None:
    """An object by its name; None for a name that is no WAL and no note."""
    match parse_name(name):
        case WalName(_, timeline, text, _):
            try:
                segment = Segment.parse(text, segment_size)
            except UsageError:  # a name that is no segment of this size
                return None
            start, end = Position(timeline, segment.start), Position(timeline, segment.end)
            return SealedFile(name, size, text, start, end, complete=True)
        case PieceName(_, timeline, text, first, last, _):
            return SealedFile(name, size, text, Position(timeline, first), Position(timeline, last))
        case NoteName():
            return SealedFile(name, size)
    return None


def describer(segment_size: int) -> Describe:
    """`describe` for segments of this size."""
    return partial(describe, segment_size)
