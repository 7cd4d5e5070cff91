"""What a restore aims at (PostgreSQL manual, section 20.5.6 "Recovery Target")."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339


class TargetKind(StrEnum):
    """The six kinds of target."""

    TIME = "time"
    LSN = "lsn"
    XID = "xid"
    NAME = "name"
    LATEST = "latest"
    IMMEDIATE = "immediate"


@dataclass(frozen=True, slots=True)
class RecoveryTarget:
    """A target; exactly the field of its kind is set. `inclusive` as recovery_target_inclusive.

    `timeline` None means: the newest timeline that the target lies on.
    """

    kind: TargetKind
    time: datetime | None = None
    lsn: Lsn | None = None
    xid: int | None = None
    name: str | None = None
    inclusive: bool = True
    timeline: int | None = None

    def __str__(self) -> str:
        value = {
            TargetKind.TIME: rfc3339(self.time) if self.time else "",
            TargetKind.LSN: str(self.lsn) if self.lsn is not None else "",
            TargetKind.XID: str(self.xid) if self.xid is not None else "",
            TargetKind.NAME: self.name or "",
        }.get(self.kind, "")
        words = f"{self.kind.value} {value}".strip()
        return words if self.inclusive else f"{words} (exclusive)"
