"""What the policy says about a stream, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from replicator.seal.header import Compression

Acknowledge = Literal["spool", "store", "stores"]

#: Called with the name of each step, "before …" and "after …" receive, write, fsync, acknowledge, seal, put, remove.
#: The way in for fault injection; does nothing in the product.
Steps = Callable[[str], None]


def no_step(_: str) -> None:
    """A Steps that does nothing."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Sizes in bytes, times in seconds. `status_interval` is the longest time between two status updates."""

    slot: str
    acknowledge: Acknowledge = "spool"
    spool_limit: int = 10 * 2**30
    piece_interval: float = 1.0
    piece_size: int = 2**20
    compression: Compression = Compression.ZSTD
    level: int = 3
    status_interval: float = 1.0
    most_pieces: int = 64
