"""What the policy says about a stream, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from replicator.seal.header import Compression

Acknowledge = Literal["spool", "store", "stores"]
Protect = Literal["primary", "data"]

#: What the workers do to WAL, each with a "before …" and an "after …": from the source, into the spool, back to the
#: source, sealed, into a store (a timeline's history first), replaced pieces out of a store, files out of the spool.
STEPS = ("receive", "write", "fsync", "acknowledge", "seal", "history", "put", "delete", "remove")

#: What is done to a slot that is given up, in order.
SLOT_STEPS = ("before give up", "between drop and create", "after give up")

#: Called with the name of each step as it is reached. The way in for fault injection; does nothing in the product.
Steps = Callable[[str], None]


def no_step(_: str) -> None:
    """A Steps that does nothing."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Sizes in bytes, times in seconds. `status_interval` is the longest time between two status updates, `slot_look`
    the time between two looks at the slot while all is well, `request_timeout` what one answer of the source may
    take. `slot_limit`: the most that the slot may keep where the server sets no bound. `pg_wal`: the source's, where
    the stream runs beside it.
    """

    slot: str
    acknowledge: Acknowledge = "spool"
    spool_limit: int = 10 * 2**30
    piece_interval: float = 1.0
    piece_size: int = 2**20
    compression: Compression = Compression.ZSTD
    level: int = 3
    status_interval: float = 1.0
    most_pieces: int = 64
    request_timeout: float = 30.0
    protect: Protect = "primary"
    slot_limit: int | None = None
    slot_look: float = 10.0
    pg_wal: Path | None = None
