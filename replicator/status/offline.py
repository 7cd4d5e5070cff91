"""The status without a daemon: what the stores say. Nothing waits long, and one dead store holds up no other."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from replicator.errors import ReplicatorError
from replicator.policy import Policy
from replicator.repository.repository import Repository
from replicator.status.catalogs import CatalogReader, StoreView
from replicator.status.gather import Failure, Known, cluster_status
from replicator.status.model import ClusterStatus
from replicator.tolerance import Clock


def read_views(repository: Repository, clock: Clock) -> Mapping[str, StoreView]:
    """Every store's view, read side by side."""
    readers = {name: CatalogReader(repository, name, clock) for name in repository.stores}
    with ThreadPoolExecutor(max_workers=len(readers), thread_name_prefix="status") as pool:
        views = pool.map(lambda reader: reader.refresh(), readers.values())
        return dict(zip(readers, views, strict=True))


def offline_status(
    policy: Policy, repository: Repository | ReplicatorError, clock: Clock, breakers: Mapping[str, str] | None = None
) -> ClusterStatus:
    """One cluster's status from its stores alone; the error instead of a repository that could not be opened."""
    if isinstance(repository, ReplicatorError):
        failures = (Failure(f"the repository of {policy.cluster}", repository),)
        return cluster_status(Known(policy, clock.now(), {}, failures=failures, daemon=False))
    views = read_views(repository, clock)
    return cluster_status(Known(policy, clock.now(), views, breakers=breakers, daemon=False))
