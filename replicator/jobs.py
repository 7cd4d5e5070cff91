"""What long verbs work on: jobs, built from a composed cluster.

Apart from compose, because only a verb's own process needs them: the daemon starts the verb and knows nothing of these.
Modules are imported when used, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replicator.compose import Cluster
    from replicator.core.lsn import Lsn
    from replicator.replicas.job import ReplicaJob
    from replicator.snapshot.job import TakeJob
    from replicator.snapshot.standby import Standby
    from replicator.upkeep.prune import PruneJob
    from replicator.verify.model import VerifyJob


def take_job(cluster: Cluster, *, full: bool = False, workers: int | None = None) -> TakeJob:
    """What `snapshot take` works on; a store within its retry budget is waited for. Raises as `repository` does."""
    from replicator.snapshot.job import TakeJob

    policy, tolerance = cluster.policy, cluster.policy.tolerance
    local = None
    if policy.source.data_directory is not None:
        from replicator.snapshot.local import BesideServer

        local = BesideServer(policy.source.data_directory)
    patience = tolerance.retry_budget + tolerance.request_timeout
    return TakeJob(
        repository=cluster.repository(secrets=False, write=True),
        unlock=cache(lambda: cluster.repository().keyring),
        connect=cluster.replication_connection,
        sql=cluster.sql,
        slot=policy.source.slot,
        state_directory=cluster.state_directory,
        clock=cluster.clock,
        full=full,
        compression=cluster.compression,
        level=policy.compression.level,
        workers=workers if workers is not None else policy.snapshot.workers,
        checkpoint=policy.snapshot.checkpoint,
        rate_limit=policy.snapshot.rate_limit,
        local=local,
        standby=_standby(cluster),
        store_deadline_s=max(180.0, patience),
        wal_deadline_s=max(60.0, patience),
        steps=cluster.steps,
    )


def _standby(cluster: Cluster) -> Standby | None:
    """The replica that snapshots are read from; None for the primary."""
    from replicator.snapshot.standby import Standby

    server, name = cluster.snapshot_server(), cluster.policy.snapshot.read_from
    replica = next((found for found in cluster.policy.replicas if found.name == name), None)
    return Standby(name, server, replica.max_lag) if server is not None and replica is not None else None


def prune_job(cluster: Cluster, *, dry_run: bool = False) -> PruneJob:
    """What `prune` and `snapshot remove` work on; it needs no key that opens. Raises as `repository` does."""
    from replicator.core.retention import Rule
    from replicator.upkeep.prune import PruneJob

    kept = cluster.policy.retention
    return PruneJob(
        repository=cluster.repository(secrets=False, write=not dry_run, cached=False),
        clock=cluster.clock,
        state_directory=cluster.state_directory,
        rule=Rule(kept.window, kept.daily, kept.weekly, kept.monthly) if kept is not None else None,
        dry_run=dry_run,
        steps=cluster.steps,
    )


def replica_job(cluster: Cluster, name: str, **given: Any) -> ReplicaJob:
    """What `replica create` and `remove` work on; `given` are members of ReplicaJob. Raises NotFound."""
    from replicator.replicas.job import ReplicaJob, find_replica
    from replicator.restore.access import StoreAccess

    policy = cluster.policy
    return ReplicaJob(
        cluster=cluster.name,
        policy=find_replica(cluster.name, policy.replicas, name),
        conninfo=policy.source.conninfo,
        password=cluster.password,
        connect=cluster.replication_connection,
        sql=cluster.sql,
        replica_sql=partial(cluster.replica_sql, name),
        repository=partial(cluster.repository, cached=False),
        access=lambda: {one.name: StoreAccess.resolved(one, policy.tolerance) for one in policy.stores},
        binaries=cluster.binaries,
        record=cluster.state_directory / "replicas" / f"{name}.json",
        clock=cluster.clock,
        stop=cluster.interrupt,
        **given,
    )


def verify_job(
    cluster: Cluster,
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

    policy = cluster.policy
    repository = cluster.repository(cached=False)
    return VerifyJob(
        repository=repository,
        chosen=(repository.store(store).name,) if store is not None else tuple(repository.stores),
        policy=policy,
        clock=cluster.clock,
        state_directory=cluster.state_directory,
        access=lambda: {one.name: StoreAccess.resolved(one, policy.tolerance) for one in policy.stores},
        binaries=cluster.binaries,
        sql=cluster.sql,
        replica_sql=cluster.replica_sql,
        stream_position=stream_position,
        repair=repair,
        owner=owner,
        seed=seed,
        stop=cluster.interrupt,
    )
