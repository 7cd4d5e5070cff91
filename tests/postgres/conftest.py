"""Fixtures of the tests against real servers: one primary per module, and connections to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.postgres.connection import ReplicationConnection
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a server where this host has no PostgreSQL."""
    if not have_binaries():
        for item in items:
            if item.get_closest_marker("server"):
                item.add_marker(pytest.mark.skip(reason="no PostgreSQL binaries on this host"))


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A directory for clusters."""
    with cluster_base() as found:
        yield found


@pytest.fixture(scope="module")
def primary(base: Path) -> Iterator[TestCluster]:
    """A primary with 1 MB segments that a module's tests share."""
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        yield cluster


Connect = Callable[..., ReplicationConnection]


def connect_to(cluster: TestCluster, *, replication: str = "true", any_server: bool = False) -> ReplicationConnection:
    """A replication connection as the product makes it."""
    conninfo = cluster.conninfo(REPLICATION_USER) + (" target_session_attrs=any" if any_server else "")
    return ReplicationConnection.connect(
        conninfo, PASSWORD.encode(), application_name="tests", connect_timeout=60, replication=replication
    )


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect_to`, closed at the end."""
    made: list[ReplicationConnection] = []

    def open_one(cluster: TestCluster, *, replication: str = "true", any_server: bool = False) -> ReplicationConnection:
        made.append(connect_to(cluster, replication=replication, any_server=any_server))
        return made[-1]

    yield open_one
    for connection in made:
        connection.close()
