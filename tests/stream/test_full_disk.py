"""A full disk under the spool: back pressure, no loss, and a way out that does not need the operator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, catalog, streaming
from tests.stream.test_acknowledge import Taps

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20
DISK = 24 * MB


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB that keeps WAL only for slots."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own: far below the spool's limit."""
    directory = tmp_path / "disk"
    directory.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def write_more_than_the_disk(cluster: TestCluster) -> str:
    """About twice the disk's size of WAL: its end."""
    return [cluster.write_wal(40_000) for _ in range(10)][-1]


def assert_whole(held: object, end: str) -> None:
    """One gapless run up to `end`."""
    ranges = held.coverage.ranges()  # type: ignore[attr-defined]
    assert len(ranges) == 1, ranges
    assert ranges[0].end >= Lsn.parse(end)


def test_with_every_store_away_the_slot_holds(cluster: TestCluster, disk: Path, tmp_path: Path) -> None:
    """The receiver stops before the disk is full to the last byte, says so and goes on with status; when the store is
    back all of it arrives.
    """
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    with streaming(repository, disk / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["local"].closed = True
        end = write_more_than_the_disk(cluster)
        now = running.wait(
            lambda now: now.back_pressure and any("disk" in problem.text for problem in now.problems), "back pressure"
        )
        assert now.received_lsn < Lsn.parse(end)
        assert [problem.code for problem in now.problems if "disk" in problem.text] == [9]
        assert cluster.value("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
        taps.by_name["local"].closed = False
        running.wait_durable(end)
        running.wait(lambda now: not now.back_pressure and not now.problems, "well again")
    assert_whole(catalog(repository, cluster.system_id, size=MB), end)


def test_a_backlog_larger_than_the_disk_flows_through(cluster: TestCluster, disk: Path, tmp_path: Path) -> None:
    """A source that sends faster than a slow store takes never leaves the sealer without room."""
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    with streaming(repository, disk / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
    end = write_more_than_the_disk(cluster)
    taps.by_name["local"].slow = 0.1
    with streaming(repository, disk / "spool", cluster) as running:
        running.wait_durable(end)
    assert_whole(catalog(repository, cluster.system_id, size=MB), end)


def test_a_full_disk_counts_as_the_limit(cluster: TestCluster, disk: Path, tmp_path: Path) -> None:
    """With one store away the spool lets go of what the other has, and the stream flows."""
    taps = Taps()
    repository = make_repository(tmp_path, names=("near", "far"), wrap=taps)
    with streaming(repository, disk / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["far"].closed = True
        end = write_more_than_the_disk(cluster)
        running.wait_near(end)
        running.wait(lambda now: now.stores["far"].state == "away", "away")
        taps.by_name["far"].closed = False
        running.wait_durable(end)
    assert_whole(catalog(repository, cluster.system_id, "near", MB), end)
    assert_whole(catalog(repository, cluster.system_id, "far", MB), end)
