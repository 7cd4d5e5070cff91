"""WAL that the source no longer has: a recorded gap, and the stream goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, catalog, settings, streaming
from tests.stream.test_acknowledge import Taps

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB that keeps WAL only for slots."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


def test_removed_wal_is_a_recorded_gap(cluster: TestCluster, tmp_path: Path) -> None:
    """A slot that is gone, and with it WAL: a gap from our own end on, in statistics and as a note."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
    ours = running.stream.statistics().received_lsn
    cluster.drop_slots(SLOT)
    cluster.write_wal(50_000)
    for _ in range(3):
        cluster.switch_wal()
        cluster.sql("CHECKPOINT")
    running = RunningStream(repository, tmp_path / "spool", lambda: cluster, settings()).start()
    try:
        running.wait(lambda now: now.state == "slot_missing", "the slot is not ours to make")
    finally:
        running.stop()
    with streaming(repository, tmp_path / "spool", cluster, settings(), may_create_slot=lambda: True) as running:
        end = cluster.write_wal(100)
        now = running.wait_durable(end)
        assert [(gap.timeline, gap.start) for gap in now.gaps] == [(1, ours)]
    held = catalog(repository, cluster.system_id, size=MB)
    assert [gap.start for gap in held.gaps] == [ours]
    assert held.gaps[0].stop == now.gaps[0].stop
    assert held.gaps[0].open


def test_an_invalidated_slot_is_made_again(cluster: TestCluster, tmp_path: Path) -> None:
    """A slot that the source gave up is recreated where `init` made it, and what is lost is a gap."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
    cluster.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    cluster.reload()
    cluster.write_wal(80_000)
    for _ in range(3):
        cluster.switch_wal()
        cluster.sql("CHECKPOINT")
    assert cluster.value("SELECT wal_status FROM pg_replication_slots") == "lost"
    with streaming(repository, tmp_path / "spool", cluster, settings(), may_create_slot=lambda: True) as running:
        now = running.wait_durable(cluster.write_wal(100))
        assert len(now.gaps) == 1
        assert cluster.value("SELECT wal_status FROM pg_replication_slots") != "lost"


def test_a_gap_that_no_store_heard_of_holds_up_nothing(cluster: TestCluster, tmp_path: Path) -> None:
    """A gap recorded while the store was away, by a process that is gone: its note is shipped, and the store counts as
    durable behind the gap.
    """
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
    cluster.drop_slots(SLOT)
    cluster.write_wal(50_000)
    for _ in range(3):
        cluster.switch_wal()
        cluster.sql("CHECKPOINT")
    taps.by_name["local"].closed = True
    with streaming(repository, tmp_path / "spool", cluster, settings(), may_create_slot=lambda: True) as running:
        end = Lsn.parse(cluster.write_wal(100))
        running.wait(lambda now: (now.flushed_lsn or 0) >= end, "received behind the gap")
    taps.by_name["local"].closed = False
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
    assert len(catalog(repository, cluster.system_id, size=MB).gaps) == 1
