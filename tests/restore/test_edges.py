"""Targets at exact edges, on a real cluster: PostgreSQL's recovery is the judge of what the planner says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.errors import TargetUnreachable
from replicator.postgres.waldump import Waldump
from replicator.restore.gather import gather
from replicator.restore.route import routes
from replicator.restore.run import make_plan
from replicator.restore.walprobe import WaldumpProbe
from tests.clusters import TestCluster, binaries, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.restore.story import Story, Writer, run, snapshot_of
from tests.stream.streams import RunningStream, settings

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture(scope="module")
def edges() -> Iterator[Story]:
    """One timeline with transactions of every kind after the snapshot."""
    with cluster_base() as base:
        story = Story(base, make_repository(base, names=("local",)), segment_size=2**20)
        conf = {"max_prepared_transactions": "5", "track_commit_timestamp": "on", "wal_keep_size": "256MB"}
        with make_cluster(base, wal_segsize_mb=1, conf=conf) as cluster:
            story.system_id = cluster.system_id
            running = RunningStream(story.repository, base / "spool", lambda: cluster, settings()).start()
            try:
                cluster.sql("CREATE TABLE kegiatan (id bigint PRIMARY KEY)")
                Writer(story, cluster).row()
                snapshot_of(story, cluster, running)
                _tell(story, Writer(story, cluster), cluster)
                running.wait_durable(cluster.lsn())
            finally:
                running.stop()
        yield story


def _tell(story: Story, writer: Writer, cluster: TestCluster) -> None:
    writer.row()
    xid = writer.row()
    moment = cluster.value("SELECT pg_xact_commit_timestamp(%s::text::xid)", (xid,)).astimezone(UTC)
    writer.mark("at a commit", moment)
    writer.row()
    writer.point("dua kali")
    writer.row()
    cluster.value("SELECT pg_create_restore_point('dua kali')::text")
    _prepared(story, writer, cluster)
    _aborted(writer, cluster)
    switched = Lsn.parse(cluster.value("SELECT pg_switch_wal()::text"))
    writer.lsn("boundary")
    story.marks["boundary"] = Lsn(-(-switched // 2**20) * 2**20)  # the server may have written something since
    writer.row()
    writer.lsn("long")
    cluster.sql("SELECT pg_logical_emit_message(true, 'x', repeat('x', 3500000))")


def _prepared(story: Story, writer: Writer, cluster: TestCluster) -> None:
    """The prepared row's number is the next; another commits before it."""
    prepared = story.last + 2
    with cluster.session() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO kegiatan VALUES (%s)", (prepared,))
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        connection.execute("PREPARE TRANSACTION 'satu'")
        writer.row()
        connection.execute("COMMIT PREPARED 'satu'")
    assert row is not None
    story.last = prepared
    writer.mark("prepared", int(row[0]))
    writer.row()


def _aborted(writer: Writer, cluster: TestCluster) -> None:
    """A rolled back transaction, and a committed subtransaction: only the first has a record of its own."""
    with cluster.session() as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO kegiatan VALUES (100000)")
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        connection.execute("ROLLBACK")
        assert row is not None
        writer.mark("aborted", int(row[0]))
        writer.row()
        connection.execute("BEGIN")
        connection.execute("SELECT pg_current_xact_id()")
        connection.execute("SAVEPOINT s")
        connection.execute("CREATE TEMP TABLE t AS SELECT 1 AS a")
        below = connection.execute("SELECT xmin::text FROM pg_class WHERE relname = 't'").fetchone()
        connection.execute("RELEASE s")
        connection.execute("COMMIT")
        assert below is not None
        writer.mark("subtransaction", int(below[0]))


@pytest.mark.parametrize(
    ("kind", "mark", "inclusive", "less"),
    [
        ("time", "at a commit", True, 0),
        ("time", "at a commit", False, 1),
        ("name", "dua kali", True, 0),
        ("xid", "prepared", True, 0),
        ("xid", "prepared", False, 1),
        ("xid", "aborted", True, 0),
        ("xid", "aborted", False, 0),
        ("lsn", "boundary", False, 0),
    ],
)
def test_each_edge_is_reached_to_the_row(edges: Story, kind: str, mark: str, inclusive: bool, less: int) -> None:
    """A commit at exactly T, a name given twice, prepared and rolled back transactions, a segment's first byte."""
    with cluster_base() as base:
        _, highest = run(edges.job(edges.target(kind, mark, inclusive=inclusive), base / "data"))
    assert highest == edges.rows[mark] - less


def test_a_subtransaction_is_no_target(edges: Story, tmp_path: Path) -> None:
    """It ends with its parent and has no record: recovery would never stop, so it is refused."""
    with pytest.raises(TargetUnreachable):
        make_plan(edges.job(edges.target("xid", "subtransaction"), tmp_path / "data"))


def test_a_record_longer_than_two_segments_is_seen(edges: Story) -> None:
    """Taken for nothing, a target at it would be planned as if nothing followed."""
    (view,) = gather(edges.repository).views
    route = next(routes(view.catalog, view.complete, None))
    with WaldumpProbe(edges.repository, Waldump(binaries())) as probe:
        found = probe.record(route, edges.marks["long"])
        assert found is not None
        assert found - edges.marks["long"] <= 40  # a segment's first page header may lie between
