"""The whole stream against a real server: byte-exact, restartable, in every store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.repository.repository import Repository
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, catalog, settings, stored_wal, streaming

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository in one directory store."""
    return make_repository(tmp_path)


def server_wal(cluster: TestCluster, start: Lsn, end: Lsn, size: int = MB, timeline: int = 1) -> bytes:
    """The server's own WAL bytes [start, end) from pg_wal."""
    data = bytearray()
    position = start
    while position < end:
        segment = Segment.holding(timeline, position, size)
        body = (cluster.directory / "pg_wal" / segment.name).read_bytes()
        stop = min(end, segment.end)
        data += body[position - segment.start : stop - segment.start]
        position = Lsn(stop)
    return bytes(data)


def held_wal(repository: Repository, cluster: TestCluster, start: Lsn, end: Lsn, timeline: int = 1) -> bytes:
    """The same bytes from the store."""
    data = bytearray()
    position = start
    while position < end:
        segment = Segment.holding(timeline, position, MB)
        body = stored_wal(repository, cluster.system_id, segment)
        stop = min(end, segment.end)
        data += body[position - segment.start : stop - segment.start]
        position = Lsn(stop)
    return bytes(data)


def test_what_is_committed_reaches_the_store_byte_for_byte(
    cluster: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """Under load over several segments the store holds exactly the server's WAL, up to its flushed end."""
    cluster.sql("ALTER SYSTEM SET wal_keep_size = '256MB'")
    cluster.reload()
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait(lambda now: now.state == "streaming", "streaming")
        for _ in range(5):
            cluster.write_wal(20_000)
        end = Lsn.parse(cluster.lsn())
        running.wait_durable(end)
        held = catalog(repository, cluster.system_id, size=MB)
        start = held.coverage.ranges()[0].start
        assert end - start > 5 * MB
        assert held_wal(repository, cluster, start, end) == server_wal(cluster, start, end)
        running.wait(
            lambda now: now.acknowledged_lsn == now.received_lsn and not now.problems and now.only_in_spool_bytes == 0,
            "all acknowledged, and nothing only in the spool",
        )


def test_an_idle_cluster_uploads_nothing_and_acknowledges_everything(
    cluster: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """When all is shipped the slot stands at the received end and no object is added."""
    with streaming(repository, tmp_path / "spool", cluster, settings(slot_look=0.2)) as running:
        running.wait_durable(cluster.write_wal(10))
        restart = Lsn.parse(
            cluster.value("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
        )
        received = running.stream.statistics().received_lsn
        assert received is not None
        assert restart <= received
        running.wait(lambda now: now.acknowledged_lsn == now.received_lsn, "all acknowledged")
        for _ in range(10):  # a server writes a little by itself, every 15 s: then we look again
            end = cluster.lsn()
            running.wait_durable(end)
            before = sorted(info.name for info in repository.store("local").list(""))
            cluster.sql("SELECT 1")
            running.wait(lambda now: now.wal_status == "reserved", "the slot was looked at")
            after = sorted(info.name for info in repository.store("local").list(""))
            if cluster.lsn() == end:
                break
        assert after == before


def test_a_restart_goes_on_where_it_was(cluster: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """A stopped stream, started again on the same spool, leaves no hole and no conflict."""
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(20_000))
    cluster.write_wal(20_000)
    with streaming(repository, tmp_path / "spool", cluster, settings()) as running:
        running.wait_durable(cluster.write_wal(20_000))
        assert not running.stream.statistics().problems
    held = catalog(repository, cluster.system_id, size=MB)
    assert len(held.coverage.ranges()) == 1
    assert held.conflicts == ()
