"""From a policy to real things: stores, repository, connections, the stream. The only constructor of any of them.

Verbs, the daemon, scripts and tests build through `compose`; tests pass in a clock, a wrapper around each store or a
step callable. Modules are imported when used, so that a verb pays only for what it needs. It never runs anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from replicator.errors import KeysError, NotFound
from replicator.policy import DaemonPolicy, Policy, resolve_secret
from replicator.tolerance import Clock, SystemClock

if TYPE_CHECKING:
    from replicator.core.lsn import Lsn
    from replicator.postgres.binaries import Binaries
    from replicator.postgres.connection import ReplicationConnection
    from replicator.postgres.hosts import Hosts
    from replicator.postgres.query import SqlConnection
    from replicator.replicas.job import ReplicaJob
    from replicator.replicas.watch import ReplicaWatch
    from replicator.repository.repository import Repository, Secrets
    from replicator.seal.header import Compression
    from replicator.seal.signature import SigningKey
    from replicator.snapshot import TakeJob
    from replicator.store import ResilientStore, Store, StoreStatistics
    from replicator.stream import ClusterStream
    from replicator.upkeep.prune import PruneJob
    from replicator.upkeep.state import HostState
    from replicator.verify.model import VerifyJob


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
        from replicator.upkeep.init import load_writer_key

        return load_writer_key(self.policy.encryption.writer_key)

    def secrets(self, *, identity: Path | None = None) -> Secrets:
        """What this host may open and sign with: passphrase, identity (or the file given instead), writer key."""
        from replicator.policy import SecretRef
        from replicator.repository.repository import Secrets
        from replicator.seal.signature import SEALING_SECRET, SIGNING_SECRET, parse_key

        encryption = self.policy.encryption
        passphrases: tuple[bytes, ...] = ()
        identities: tuple[bytes, ...] = ()
        seed: bytes | None = None
        if encryption.passphrase is not None:
            passphrases = (resolve_secret(encryption.passphrase, what=f"the passphrase of {self.name}"),)
        reference = SecretRef(file=identity.absolute()) if identity is not None else encryption.identity
        if reference is not None:
            text = resolve_secret(reference, what=f"the identity of {self.name}").decode("ascii", "replace")
            if text.startswith(f"{SIGNING_SECRET}:"):  # without encryption the sheet holds the root itself
                seed = parse_key(SIGNING_SECRET, text)
            else:
                identities = (parse_key(SEALING_SECRET, text),)
        return Secrets(passphrases, identities, seed, self.writer())

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
        cache = CachedDocuments(self.state.documents) if cached else None
        repository = open_repository(self.name, stores, held, pinned_root=self.pinned_root, cache=cache)
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
            compression=self._compression,
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

    def take_job(self, *, full: bool = False, workers: int | None = None) -> TakeJob:
        """What `snapshot take` works on; a store within its retry budget is waited for. Raises as `repository` does."""
        from replicator.snapshot import TakeJob

        policy, tolerance = self.policy, self.policy.tolerance
        patience = tolerance.retry_budget + tolerance.request_timeout
        return TakeJob(
            repository=self.repository(write=True),
            connect=self.replication_connection,
            sql=self.sql,
            slot=policy.source.slot,
            state_directory=self.state_directory,
            clock=self.clock,
            full=full,
            compression=self._compression,
            level=policy.compression.level,
            workers=workers if workers is not None else policy.snapshot.workers,
            checkpoint=policy.snapshot.checkpoint,
            rate_limit=policy.snapshot.rate_limit,
            store_deadline_s=max(180.0, patience),
            wal_deadline_s=max(60.0, patience),
            steps=self.steps,
        )

    def prune_job(self, *, dry_run: bool = False) -> PruneJob:
        """What `prune` and `snapshot remove` work on; it needs no key that opens. Raises as `repository` does."""
        from replicator.core.retention import Rule
        from replicator.upkeep.prune import PruneJob

        kept = self.policy.retention
        return PruneJob(
            repository=self.repository(secrets=False, write=not dry_run, cached=False),
            clock=self.clock,
            state_directory=self.state_directory,
            rule=Rule(kept.window, kept.daily, kept.weekly, kept.monthly) if kept is not None else None,
            dry_run=dry_run,
            steps=self.steps,
        )

    def replica_sql(self, name: str) -> SqlConnection:
        """A new SQL session on a replica of the policy. Raises NotFound, SourceUnavailable and its kinds."""
        from replicator.postgres.conninfo import beside
        from replicator.postgres.query import SqlConnection

        replica = next((found for found in self.policy.replicas if found.name == name), None)
        if replica is None:
            raise NotFound(f"{self.name} has no replica {name!r}")
        tolerance = self.policy.tolerance
        return SqlConnection(
            beside(self.policy.source.conninfo, replica.host or "127.0.0.1", replica.port),
            self.password(),
            connect_timeout=tolerance.connect_timeout,
            statement_timeout=tolerance.request_timeout,
            stop=self.interrupt,
        )

    def replica_job(self, name: str, **given: Any) -> ReplicaJob:
        """What `replica create` and `remove` work on; `given` are members of ReplicaJob. Raises NotFound."""
        from replicator.replicas.job import ReplicaJob, find_replica
        from replicator.restore.access import StoreAccess

        policy = self.policy
        return ReplicaJob(
            cluster=self.name,
            policy=find_replica(self.name, policy.replicas, name),
            conninfo=policy.source.conninfo,
            password=self.password,
            connect=self.replication_connection,
            sql=self.sql,
            replica_sql=partial(self.replica_sql, name),
            repository=partial(self.repository, cached=False),
            access=lambda: {one.name: StoreAccess.resolved(one, policy.tolerance) for one in policy.stores},
            binaries=self.binaries,
            record=self.state_directory / "replicas" / f"{name}.json",
            clock=self.clock,
            stop=self.interrupt,
            **given,
        )

    def replica_watch(self) -> ReplicaWatch:
        """Asks the policy's replicas how they are."""
        from replicator.replicas.watch import ReplicaWatch

        return ReplicaWatch(self.policy.replicas, self.replica_sql, self.clock)

    def verify_job(
        self,
        *,
        store: str | None = None,
        repair: bool = False,
        owner: str | None = None,
        seed: int | None = None,
        stream_position: Callable[[], tuple[int, Lsn] | None] | None = None,
    ) -> VerifyJob:
        """What `verify` works on: all stores, of which `store` or all are looked at. Raises as `repository` does."""
        from replicator.restore.access import StoreAccess
        from replicator.verify.model import VerifyJob

        policy = self.policy
        repository = self.repository(cached=False)
        return VerifyJob(
            repository=repository,
            chosen=(repository.store(store).name,) if store is not None else tuple(repository.stores),
            policy=policy,
            clock=self.clock,
            state_directory=self.state_directory,
            access=lambda: {one.name: StoreAccess.resolved(one, policy.tolerance) for one in policy.stores},
            binaries=self.binaries,
            sql=self.sql,
            replica_sql=self.replica_sql,
            stream_position=stream_position,
            repair=repair,
            owner=owner,
            seed=seed,
            stop=self.interrupt,
        )

    @property
    def _compression(self) -> Compression:
        from replicator.seal.header import Compression

        return Compression.NONE if self.policy.compression.algorithm == "none" else Compression.ZSTD

    def binaries(self, major: int) -> Binaries:
        """PostgreSQL's programs of that major version on this host. Raises BinariesMissing."""
        from replicator.postgres.binaries import find_binaries

        return find_binaries(major, self.policy.source.binaries)
