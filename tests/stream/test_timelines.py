"""Failover: the stream follows a promoted standby, and refuses what contradicts its history."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.core.timeline import TimelineHistory
from replicator.errors import ForeignSource
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, catalog, settings, stored_wal, streaming

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


@pytest.fixture
def base() -> Iterator[Path]:
    """A place for clusters."""
    with cluster_base() as path:
        yield path


def received(standby: TestCluster) -> Lsn:
    """Up to where a standby has received WAL from its primary."""
    return Lsn.parse(standby.value("SELECT coalesce(pg_last_wal_receive_lsn(), '0/0')::text"))


def test_the_stream_follows_a_promoted_standby(base: Path, tmp_path: Path) -> None:
    """After a failover the new timeline is streamed from its first segment on, its history stands in the store, and the
    path from the old timeline to the new one has no hole.
    """
    repository = make_repository(tmp_path)
    with make_cluster(base, wal_segsize_mb=1, conf={"wal_keep_size": "64MB"}) as primary:
        now = [primary]
        running = RunningStream(repository, tmp_path / "spool", lambda: now[0], settings()).start()
        try:
            running.wait_durable(primary.write_wal(5000))
            with primary.standby() as standby:
                written = Lsn.parse(primary.write_wal(5000))
                # A standby that is not connected yet would miss the end that we have, and branch off before it.
                running.wait(lambda _: received(standby) >= written, "the standby")
                primary.stop()
                standby.promote()
                standby.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
                now[0] = standby
                end = standby.write_wal(5000)
                running.wait(lambda seen: seen.timeline == 2 and seen.state == "streaming", "timeline 2")
                running.wait_durable(end)
                system = primary.system_id
                histories = catalog(repository, system).histories
                history = TimelineHistory.parse(2, (standby.directory / "pg_wal" / "00000002.history").read_bytes())
                assert histories[2] == history
                switch = history.switchpoint(1)
                assert switch is not None
                held = catalog(repository, system, size=MB)
                begin = held.coverage.ranges()[0].start
                assert held.coverage.reach_along(history, begin) >= (2, Lsn.parse(end))
                assert held.coverage.end(1) == switch
                shared = Segment.holding(2, switch, MB)
                body = (standby.directory / "pg_wal" / shared.name).read_bytes()
                assert stored_wal(repository, system, shared) == body[: len(stored_wal(repository, system, shared))]
                assert len(stored_wal(repository, system, shared)) > switch - shared.start
        finally:
            running.stop()
        assert not running.failures


def test_a_timeline_switch_under_a_running_stream_is_followed(base: Path, tmp_path: Path) -> None:
    """A standby that we stream from and that is promoted ends its timeline: the next one is taken on the same
    connection, whatever its number.
    """
    repository = make_repository(tmp_path)
    with make_cluster(base, wal_segsize_mb=1) as primary, primary.standby() as standby:
        running = RunningStream(
            repository, tmp_path / "spool", lambda: standby, settings(), also="target_session_attrs=any"
        )
        standby.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
        running.start()
        try:
            running.wait_durable(primary.write_wal(5000))
            assert running.stream.statistics().timeline == 1
            standby.promote()
            end = standby.write_wal(5000)
            running.wait_durable(end)
            assert running.stream.statistics().timeline == 2
        finally:
            running.stop()
        assert not running.failures


def test_another_cluster_is_refused(base: Path, tmp_path: Path) -> None:
    """A source with another system identifier stops the receiver with exit code 8, and nothing of it is stored."""
    repository = make_repository(tmp_path)
    with make_cluster(base, wal_segsize_mb=1) as ours, make_cluster(base, wal_segsize_mb=1) as other:
        running = RunningStream(repository, tmp_path / "spool", lambda: ours).start()
        try:
            running.wait_durable(ours.write_wal(10))
        finally:
            running.stop()
        assert not running.failures
        for spool in ("spool", "spool-lost"):
            running = RunningStream(repository, tmp_path / spool, lambda: other).start()
            try:
                running.wait(lambda now: now.state == "foreign", "refused")
            finally:
                running.stop()
            assert isinstance(running.failures["receiver"], ForeignSource)
            assert [problem.code for problem in running.stream.statistics().problems] == [8]


def test_a_former_primary_that_comes_back_is_refused(base: Path, tmp_path: Path) -> None:
    """Once timeline 2 is followed, a server still on timeline 1 is foreign: two servers write."""
    repository = make_repository(tmp_path)
    with make_cluster(base, wal_segsize_mb=1) as primary, primary.standby() as standby:
        standby.promote()
        standby.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
        with streaming(repository, tmp_path / "spool", standby) as running:
            running.wait_durable(standby.write_wal(10))
        running = RunningStream(repository, tmp_path / "spool", lambda: primary).start()
        try:
            running.wait(lambda now: now.state == "foreign", "refused")
        finally:
            running.stop()
        assert isinstance(running.failures["receiver"], ForeignSource)


def test_a_cluster_restored_to_an_earlier_moment_goes_on(base: Path, tmp_path: Path) -> None:
    """A copy of the cluster that branched off before our end is the normal case after a restore: what we hold of the
    old timeline stays, and is reported.
    """
    repository = make_repository(tmp_path)
    with make_cluster(base, wal_segsize_mb=1, conf={"wal_keep_size": "64MB"}) as primary, primary.standby() as copy:
        copy.sql("SELECT 1")
        copy.stop()
        with streaming(repository, tmp_path / "spool", primary) as running:
            running.wait_durable(primary.write_wal(5000))
        primary.stop()
        copy.start()
        copy.promote()
        copy.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
        with streaming(repository, tmp_path / "spool", copy) as running:
            copy.write_wal(10)
            running.wait(lambda now: now.timeline == 2, "timeline 2")
            running.wait(
                lambda now: any("timeline 1 is held" in problem.text for problem in now.problems), "it is reported"
            )


def test_receivewal_has_the_same_bytes(base: Path, tmp_path: Path) -> None:
    """pg_receivewal beside us writes the same segment files as our spool and store."""
    repository = make_repository(tmp_path)
    with make_cluster(base) as cluster:
        target = tmp_path / "receivewal"
        target.mkdir()
        program = cluster.binaries.program("pg_receivewal")
        peer = subprocess.Popen([program, "-D", target, "-d", cluster.conninfo(), "--no-loop"])
        running = RunningStream(repository, tmp_path / "spool", lambda: cluster).start()
        try:
            running.wait(lambda now: now.state == "streaming", "streaming")
            peers = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal'"
            running.wait(lambda _: cluster.value(peers) == 1, "pg_receivewal streams")  # else it begins later than we
            cluster.write_wal(10)
            first = Segment.holding(1, Lsn.parse(cluster.lsn()), 16 * MB)
            cluster.write_wal(50_000)
            cluster.switch_wal()
            running.wait_durable(cluster.write_wal(10))
            theirs = target / first.name
            running.wait(lambda _: theirs.exists(), "pg_receivewal's segment")
            assert stored_wal(repository, cluster.system_id, first) == theirs.read_bytes()
        finally:
            running.stop()
            peer.terminate()
            peer.wait(60)
        assert not running.failures
