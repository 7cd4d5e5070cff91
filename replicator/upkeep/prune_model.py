"""What is known of one system id in one store when it is pruned. Values; `prune_facts` and `prune_ends` read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from replicator.core.coverage import LsnRange
from replicator.core.finding import Finding
from replicator.core.retention import Taken
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.errors import IntegrityError
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

#: How long what was let go of stays, and how long a mark or a note protects what it names.
WAIT = timedelta(hours=24)
_REPAIR = "Run `replicator verify --objects --repair`, or remove what can not be repaired; then prune again."


@dataclass(frozen=True)
class Going:
    """A `retired` note of names that are to go, and when it was put."""

    name: str
    put: datetime
    names: tuple[str, ...]


@dataclass
class Facts:
    """One system id in one store. `now` is the store's clock. `living` are labels under which something is being put;
    `marks` the begins by label. `hold_packs`, `hold_all`: why no pack, or nothing at all, may go now.
    """

    store: ReadableStore
    keyring: Keyring
    system_id: int
    now: datetime
    taken: list[Taken] = field(default_factory=list)
    unreadable: list[Snapshot] = field(default_factory=list)
    histories: dict[int, TimelineHistory] = field(default_factory=dict)
    last_wal: dict[int, datetime] = field(default_factory=dict)
    kept_wal: list[LsnRange] = field(default_factory=list)
    segment_size: int = 0
    living: set[str] = field(default_factory=set)
    marks: dict[str, list[str]] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    going: list[Going] = field(default_factory=list)
    gone_notes: list[str] = field(default_factory=list)
    gone_names: set[str] = field(default_factory=set)
    gone_ranges: list[LsnRange] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    hold_packs: list[str] = field(default_factory=list)
    hold_all: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def damaged(self, name: str, error: IntegrityError, affects: str | None) -> None:
        """An object is not as it was signed."""
        text = f"store {self.store.name}: {error.message}"
        self.findings.append(
            Finding("object_damaged", text, _REPAIR, affects=affects, object=name, store=self.store.name)
        )
