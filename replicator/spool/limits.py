"""What the spool lets go of, and when (promise 9). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: What may have been received already when the disk is found to be short.
_IN_FLIGHT = 8 * 2**20


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


def reserve(segment_size: int) -> int:
    """Bytes of the disk that received WAL leaves free: a segment is sealed here, and maybe put into a store on the
    same disk. Without them nothing could be sealed, so nothing let go of, ever again.
    """
    return 2 * segment_size + _IN_FLIGHT


def limit_now(limit: int, segment_size: int, *, usage: int, free: int) -> int:
    """The limit that holds now: the policy's, or what the disk leaves when that is less."""
    return min(effective_limit(limit, segment_size), max(0, usage + free - reserve(segment_size)))
