"""One server for the doctor's tests; each test leaves its settings as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster


@pytest.fixture(scope="session")
def server() -> Iterator[TestCluster]:
    """A running server."""
    if not have_binaries():
        pytest.skip("no PostgreSQL binaries")
    with cluster_base() as base, make_cluster(base) as cluster:
        yield cluster
