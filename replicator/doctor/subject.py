"""What the subjects of a check look at: the policy, and callables that reach the real things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.policy import Policy
from replicator.postgres.binaries import Binaries
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.following import Server
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.store.probe import Observation
from replicator.store.protocol import Store
from replicator.tolerance import Clock


@dataclass(frozen=True)
class Patient:
    """One cluster to check. `repository` opens with all secrets, `sealed` without; every callable may raise our errors.
    `may_create_slot`: whether `init` made it; `probe`: a store by its name, and the folder to probe it in.
    `replica`: the one that snapshots are read from.
    """

    policy: Policy
    clock: Clock
    sql: Callable[[], SqlConnection]
    replication: Callable[[], ReplicationConnection]
    stores: Callable[[], Mapping[str, Store]]
    repository: Callable[[], Repository]
    sealed: Callable[[], Repository]
    binaries: Callable[[int], Binaries]
    state_directory: Callable[[], Path]
    spool_directory: Path
    may_create_slot: Callable[[], bool]
    probe: Callable[[str, str], Sequence[Observation]]
    replica: Server | None = None

    @property
    def name(self) -> str:
        """The cluster."""
        return self.policy.cluster
