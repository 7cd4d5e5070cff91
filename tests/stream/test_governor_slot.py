"""The slot governor at work: a real source whose WAL piles up because every store is away."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.core.timeline import TimelineHistory
from replicator.repository.repository import Repository
from replicator.stream import StreamSettings
from replicator.stream.board import Board
from replicator.stream.governor import Level, Outlook
from replicator.stream.handshake import Handshake
from replicator.stream.position import Source
from replicator.stream.sealer import Sealer
from replicator.stream.settings import no_step
from replicator.tolerance import SystemClock
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, catalog, connector, settings, streaming
from tests.stream.test_acknowledge import Taps

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20
LIMIT = 16 * MB


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB and frequent checkpoints, without any bound for slots."""
    conf = {"max_wal_size": "4MB", "min_wal_size": "2MB", "checkpoint_warning": "0"}
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1, conf=conf) as made:
        yield made


def governed(**changes: Any) -> StreamSettings:
    """Looks at the slot every 30 ms while it is in danger, a tiny spool, and a limit for the slot."""
    return settings(**{"spool_limit": 4 * MB, "slot_limit": LIMIT, "slot_look": 0.3, **changes})


def fill(cluster: TestCluster, size: int = 2 * MB, then: Callable[[Lsn], object] = Lsn) -> None:
    """Make WAL of that size, do something with its end, and make a checkpoint."""
    cluster.sql("SELECT pg_logical_emit_message(false, 'isi', repeat('x', %s))", (size,))
    then(Lsn.parse(cluster.lsn()))
    cluster.sql("CHECKPOINT")


class Pressed:
    """A stream whose last store is away, and a source that goes on writing, 2 MB a turn."""

    def __init__(self, cluster: TestCluster, tmp_path: Path, names: tuple[str, ...] = ("local",)) -> None:
        self.cluster = cluster
        self.taps = Taps()
        self.repository: Repository = make_repository(tmp_path, names=names, wrap=self.taps)
        self.away = names[-1]
        self.most_kept = 0
        self.levels: list[Level] = []

    def begin(self, running: RunningStream) -> Lsn:
        """Everything is well once, then the store goes: the end of what it has."""
        end = self.cluster.write_wal(10)
        running.wait_durable(end)
        self.taps.by_name[self.away].closed = True
        return Lsn.parse(end)

    def write(self, running: RunningStream, size: int = 2 * MB, *, received: bool = False) -> Any:
        """One turn: WAL, which may have to be received first, a checkpoint, and a few looks."""

        def receive(end: Lsn) -> None:
            if received:
                running.wait(lambda now: (now.received_lsn or 0) >= end, "received", 60)

        before = running.stream.statistics().outlook
        fill(self.cluster, size, receive)
        self.most_kept = max(self.most_kept, self.cluster.wal_kept())
        time.sleep(0.07)
        if self.most_kept > LIMIT:  # no turn without a look, however slow this machine is
            until = time.monotonic() + 5
            while running.stream.statistics().outlook is before and time.monotonic() < until:
                time.sleep(0.01)
        now = running.stream.statistics()
        if now.outlook is not None and now.outlook.level not in self.levels:
            self.levels.append(now.outlook.level)
        return now

    def until_given_up(self, running: RunningStream, size: int = 2 * MB) -> Any:
        """Write until a gap is recorded; the statistics then."""
        for _ in range(100):
            now = self.write(running, size)
            if now.gaps:
                return now
        raise AssertionError(f"never given up: {now}")


def test_the_slot_is_given_up_as_a_recorded_gap(cluster: TestCluster, tmp_path: Path) -> None:
    """Warned, shed, given up: the gap is recorded, the source's disk is safe, the stream goes on behind the gap."""
    cluster.sql(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{LIMIT // MB}MB'")
    cluster.reload()
    pressed = Pressed(cluster, tmp_path)
    with streaming(
        pressed.repository, tmp_path / "spool", cluster, governed(), may_create_slot=lambda: True
    ) as running:
        pressed.begin(running)
        now = pressed.until_given_up(running, MB // 2)
        assert pressed.levels == sorted(pressed.levels)
        assert {Level.WARN, Level.SHED} <= set(pressed.levels)
        (gap,) = now.gaps
        assert gap.start == now.received_lsn
        assert pressed.most_kept < LIMIT + 16 * MB
        running.wait(lambda now: now.outlook is not None and now.outlook.level < Level.SHED, "room again")
        status = cluster.value("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
        assert status in {"reserved", "extended"}
        assert now.back_pressure
        pressed.taps.by_name["local"].closed = False
        end = cluster.write_wal(10)
        running.wait_durable(end)
        running.wait(lambda now: not now.problems, "well again")
    held = catalog(pressed.repository, cluster.system_id, size=MB)
    assert [(known.start, known.stop) for known in held.gaps] == [(gap.start, gap.stop)]
    assert held.gaps[0].open
    assert held.conflicts == ()


def test_the_source_stays_safe_however_long(cluster: TestCluster, tmp_path: Path) -> None:
    """The stores stay away: the slot is given up again and again, each time with the gap that follows the last one."""
    pressed = Pressed(cluster, tmp_path)
    with streaming(
        pressed.repository, tmp_path / "spool", cluster, governed(), may_create_slot=lambda: True
    ) as running:
        pressed.begin(running)
        pressed.until_given_up(running)
        for _ in range(60):
            now = pressed.write(running)
            if len(now.gaps) > 1:
                break
        assert len(now.gaps) > 1
        assert all(first.stop == second.start for first, second in pairwise(now.gaps))
        assert pressed.most_kept < LIMIT + 16 * MB
        pressed.taps.by_name["local"].closed = False
        running.wait_durable(cluster.write_wal(10))


def test_data_are_protected_where_the_policy_says_so(cluster: TestCluster, tmp_path: Path) -> None:
    """protect = "data": the slot is kept past every limit, as loud as can be, and nothing is lost."""
    pressed = Pressed(cluster, tmp_path)
    chosen = governed(protect="data")
    with streaming(pressed.repository, tmp_path / "spool", cluster, chosen, may_create_slot=lambda: True) as running:
        pressed.begin(running)
        while pressed.most_kept < LIMIT + 8 * MB:
            now = pressed.write(running)
        assert not now.gaps
        problem = next(problem for problem in now.problems if "protect" in problem.text)
        assert problem.code == 5
        assert 'protect = "primary"' in problem.hint
        pressed.taps.by_name["local"].closed = False
        running.wait_durable(cluster.lsn())
        running.wait(lambda now: not now.problems, "well again")
    held = catalog(pressed.repository, cluster.system_id, size=MB)
    assert held.gaps == ()
    assert len(held.coverage.ranges()) == 1


def test_a_foreign_slot_is_never_dropped(cluster: TestCluster, tmp_path: Path) -> None:
    """A slot that `init` did not make is kept past every limit, and status says how to give it up by hand."""
    pressed = Pressed(cluster, tmp_path)
    with streaming(pressed.repository, tmp_path / "spool", cluster, governed()) as running:
        pressed.begin(running)
        before = cluster.value("SELECT restart_lsn::text FROM pg_replication_slots")
        while pressed.most_kept < LIMIT + 8 * MB:
            now = pressed.write(running)
        assert not now.gaps
        assert (
            Lsn.parse(cluster.value("SELECT restart_lsn::text FROM pg_replication_slots")) < Lsn.parse(before) + 8 * MB
        )
        assert any("pg_drop_replication_slot" in problem.hint for problem in now.problems)


def test_with_room_in_the_spool_nothing_is_lost(cluster: TestCluster, tmp_path: Path) -> None:
    """The slot stands still because every store must have the WAL, and the other one has: given up, it costs nothing.
    While the slot is in danger the spool lets go of what one store has, long before its limit.
    """
    pressed = Pressed(cluster, tmp_path, ("local", "far"))
    chosen = governed(acknowledge="stores", spool_limit=12 * MB)
    with streaming(pressed.repository, tmp_path / "spool", cluster, chosen, may_create_slot=lambda: True) as running:
        pressed.begin(running)
        before = Lsn.parse(cluster.value("SELECT restart_lsn::text FROM pg_replication_slots"))
        shed = 0
        for _ in range(60):
            # The source may not run away from us: where it has, giving the slot up costs what was not received.
            now = pressed.write(running, received=True)
            if now.outlook is not None and now.outlook.strained:
                running.wait(lambda now: now.spool_bytes < 8 * MB, "shed")
                shed += 1
            restart = cluster.value("SELECT restart_lsn::text FROM pg_replication_slots")
            if Lsn.parse(restart) > before + 2 * MB:
                break
        assert Lsn.parse(restart) > before + 2 * MB
        assert shed > 0
        pressed.taps.by_name["far"].closed = False
        running.wait_durable(cluster.write_wal(10))
        running.wait(lambda now: not now.problems, "well again")
        assert running.stream.statistics().gaps == ()
    for store in ("local", "far"):
        held = catalog(pressed.repository, cluster.system_id, store, size=MB)
        assert held.gaps == ()
        assert len(held.coverage.ranges()) == 1


class Killed(BaseException):
    """The process dies at a step."""


@pytest.mark.parametrize("step", ["before give up", "between drop and create", "after give up"])
def test_killed_while_the_slot_is_given_up(cluster: TestCluster, tmp_path: Path, step: str) -> None:
    """At any step: the next start makes the slot if there is none, what is gone is a recorded gap, the rest arrives."""
    pressed = Pressed(cluster, tmp_path)

    dead = threading.Event()

    def die(name: str) -> None:
        if name == step:
            dead.set()
        if dead.is_set():
            raise Killed

    running = RunningStream(
        pressed.repository, tmp_path / "spool", lambda: cluster, governed(), may_create_slot=lambda: True, steps=die
    ).start()
    try:
        pressed.begin(running)
        for _ in range(60):
            pressed.write(running)
            if running.failures:
                break
    finally:
        running.stop()
    assert {type(error) for error in running.failures.values()} == {Killed}
    ours = running.stream.statistics().received_lsn
    for _ in range(3):
        fill(cluster)
    pressed.taps.by_name["local"].closed = False
    with streaming(
        pressed.repository, tmp_path / "spool", cluster, governed(), may_create_slot=lambda: True
    ) as running:
        end = cluster.write_wal(10)
        running.wait_durable(end)
        gaps = running.stream.statistics().gaps
    held = catalog(pressed.repository, cluster.system_id, size=MB)
    assert len(gaps) == (0 if step == "before give up" else 1)
    assert all(gap.start == ours for gap in gaps)
    assert [gap.start for gap in held.gaps] == [gap.start for gap in gaps]
    assert cluster.value("SELECT count(*) FROM pg_replication_slots") == 1


def test_without_a_receiver_the_watcher_gives_the_slot_up(cluster: TestCluster, tmp_path: Path) -> None:
    """A receiver that has stopped for good (here: it may not connect) must not fill the source's disk."""
    pressed = Pressed(cluster, tmp_path)
    with streaming(
        pressed.repository, tmp_path / "spool", cluster, governed(), may_create_slot=lambda: True
    ) as running:
        pressed.begin(running)
        hba = cluster.directory / "pg_hba.conf"
        allowed = hba.read_text()
        hba.write_text(allowed.replace("host replication postgres 127.0.0.1/32 trust", ""))
        cluster.reload()
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        running.wait(lambda now: now.state != "streaming", "not streaming")
        ours = running.stream.statistics().received_lsn or Lsn(0)
        for _ in range(60):
            pressed.write(running)
            restart = Lsn.parse(cluster.value("SELECT restart_lsn::text FROM pg_replication_slots"))
            if restart > ours + 4 * MB:
                break
        assert restart > ours + 4 * MB
        assert any("was given up" in problem.text for problem in pressed.write(running).problems)
        pressed.write(running)
        hba.write_text(allowed)
        cluster.reload()
        now = running.wait(lambda now: now.gaps, "a gap")
        assert now.gaps[0].start == ours
        pressed.taps.by_name["local"].closed = False
        running.wait_durable(cluster.write_wal(10))


def test_the_source_s_disk_counts_where_it_can_be_seen(cluster: TestCluster, tmp_path: Path) -> None:
    """Beside the server the room on the disk of pg_wal is what is left, a part of it kept for the source."""
    repository = make_repository(tmp_path)
    wal = cluster.directory / "pg_wal"
    with streaming(repository, tmp_path / "spool", cluster, governed(slot_limit=None, pg_wal=wal)) as running:
        now = running.wait(lambda now: now.outlook is not None and now.outlook.left is not None, "an outlook")
        found = os.statvfs(wal)
        assert now.outlook.bound == "disk"
        assert 0 <= now.outlook.left < found.f_bavail * found.f_frsize
        assert now.outlook.level is Level.WELL
    with streaming(repository, tmp_path / "spool", cluster, governed(slot_limit=None, pg_wal=wal / "no")) as running:
        now = running.wait(lambda now: now.outlook is not None, "an outlook")
        assert (now.outlook.left, now.outlook.bound) == (None, None)


def test_after_a_failover_the_slot_is_not_given_up(cluster: TestCluster, tmp_path: Path) -> None:
    """That the slot was in danger on one host says nothing of the one on another: only there it is given up."""
    cluster.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    board = Board(make_repository(tmp_path), tmp_path / "spool", governed(), SystemClock(), no_step)
    connect = connector(lambda: cluster, "")
    for asked, count in (("former:5432", 0), (None, 1)):
        with connect() as connection:
            handshake = Handshake(board, connection, may_create_slot=True)
            identity = connection.identify()
            spool = board.open_spool(identity.system_id, connection.wal_segment_size)
            source = Source(identity.system_id, 1, identity.lsn, TimelineHistory.parse(1, b""))
            board.ask_to_give_up(0, asked or connection.host)
            handshake.start(source, spool)
        assert (board.given_up.count, board.requests.give_up) == (count, False)


def test_a_tail_becomes_no_piece_while_the_stream_must_catch_up(tmp_path: Path) -> None:
    """In danger, and behind by a segment: whole segments only. Never where a commit may wait for a store."""
    board = Board(make_repository(tmp_path), tmp_path / "spool", governed(), SystemClock(), no_step)
    spool, segment = board.open_spool(7, MB), Segment.holding(1, Lsn(5 * MB), MB)
    spool.append(segment, segment.start, [memoryview(bytes(1000))], acknowledged=Lsn(0))
    spool.sync()
    board.tail_confirmed = True
    board.source.server_lsn = Lsn(9 * MB)
    board.source.outlook = Outlook(Level.SHED, 12 * MB, 4 * MB, 5.0, "policy")
    stop = threading.Event()
    worker = threading.Thread(target=Sealer(board).run, args=(stop,), daemon=True)
    worker.start()
    try:
        time.sleep(0.3)
        assert spool.sealed.files() == ()
        board.source.outlook = Outlook()
        board.ring()
        end = time.monotonic() + 60
        while not spool.sealed.files():
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        stop.set()
        worker.join(60)
    other = Board(
        make_repository(tmp_path / "x"), tmp_path / "s", governed(acknowledge="store"), SystemClock(), no_step
    )
    other.open_spool(7, MB)
    other.source.server_lsn = Lsn(9 * MB)
    other.source.outlook = Outlook(Level.SHED, 12 * MB, 4 * MB, 5.0, "policy")
    assert not other.catching_up()
