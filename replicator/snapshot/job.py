"""What a take is given, and what it gives back.

Owns the values that cross into and out of a take. Never acts on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replicator.core.finding import Finding
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.seal.header import Compression
from replicator.seal.keyring import Keyring
from replicator.snapshot.packer import PACK_SIZE
from replicator.snapshot.row import SnapshotRow
from replicator.snapshot.source import LocalReader
from replicator.snapshot.standby import Standby
from replicator.tolerance import Clock, SystemClock

#: Named steps of a take, in order; a callable given as `steps` is called with each as it is reached.
STEPS = ("slot", "stores", "begun", "parent", "backup", "file", "packed", "read", "wal", "sealed", "manifest", "kept")

PAGE_CHECKSUM = "page_checksum"
PARENT_UNUSABLE = "parent_unusable"
MARK_UNUSABLE = "mark_unusable"
STORE_LACKS = "store_lacks_snapshot"
#: Only worth knowing: the replica that the policy names could not be read.
FROM_PRIMARY = "snapshot_from_primary"


def no_step(_: str) -> None:
    """The step callable of a take that nobody tries to break."""


@dataclass(frozen=True)
class TakeJob:
    """One snapshot to take. Everything real is passed in.

    `rate_limit` in bytes per second, `pack_size` in sealed bytes. `store_deadline_s`: how long a store may take nothing
    before the snapshot goes on without it. `wal_deadline_s`: how long a store's coverage may stand still before it is
    given up for this snapshot.
    `local` reads the data directory where that is the server's own; without it the snapshot comes over the network.
    `standby` is read instead of the primary where it follows.
    `unlock` gives the keyring that opens, where `repository` has not got it: a passphrase costs half a second of a CPU,
    and a take opens nothing but the manifest of a parent that this host does not remember.
    """

    repository: Repository
    connect: Callable[[], ReplicationConnection]
    sql: Callable[[], SqlConnection]
    slot: str
    state_directory: Path
    clock: Clock = field(default_factory=SystemClock)
    full: bool = False
    compression: Compression = Compression.ZSTD
    level: int = 3
    workers: int = 2
    checkpoint: str = "fast"
    rate_limit: int | None = None
    pack_size: int = PACK_SIZE
    local: LocalReader | None = None
    standby: Standby | None = None
    unlock: Callable[[], Keyring] | None = None
    store_deadline_s: float = 180.0
    wal_deadline_s: float = 60.0
    steps: Callable[[str], None] = no_step

    def opening(self) -> Keyring:
        """The keyring for what must be opened. Raises KeysError and its kinds, StoreUnavailable."""
        return self.repository.keyring if self.unlock is None else self.unlock()


@dataclass(frozen=True, slots=True)
class TakeResult:
    """A snapshot that exists in at least one store."""

    row: SnapshotRow
    elapsed_s: float
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """0; 6 when a store lacks it; 4 when it is damaged, or the repository was found to be."""
        codes = {finding.code for finding in self.findings}
        if codes - {STORE_LACKS, FROM_PRIMARY}:
            return 4
        return 6 if STORE_LACKS in codes else 0

    def as_json(self) -> dict[str, Any]:
        """The row, the seconds it took and the findings."""
        findings = [finding.as_json() for finding in self.findings]
        return {**self.row.as_json(), "elapsed_s": round(self.elapsed_s, 3), "findings": findings}
