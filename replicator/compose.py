"""From a policy to real things: stores, repository, connections, the stream. The only constructor of any of them.

Verbs, the daemon, scripts and tests build through `compose`; tests pass in a clock, a wrapper around each store or a
step callable. Modules are imported when used, so that a verb pays only for what it needs. It never runs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from replicator.errors import KeysError, NotFound
from replicator.policy import DaemonPolicy, Policy, resolve_secret
from replicator.tolerance import Clock, SystemClock

if TYPE_CHECKING:
    from replicator.postgres.binaries import Binaries
    from replicator.postgres.connection import ReplicationConnection
    from replicator.postgres.following import Server
    from replicator.postgres.hosts import Hosts
    from replicator.postgres.query import SqlConnection
    from replicator.replicas.watch import ReplicaWatch
    from replicator.repository.repository import Repository, Secrets
    from replicator.seal.header import Compression
    from replicator.seal.signature import SigningKey
    from replicator.store import ResilientStore, Store, StoreStatistics
    from replicator.stream import ClusterStream
    from replicator.upkeep.state import HostState


def no_step(_: str) -> None:
    """The step callable of a process that nobody tries to break."""


def compose(
    policy: Policy,
    daemon: DaemonPolicy,
    *,
    clock: Clock | None = None,
    wrap_store: Callable[[Store], Store] | None = None,
    steps: Callable[[str], None] = no_step,
    interrupt: Event | None = None,
    budget_s: float | None = None,
) -> Cluster:
    """One cluster's constructor. `interrupt`, once set, ends its waits for stores and servers; `budget_s` replaces the
    policy's retry budget (for a verb that must answer soon). Touches nothing yet.
    """
    return Cluster(policy, daemon, clock or SystemClock(), wrap_store, steps, interrupt or Event(), budget_s)


@dataclass(eq=False)
class Cluster:
    """Builds one cluster's parts from its policy. Each process has one per cluster: its stores share their breakers."""

    policy: Policy
    daemon: DaemonPolicy
    clock: Clock
    wrap_store: Callable[[Store], Store] | None
    steps: Callable[[str], None]
    interrupt: Event
    budget_s: float | None

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.policy.cluster

    @cached_property
    def state(self) -> HostState:
        """What this host remembers of the cluster. Raises HostLacks."""
        from replicator.upkeep.state import HostState

        return HostState(self.daemon.state.directory / self.name)

    @property
    def state_directory(self) -> Path:
        """`[state] directory`/<cluster>, 0700, created. Raises HostLacks."""
        return self.state.directory

    @property
    def spool_directory(self) -> Path:
        """`[stream] spool`/<cluster>; the stream creates it."""
        return self.policy.stream.spool / self.name

    @cached_property
    def base_stores(self) -> Mapping[str, ResilientStore]:
        """Every store of the policy at its root, with retries, breaker and bulkhead. Resolves their keys."""
        from replicator.repository.layout import locked
        from replicator.store import open_store

        def kept(name: str) -> bool:
            return locked(name.partition("/")[2])

        tolerance = self.policy.tolerance
        build = partial(open_store, clock=self.clock, stop=self.interrupt, budget_s=self.budget_s, locked=kept)
        return {store.name: build(store, tolerance, resolve_secret) for store in self.policy.stores}

    def prepare_stores(self) -> None:
        """Make every store usable for the first time (`init`). Raises StoreUnavailable and its kinds."""
        for store in self.base_stores.values():
            store.prepare()

    def stores(self) -> Mapping[str, Store]:
        """Every store, rooted at this cluster's repository."""
        return self._stores

    @cached_property
    def _stores(self) -> Mapping[str, Store]:
        from replicator.store import Prefixed

        wrap = self.wrap_store or (lambda store: store)
        return {name: Prefixed(wrap(store), f"{self.name}/") for name, store in self.base_stores.items()}

    def store_statistics(self) -> Mapping[str, StoreStatistics]:
        """What each store went through since the start: retries, breaker."""
        return {name: store.statistics() for name, store in self.base_stores.items()}

    def password(self) -> bytes | None:
        """The replication user's password; None where libpq has its own ways."""
        ref = self.policy.source.password
        return resolve_secret(ref, what=f"the password of {self.name}'s source") if ref else None

    def writer(self) -> SigningKey | None:
        """This host's signing key; None when `init` has not been here. Raises KeysError."""
        from replicator.upkeep.secrets import load_writer_key

        return load_writer_key(self.policy.encryption.writer_key)

    def secrets(self, *, identity: Path | None = None) -> Secrets:
        """What this host may open and sign with: passphrase, identity (or the file given instead), writer key."""
        from replicator.upkeep.secrets import held_secrets

        return held_secrets(self.name, self.policy.encryption, identity, self.writer())

    @property
    def pinned_root(self) -> str | None:
        """The root that the policy names, else the one this host saw first; None before that."""
        return self.policy.encryption.root or self.state.pinned_root

    def pin_root(self, root: str) -> None:
        """Remember the first root seen; a later one is refused. Does nothing where one is pinned."""
        if self.pinned_root is None:
            self.state.pin_root(root)

    def repository(
        self, *, secrets: bool | Secrets = True, write: bool = False, only: tuple[str, ...] = (), cached: bool = True
    ) -> Repository:
        """The cluster's repository, from the first of its stores that answers (`only`: of these).

        `secrets` False leaves passphrase and identity alone: such a repository is listed, verified and written, not
        opened. `write` demands a writer key that the root signed. `cached` allows this host's copies of the documents
        when no store answers. Raises NotFound, StoreUnavailable, KeysError and its kinds.
        """
        from replicator.repository.repository import CachedDocuments, Secrets, open_repository

        held = self.secrets() if secrets is True else Secrets(writer=self.writer()) if secrets is False else secrets
        stores = self._some(only)
        root = self.pinned_root
        cache = CachedDocuments(self.state.documents) if cached else None
        copies = self.daemon.state.directory / self.name / "documents"  # what this host saw removed counts for all
        known = CachedDocuments(copies) if not cached and os.access(copies, os.R_OK | os.X_OK) else None
        repository = open_repository(self.name, stores, held, pinned_root=root, cache=cache, known=known)
        self._check(repository, write=write)
        return repository

    def _some(self, only: tuple[str, ...]) -> Mapping[str, Store]:
        """The stores named, so that no other is waited for; all without names. Raises NotFound."""
        stores = self.stores()
        unknown = [name for name in only if name not in stores]
        if unknown:
            raise NotFound(
                f"{self.name} has no store {unknown[0]!r}", hint=f"The policy's stores are {', '.join(stores)}."
            )
        return {name: stores[name] for name in only} if only else stores

    def _check(self, repository: Repository, *, write: bool) -> None:
        from replicator.seal.header import Cipher
        from replicator.seal.signature import SIGNING, key_text

        keyring = repository.keyring
        sealed = keyring.cipher is not Cipher.NONE
        if sealed != (self.policy.encryption.mode != "none"):
            raise KeysError(
                f"the policy says mode = {self.policy.encryption.mode!r}, the repository is "
                f"{'encrypted' if sealed else 'not encrypted'}",
                hint="A repository keeps the mode it was made with; correct the policy, or use stores that are empty.",
            )
        if write and not keyring.can_write:
            raise KeysError(
                f"this host has no writer key that {self.name}'s repository knows",
                hint=f"Run `replicator init {self.name}` on this host with a recipient's secret.",
            )
        self.pin_root(key_text(SIGNING, keyring.root))

    @cached_property
    def hosts(self) -> Hosts:
        """Which of the source's hosts is asked first. Raises UsageError, HostLacks."""
        from replicator.postgres.conninfo import targets_of
        from replicator.postgres.hosts import Hosts

        targets = targets_of(self.policy.source.conninfo, None, application_name=self.policy.source.slot)
        return Hosts([target.label for target in targets], self.state if len(targets) > 1 else None)

    def replication_connection(self) -> ReplicationConnection:
        """A new replication connection to the primary. Raises SourceUnavailable and its kinds."""
        from replicator.postgres.connection import ReplicationConnection

        tolerance = self.policy.tolerance
        return ReplicationConnection.connect(
            self.policy.source.conninfo,
            self.password(),
            application_name=self.policy.source.slot,
            connect_timeout=tolerance.connect_timeout,
            request_timeout=tolerance.request_timeout,
            first=self.hosts.first,
            stop=self.interrupt,
        )

    def sql(self) -> SqlConnection:
        """A new SQL session on the primary. Raises SourceUnavailable and its kinds."""
        from replicator.postgres.query import SqlConnection

        tolerance = self.policy.tolerance
        return SqlConnection(
            self.policy.source.conninfo,
            self.password(),
            connect_timeout=tolerance.connect_timeout,
            statement_timeout=tolerance.request_timeout,
            first=self.hosts.first,
            stop=self.interrupt,
        )

    def may_create_slot(self) -> bool:
        """Whether `init` made this policy's slot (or was to make it), so that a lost one may be made again."""
        return self.state.made_slot(self.policy.source.slot)

    def stream(self, repository: Repository, *, system_id: int | None = None) -> ClusterStream:
        """The cluster's stream over an opened repository that may be written. `system_id`: the source's, where it is
        known; else the spool and the source say. Raises HostLacks.
        """
        from replicator.stream import ClusterStream, StreamSettings

        stream = self.policy.stream
        settings = StreamSettings(
            slot=self.policy.source.slot,
            acknowledge=stream.acknowledge,
            spool_limit=stream.spool_limit,
            piece_interval=stream.piece_interval,
            piece_size=stream.piece_size,
            compression=self.compression,
            level=self.policy.compression.level,
            request_timeout=self.policy.tolerance.request_timeout,
            protect=stream.protect,
            slot_limit=stream.slot_limit,
            pg_wal=data / "pg_wal" if (data := self.policy.source.data_directory) is not None else None,
        )
        return ClusterStream(
            repository,
            self.spool_directory,
            settings,
            connect=self.replication_connection,
            clock=self.clock,
            sql=self.sql,
            system_id=system_id,
            hosts=self.hosts,
            may_create_slot=self.may_create_slot,
            store_statistics={name: store.statistics for name, store in self.base_stores.items()},
            steps=self.steps,
        )

    def replica_sql(self, name: str) -> SqlConnection:
        """A new SQL session on a replica of the policy. Raises NotFound, SourceUnavailable and its kinds."""
        from replicator.postgres.query import SqlConnection

        tolerance = self.policy.tolerance
        return SqlConnection(
            self._replica_conninfo(name),
            self.password(),
            connect_timeout=tolerance.connect_timeout,
            statement_timeout=tolerance.request_timeout,
            stop=self.interrupt,
        )

    def replica_connection(self, name: str) -> ReplicationConnection:
        """A new replication connection to a replica of the policy. Raises as `replica_sql`."""
        from replicator.postgres.connection import ReplicationConnection

        tolerance = self.policy.tolerance
        return ReplicationConnection.connect(
            self._replica_conninfo(name),
            self.password(),
            application_name=self.policy.source.slot,
            connect_timeout=tolerance.connect_timeout,
            request_timeout=tolerance.request_timeout,
            stop=self.interrupt,
        )

    def snapshot_server(self) -> Server | None:
        """The ways to the replica that snapshots are read from; None for the primary."""
        from replicator.postgres.following import Server

        name = self.policy.snapshot.read_from
        if name == "primary":
            return None
        return Server(partial(self.replica_connection, name), partial(self.replica_sql, name))

    def _replica_conninfo(self, name: str) -> str:
        from replicator.postgres.conninfo import beside

        replica = next((found for found in self.policy.replicas if found.name == name), None)
        if replica is None:
            raise NotFound(f"{self.name} has no replica {name!r}")
        return beside(self.policy.source.conninfo, replica.host or "127.0.0.1", replica.port)

    def replica_watch(self) -> ReplicaWatch:
        """Asks the policy's replicas how they are."""
        from replicator.replicas.watch import ReplicaWatch

        return ReplicaWatch(self.policy.replicas, self.replica_sql, self.clock)

    @property
    def compression(self) -> Compression:
        """As the repository writes it."""
        from replicator.seal.header import Compression

        return Compression.NONE if self.policy.compression.algorithm == "none" else Compression.ZSTD

    def binaries(self, major: int) -> Binaries:
        """PostgreSQL's programs of that major version on this host. Raises BinariesMissing."""
        from replicator.postgres.binaries import find_binaries

        return find_binaries(major, self.policy.source.binaries)
