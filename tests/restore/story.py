"""A repository with a history for the tests of restores: two snapshots, a failover, and marks whose rows are known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.progress import silent
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.policy import StorePolicy, TolerancePolicy
from replicator.postgres.binaries import find_binaries
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.restore.job import RestoreJob, RestoreResult
from replicator.restore.plan import PlanRequest
from replicator.restore.run import restore
from replicator.snapshot.job import TakeJob
from replicator.snapshot.take import take
from tests.clusters import OWNER, TestCluster, binaries, make_cluster, run_as_owner
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, settings


@dataclass
class Story:
    """`rows[mark]`: the highest id committed when the mark was set; `marks[mark]`: its value. Ids ascend from 1."""

    base: Path
    repository: Repository
    system_id: int = 0
    segment_size: int = 0
    labels: list[str] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    last: int = 0

    def access(self) -> dict[str, StoreAccess]:
        """How each store is reached without a policy."""
        return {
            name: StoreAccess(StorePolicy(name=name, url=f"file://{self.base}/stores/{name}"), TolerancePolicy())
            for name in self.repository.stores
        }

    def job(self, target: RecoveryTarget, into: Path, **changes: Any) -> RestoreJob:
        """A restore that starts the server."""
        request = {name: changes.pop(name) for name in ("snapshot", "action") if name in changes}
        repository = changes.pop("repository", self.repository)
        given: dict[str, Any] = {"start": True, "owner": OWNER, **changes}
        return RestoreJob(
            repository, self.access(), PlanRequest("frk", target, **request), into, find_binaries, **given
        )

    def target(
        self, kind: str, mark: str = "", *, inclusive: bool = True, timeline: int | None = None
    ) -> RecoveryTarget:
        """A target at a mark."""
        value: dict[str, Any] = {kind: self.marks[mark]} if mark else {}
        return RecoveryTarget(TargetKind(kind), inclusive=inclusive, timeline=timeline, **value)


class Writer:
    """Commits rows and sets marks."""

    def __init__(self, story: Story, cluster: TestCluster) -> None:
        self.story = story
        self.cluster = cluster

    def row(self) -> int:
        """Commit the next row; its transaction."""
        self.story.last += 1
        query = "INSERT INTO kegiatan VALUES (%s) RETURNING pg_current_xact_id()::text"
        return int(self.cluster.value(query, (self.story.last,)))

    def mark(self, name: str, value: Any) -> None:
        """What was committed up to here belongs to this mark."""
        self.story.marks[name] = value
        self.story.rows[name] = self.story.last

    def time(self, name: str) -> None:
        """A moment strictly between the commits before and after."""
        time.sleep(0.02)
        self.mark(name, self.cluster.value("SELECT clock_timestamp()").astimezone(UTC))
        time.sleep(0.02)

    def lsn(self, name: str) -> None:
        """Where the next record begins."""
        self.mark(name, Lsn.parse(self.cluster.value("SELECT pg_current_wal_insert_lsn()::text")))

    def point(self, name: str) -> None:
        """A named restore point."""
        self.cluster.value("SELECT pg_create_restore_point(%s)::text", (name,))
        self.mark(name, name)


@contextmanager
def told(base: Path, segsize_mb: int, *, failover: bool) -> Iterator[Story]:
    """Live the story on real servers, and stop them."""
    story = Story(base, make_repository(base, names=("local", "offsite")), segment_size=segsize_mb * 2**20)
    with make_cluster(base, wal_segsize_mb=segsize_mb, conf={"wal_keep_size": "256MB"}) as primary:
        story.system_id = primary.system_id
        now = [primary]
        running = RunningStream(story.repository, base / "spool", lambda: now[0], settings()).start()
        try:
            _first_timeline(story, Writer(story, primary), running)
            if failover:
                _second_timeline(story, primary, running, now)
            else:
                running.wait_durable(primary.lsn())
        finally:
            running.stop()
        assert not running.failures, running.failures
    yield story


def snapshot_of(story: Story, cluster: TestCluster, running: RunningStream) -> None:
    """Take one, and keep its label."""
    running.wait(lambda seen: seen.state == "streaming", "streaming")
    job = TakeJob(
        repository=story.repository, connect=lambda: _connect(cluster),
        sql=lambda: SqlConnection(cluster.conninfo(), None), slot=SLOT, state_directory=story.base / "state",
        wal_deadline_s=60.0,
    )  # fmt: skip
    story.labels.append(take(job, silent, Event()).row.snapshot.label)


def _connect(cluster: TestCluster) -> ReplicationConnection:
    return ReplicationConnection.connect(cluster.conninfo(), None, application_name="take", connect_timeout=60)


def _first_timeline(story: Story, writer: Writer, running: RunningStream) -> None:
    cluster = writer.cluster
    cluster.sql("CREATE TABLE kegiatan (id bigint PRIMARY KEY)")
    cluster.sql("CREATE TABLE isi AS SELECT g AS id, md5(g::text) AS teks FROM generate_series(1, 20000) g")
    writer.row()
    running.wait_durable(cluster.lsn())
    writer.time("before")
    snapshot_of(story, cluster, running)
    writer.mark("first", story.labels[0])
    writer.row()
    writer.time("one")
    writer.mark("xid", writer.row())
    cluster.sql("INSERT INTO isi SELECT g, md5(g::text) FROM generate_series(1, 30000) g")
    writer.point("sebelum_hapus")
    writer.row()
    writer.lsn("lsn")
    writer.row()
    snapshot_of(story, cluster, running)
    writer.mark("second", story.labels[1])
    writer.row()
    writer.time("two")
    writer.row()


def _second_timeline(story: Story, primary: TestCluster, running: RunningStream, now: list[TestCluster]) -> None:
    with primary.standby() as standby:
        Writer(story, primary).row()
        Writer(story, primary).mark("old", None)
        running.wait_durable(primary.lsn())
        primary.stop()
        standby.promote()
        standby.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
        now[0] = standby
        writer = Writer(story, standby)
        writer.row()
        writer.time("new")
        writer.row()
        running.wait(lambda seen: seen.timeline == 2 and seen.state == "streaming", "timeline 2")
        running.wait_durable(standby.lsn())
        standby.stop()


def run(job: RestoreJob) -> tuple[RestoreResult, int]:
    """Restore, ask for the highest row, and stop the server: the result and that row."""
    result = restore(job)
    assert result.started is not None
    try:
        return result, rows(result)
    finally:
        stop(result)


def ask(result: RestoreResult, sql: str) -> str:
    """One value from a restored server."""
    assert result.started is not None
    psql = binaries().program("psql")
    sockets = result.started.socket_directory
    command = [psql, "-XAtq", "-h", sockets, "-p", result.started.port, "-U", "postgres", "-d", "postgres", "-c", sql]
    return run_as_owner(command).strip()


def rows(result: RestoreResult) -> int:
    """The highest row; every row below it must be there."""
    count, highest = ask(result, "SELECT count(*) || ' ' || coalesce(max(id), 0) FROM kegiatan").split()
    assert count == highest
    return int(highest)


def stop(result: RestoreResult) -> None:
    """Stop a restored server."""
    program = binaries().program("pg_ctl")
    run_as_owner([program, "stop", "-m", "immediate", "-D", result.data_directory], check=False)


def settings_of(text: str) -> Mapping[str, str]:
    """The last value of each setting in a configuration file."""
    lines = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'") for name, value in lines}
