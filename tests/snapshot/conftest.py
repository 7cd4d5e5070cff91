"""Fixtures of the tests of snapshots: a primary per module, directory stores per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.repository.repository import Repository
from replicator.store import Prefixed
from replicator.store.directory import DirectoryStore
from replicator.store.protocol import Store
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.snapshot.support import make_repository


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a server where this host has no PostgreSQL."""
    if not have_binaries():
        for item in items:
            if item.get_closest_marker("server"):
                item.add_marker(pytest.mark.skip(reason="no PostgreSQL binaries on this host"))


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory for clusters."""
    with cluster_base() as found:
        yield found


@pytest.fixture(scope="module")
def primary(base: Path) -> Iterator[TestCluster]:
    """A primary with 1 MB segments and some rows, which a module's tests share. Only they change its files: what a
    snapshot adds is counted.
    """
    with make_cluster(base, wal_segsize_mb=1, conf={"autovacuum": "off"}) as cluster:
        cluster.sql("CREATE TABLE dosen AS SELECT g AS id, md5(g::text) AS nama FROM generate_series(1, 20000) g")
        cluster.sql("VACUUM (FREEZE, ANALYZE)")
        cluster.sql("CHECKPOINT")
        yield cluster


def directory_store(name: str, root: Path) -> Store:
    """A directory store rooted at the repository of `frk`."""
    store = DirectoryStore(name, root)
    store.prepare()
    return Prefixed(store, "frk/")


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, Store]:
    """Two directory stores."""
    return {name: directory_store(name, tmp_path / name) for name in ("local", "offsite")}


@pytest.fixture
def repository(stores: dict[str, Store], tmp_path: Path) -> Repository:
    """A repository in both stores."""
    return make_repository(stores, tmp_path)
