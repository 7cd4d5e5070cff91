"""What making and removing a replica work on, and what making one brought."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.progress import Report, silent
from replicator.errors import NotFound, UsageError
from replicator.policy import ReplicaPolicy
from replicator.postgres.binaries import Binaries
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.postgres.standby import slot_of_replica
from replicator.replicas.place import ReplicaPlace
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.restore.job import PYTHON
from replicator.tolerance import Clock


@dataclass(frozen=True)
class ReplicaJob:
    """One replica of one cluster. `repository` is opened only when it is called; `record` is the mark's path. `wait_s`:
    for the server to follow, once it was started; `stall_s`: of these, without any progress.
    """

    cluster: str
    policy: ReplicaPolicy
    conninfo: str
    password: Callable[[], bytes | None]
    connect: Callable[[], ReplicationConnection]
    sql: Callable[[], SqlConnection]
    replica_sql: Callable[[], SqlConnection]
    repository: Callable[[], Repository]
    access: Callable[[], Mapping[str, StoreAccess]]
    binaries: Callable[[int], Binaries]
    record: Path
    clock: Clock
    owner: str | None = None
    tablespaces: Mapping[int, Path] = field(default_factory=dict)
    workers: int = 4
    wait_s: float = 3600.0
    stall_s: float = 120.0
    command: tuple[str, ...] = PYTHON
    report: Report = silent
    stop: Event = field(default_factory=Event)
    step: Callable[[str], None] = lambda _: None

    @property
    def place(self) -> ReplicaPlace:
        """Where it lies."""
        return ReplicaPlace(self.policy.data_directory, self.record)

    @property
    def slot(self) -> str:
        """Its slot on the primary."""
        return slot_of_replica(self.cluster, self.policy.name)


@dataclass(frozen=True, slots=True)
class Created:
    """A replica that follows: it has replayed `target`, which was the primary's end when the work began."""

    name: str
    snapshot: str
    store: str
    data_directory: Path
    slot: str
    port: int
    pid: int | None
    target: Lsn
    replayed: Lsn
    bytes: int
    elapsed_s: float
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """`replica create --json`."""
        return {
            "name": self.name,
            "snapshot": self.snapshot,
            "store": self.store,
            "data_directory": str(self.data_directory),
            "slot": self.slot,
            "port": self.port,
            "pid": self.pid,
            "state": "streaming",
            "target_lsn": str(self.target),
            "replay_lsn": str(self.replayed),
            "bytes": self.bytes,
            "elapsed_s": round(self.elapsed_s, 3),
            "notes": list(self.notes),
        }


def find_replica(cluster: str, replicas: tuple[ReplicaPolicy, ...], name: str) -> ReplicaPolicy:
    """A replica of the policy by its name. Raises NotFound that names them."""
    found = next((replica for replica in replicas if replica.name == name), None)
    if found is None:
        names = ", ".join(replica.name for replica in replicas)
        hint = f"The policy's replicas are {names}." if names else "Add a [[replica]] to the policy."
        raise NotFound(f"{cluster} has no replica {name!r} in its policy", hint=hint)
    return found


def check_kind(policy: ReplicaPolicy) -> None:
    """Raise UsageError for a replica that this version doesn't make, or that belongs on another host."""
    if policy.kind != "physical":
        raise UsageError(
            f"replica {policy.name} is {policy.kind}, and this version makes physical ones",
            hint='Write kind = "physical" in its [[replica]].',
        )
    if policy.follow != "primary":
        raise UsageError(
            f"replica {policy.name} is to follow the relay, which this version does not run",
            hint='Write follow = "primary" in its [[replica]].',
        )
    if policy.host is not None and not _is_here(policy.host):
        raise UsageError(
            f"replica {policy.name} belongs on {policy.host}, which is not this host",
            hint="Run the verb there, with the same policy.",
        )


def _is_here(host: str) -> bool:
    """Whether an address of that name is one of ours: only those can be bound."""
    if host == socket.gethostname() or host.startswith("/"):
        return True
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"the host {host} has no address", hint="Correct `host` in the replica's policy.") from error
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False


def check_owner(owner: str | None) -> None:
    """Raise UsageError when root named nobody to run the server as."""
    if owner is None and os.geteuid() == 0:
        raise UsageError(
            "a replica's server needs --owner when root makes it",
            hint="PostgreSQL refuses to run as root; name its user, for example --owner postgres.",
        )
