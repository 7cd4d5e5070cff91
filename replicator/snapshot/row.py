"""One snapshot as `snapshot list` and the result of a take tell it.

Owns the row and its keys. Never reads a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replicator.core.moment import rfc3339_of
from replicator.core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One row of `snapshot list`. `stop_us` in microseconds; None in `parent` for a full one."""

    snapshot: Snapshot
    stop_us: int
    parent: str | None
    bytes: int
    added_bytes: int
    pinned: bool
    stores: tuple[str, ...]
    damaged: bool

    def as_json(self) -> dict[str, Any]:
        """The row with the keys that operators bind to."""
        return {
            "label": self.snapshot.label,
            "start_lsn": str(self.snapshot.start),
            "stop_lsn": str(self.snapshot.stop),
            "timeline": self.snapshot.timeline,
            "time": rfc3339_of(self.stop_us),
            "parent": self.parent,
            "bytes": self.bytes,
            "added_bytes": self.added_bytes,
            "pinned": self.pinned,
            "stores": list(self.stores),
            "damaged": self.damaged,
        }
