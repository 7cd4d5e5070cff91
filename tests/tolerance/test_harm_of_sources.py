"""Towards a source, each mechanism in three acts: without it, the harm; with it, the harm is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import SourceUnavailable
from replicator.postgres.basebackup import base_backup
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.tolerance import Deadline, SystemClock
from tests.clusters import TestCluster, cluster_base, make_cluster
from tests.proxy import Proxy, proxy_to
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, Tap, settings
from tests.tolerance.harm import NEVER, SOON, Attempt, deaf_server, server
from tests.walsender import Walsender, hang


@pytest.fixture(scope="module")
def primary() -> Iterator[TestCluster]:
    """A primary with segments of 1 MB."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        made.write_wal(1000)
        yield made


@pytest.fixture
def line(primary: TestCluster) -> Iterator[Proxy]:
    """A line to it."""
    with proxy_to(primary.port) as proxy:
        yield proxy


def conninfo(port: int) -> str:
    """As postgres, at that port."""
    return f"host=127.0.0.1 port={port} user=postgres dbname=postgres gssencmode=disable sslmode=disable"


def connect(port: int, *, connecting: float = 10.0, answering: float = 10.0) -> ReplicationConnection:
    """A replication connection."""
    return ReplicationConnection.connect(
        conninfo(port), None, application_name="harm", connect_timeout=connecting, request_timeout=answering
    )


def test_connect_timeout_of_the_source() -> None:
    """A server that accepts and says nothing holds a caller for ever; with the timeout it is unavailable."""
    with deaf_server() as port:
        assert Attempt(lambda: connect(port, connecting=NEVER)).hangs()
        assert isinstance(Attempt(lambda: connect(port, connecting=SOON)).failed(), SourceUnavailable)


def test_connect_timeout_while_a_server_is_asked_what_it_is() -> None:
    """A server before 14 is asked whether it is the primary: it may fall silent then, too."""
    with Walsender([hang], [hang], version="13.20") as old:
        attempt = Attempt(lambda: connect_to(old.conninfo, SOON))
        assert isinstance(attempt.failed(), SourceUnavailable)
        assert Attempt(lambda: connect_to(old.conninfo, 10 * SOON)).hangs()


def connect_to(conninfo: str, seconds: float) -> ReplicationConnection:
    """A replication connection to what a conninfo says."""
    return ReplicationConnection.connect(conninfo, None, application_name="harm", connect_timeout=seconds)


@server
def test_request_timeout_of_a_replication_command(line: Proxy) -> None:
    """A command whose answer never comes."""
    patient, sensible = connect(line.port, answering=NEVER), connect(line.port, answering=SOON)
    line.deafen()
    assert Attempt(patient.identify).hangs()
    assert isinstance(Attempt(sensible.identify).failed(), SourceUnavailable)


@server
def test_request_timeout_of_sql(line: Proxy) -> None:
    """A statement whose answer never comes: the server's own timeout is of no use when the line is deaf."""
    patient = SqlConnection(conninfo(line.port), None, connect_timeout=10, statement_timeout=NEVER)
    sensible = SqlConnection(conninfo(line.port), None, connect_timeout=20 * SOON, statement_timeout=SOON)
    line.deafen()
    assert Attempt(patient.wal_end).hangs()
    assert isinstance(Attempt(sensible.wal_end).failed(), SourceUnavailable)
    assert sensible.closed


@server
def test_silence_within_a_base_backup(line: Proxy) -> None:
    """A base backup that stops in the middle."""

    def read(silence: float) -> None:
        with connect(line.port) as connection, base_backup(connection, label="harm", silence=silence) as backup:
            for number, member in enumerate(backup.archives()):
                if number == 3:
                    line.deafen()
                for _ in member.chunks():
                    pass

    line.slow(0.001)
    assert isinstance(Attempt(lambda: read(SOON)).failed(), SourceUnavailable)
    line.resume()
    assert Attempt(lambda: read(NEVER)).hangs()


class Line:
    """What a RunningStream connects to: the port that counts now."""

    def __init__(self, cluster: TestCluster, port: int) -> None:
        self.port = port
        self.cluster = cluster

    def conninfo(self) -> str:
        """Where to connect."""
        return conninfo(self.port)


@server
@pytest.mark.parametrize("limit", [NEVER, SOON])
def test_silence_of_a_stream(primary: TestCluster, line: Proxy, tmp_path: Path, limit: float) -> None:
    """A line that swallows everything, as a firewall that forgot it does: without a limit the stream stands for ever
    beside a way that works; with it that way is taken.
    """
    way = Line(primary, line.port)
    chosen = settings(request_timeout=limit)
    running = RunningStream(make_repository(tmp_path), tmp_path / "spool", lambda: way, chosen).start()  # type: ignore[arg-type, return-value]
    try:
        running.wait_durable(primary.write_wal(10))
        line.deafen()
        way.port = primary.port
        primary.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        end = primary.write_wal(10)
        if limit == NEVER:
            Event().wait(8 * SOON)
            assert running.stream.statistics().state == "streaming"
            assert (running.stream.statistics().received_lsn or 0) < Lsn.parse(end)
        else:
            running.wait_durable(end)
    finally:
        line.resume()
        line.cut()
        running.stop()
        primary.drop_slots(SLOT)


class Hanging(Tap):
    """A store whose reads hang while `hangs` is set."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.hangs = Event()
        self.release = Event()
        self.waiting = Event()

    def get(self, *arguments: Any) -> Any:
        """Hang, or read."""
        if self.hangs.is_set() and "/wal/" in arguments[0]:
            self.waiting.set()
            self.release.wait(60)
        return self._inner.get(*arguments)


@server
@pytest.mark.parametrize("fault", ["hangs", "damaged"])
def test_copying_from_another_store_holds_up_nothing(primary: TestCluster, tmp_path: Path, fault: str) -> None:
    """A store takes from another one what the spool let go of, and that one hangs, or holds damaged objects: what is
    new arrives all the same, and the store is not blamed for the other.
    """
    taps: dict[str, Hanging] = {}

    def wrap(driver: Any) -> Any:
        return taps.setdefault(driver.name, Hanging(driver))

    repository = make_repository(tmp_path, names=("near", "far"), wrap=wrap)
    running = RunningStream(repository, tmp_path / "spool", lambda: primary, settings(spool_limit=2 * 2**20)).start()
    try:
        running.wait_durable(primary.write_wal(10))
        taps["far"].closed = True
        for _ in range(5):
            end = primary.write_wal(10_000)
            running.wait_near(end)
        running.wait(lambda now: now.spool_bytes < 5 * 2**20, "let go")
        if fault == "hangs":
            taps["near"].hangs.set()
        else:
            for path in (tmp_path / "stores/near/frk").glob("*/wal/*/*/*"):
                path.write_bytes(path.read_bytes()[:-1] + b"x")
        taps["far"].closed = False
        if fault == "hangs":
            assert taps["near"].waiting.wait(60)
        else:
            running.wait(lambda now: any(problem.code == 4 for problem in now.problems), "said")
        end = primary.write_wal(10)
        segment = Lsn.parse(end).floor(2**20)
        running.wait(lambda _: segment_is_there(tmp_path / "stores/far/frk", segment), "what is new is there")
        running.wait(lambda now: now.stores["far"].state == "ok", "not blamed")
    finally:
        for tap in taps.values():
            tap.hangs.clear()
            tap.release.set()
        running.stop()
        primary.drop_slots(SLOT)


def segment_is_there(repository: Path, start: Lsn) -> bool:
    """Whether a store has something of the segment that begins at `start`."""
    name = Segment.holding(1, start, 2**20).name
    return any(name in path.as_posix() for path in repository.rglob("*") if path.is_file())


@server
def test_deadline_of_the_last_flush(primary: TestCluster, tmp_path: Path) -> None:
    """A daemon that ends while a store is away: without a deadline it never ends."""
    taps: list[Tap] = []

    def wrap(driver: Any) -> Any:
        taps.append(Tap(driver))
        return taps[-1]

    running = RunningStream(make_repository(tmp_path, wrap=wrap), tmp_path / "spool", lambda: primary).start()
    try:
        running.wait_durable(primary.write_wal(10))
        taps[-1].closed = True
        end = Lsn.parse(primary.write_wal(10))
        running.wait(lambda now: (now.received_lsn or 0) >= end, "received")
        patient = Attempt(lambda: running.stream.flush(Deadline(SystemClock(), NEVER)))
        assert patient.hangs()
        sensible = Attempt(lambda: running.stream.flush(Deadline(SystemClock(), SOON)))
        assert sensible.failed() is None
        assert sensible.result is False
        taps[-1].closed = False
        assert patient.failed() is None
    finally:
        running.stop()
        primary.drop_slots(SLOT)
