"""What the spool lets go of, and when (promise 9). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the spool: whether every store has its bytes durably, and whether at least one has."""

    key: str
    size: int
    everywhere: bool
    somewhere: bool


def to_release(kept: Iterable[Kept], usage: int, limit: int) -> tuple[str, ...]:
    """The files to remove: all that every store has; at the limit, oldest first, also what one store has. `kept` is
    ordered oldest first, sizes in bytes.
    """
    files = list(kept)
    going = [file for file in files if file.everywhere]
    left = usage - sum(file.size for file in going)
    for file in files:
        if left < limit:
            break
        if file.somewhere and not file.everywhere:
            going.append(file)
            left -= file.size
    return tuple(file.key for file in going)


def effective_limit(limit: int, segment_size: int) -> int:
    """The limit that can work: a segment that is being written can't be let go of, and is sealed beside itself."""
    return max(limit, 3 * segment_size)
