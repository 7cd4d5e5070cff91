"""Slots and WAL from a real server."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.core.timeline import TimelineHistory
from replicator.errors import (
    AlreadyExists,
    NotFound,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    UsageError,
    WalRemoved,
)
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import TimelineEnded
from replicator.postgres.messages import XLogData
from replicator.postgres.pages import check_segment
from replicator.postgres.query import SqlConnection
from replicator.postgres.walreceive import WalStream
from tests.clusters import MAJOR, PASSWORD, REPLICATION_USER, TestCluster, make_cluster, plain_server

pytestmark = pytest.mark.server
Connect = Callable[..., ReplicationConnection]
MIB = 2**20


def receive(stream: WalStream, start: Lsn, until: Lsn, *, seconds: float = 120) -> bytearray | TimelineEnded:
    """WAL from `start` until `until`, in order and without a hole; or the timeline's end."""
    got = bytearray()
    deadline = time.monotonic() + seconds
    while len(got) < until - start:
        assert time.monotonic() < deadline, "the WAL did not come"
        batch = stream.read(1)
        if isinstance(batch, TimelineEnded):
            return batch
        for message in batch:
            if isinstance(message, XLogData):
                assert message.start == start + len(got)
                got += message.data
    return got


def test_identity_settings_and_history(primary: TestCluster, connect: Connect) -> None:
    """Who the server is; timeline 1 has no history."""
    with connect(primary) as connection:
        identity = connection.identify()
        assert (identity.system_id, identity.timeline, identity.dbname) == (primary.system_id, 1, None)
        assert connection.wal_segment_size == MIB
        assert connection.show("wal_level") == "replica"
        assert connection.server_version // 10000 == primary.binaries.major
        with pytest.raises(NotFound):
            connection.timeline_history(1)
        with pytest.raises(UsageError):
            connection.show("a; b")
        assert connection.identify().timeline == 1


def test_a_slots_life(primary: TestCluster, connect: Connect) -> None:
    """Created with its WAL reserved, read, refused twice, seen by SQL, dropped."""
    with connect(primary) as connection:
        assert connection.read_slot("kehidupan") is None
        connection.create_slot("kehidupan")
        state = connection.read_slot("kehidupan")
        assert state is not None
        assert state.restart_lsn is not None
        assert state.restart_timeline == (1 if primary.binaries.major >= 15 else None)
        with pytest.raises(AlreadyExists):
            connection.create_slot("kehidupan")
        with SqlConnection(primary.conninfo(REPLICATION_USER), PASSWORD.encode()) as sql:
            health = sql.slot_state("kehidupan")
            assert health is not None
            assert (health.wal_status, health.active, health.restart_lsn) == ("reserved", False, state.restart_lsn)
            assert sql.slot_state("tidak_ada") is None
        connection.drop_slot("kehidupan")
        with pytest.raises(SourceRefused):
            connection.drop_slot("kehidupan")
        with pytest.raises(UsageError):
            connection.create_slot("Not A Slot")


def test_a_slot_is_read_by_sql_where_the_protocol_cannot(primary: TestCluster, connect: Connect) -> None:
    """What servers before 15 are asked gives the same restart LSN."""
    with connect(primary) as connection:
        connection.create_slot("lama")
        now = connection.read_slot("lama")
        connection.server_version = 140000
        before = connection.read_slot("lama")
        assert now is not None
        assert before is not None
        assert before.restart_lsn == now.restart_lsn
        assert connection.read_slot("tidak_ada") is None
        connection.drop_slot("lama")


def test_wal_is_byte_for_byte_the_servers(primary: TestCluster, connect: Connect) -> None:
    """Several segments through a slot equal the files of the server; status updates move the slot."""
    with connect(primary) as connection:
        connection.create_slot("aliran")
        start = connection.identify().lsn.floor(MIB)
        end = Lsn.parse(primary.write_wal(40_000))
        assert end - start > 3 * MIB
        stream = WalStream(connection, slot="aliran", timeline=1, start=start)
        got = receive(stream, start, end)
        assert isinstance(got, bytearray)
        for number in range(start // MIB, end // MIB):
            segment = Segment(1, number, MIB)
            mine = got[segment.start - start : segment.end - start]
            assert mine == (primary.directory / "pg_wal" / segment.name).read_bytes()
            check_segment(bytes(mine), segment, primary.system_id)
        stream.send_status(end, end, end)
        stream.finish(60)
        assert not connection.closed
        state = connection.read_slot("aliran")
        assert state is not None
        assert state.restart_lsn == end
        connection.drop_slot("aliran")


def test_a_busy_slot_and_a_missing_slot(primary: TestCluster, connect: Connect) -> None:
    """Two classes, by their codes."""
    first, second = connect(primary), connect(primary)
    first.create_slot("sibuk")
    start = first.identify().lsn.floor(MIB)
    stream = WalStream(first, slot="sibuk", timeline=1, start=start)
    with pytest.raises(SlotBusy):
        WalStream(second, slot="sibuk", timeline=1, start=start)
    with pytest.raises(SourceRefused):
        WalStream(second, slot="tidak_ada", timeline=1, start=start)
    stream.finish(60)
    first.drop_slot("sibuk")


def test_removed_wal_is_the_only_gap(primary: TestCluster, connect: Connect) -> None:
    """58P01 for WAL that the server recycled; a future start is no gap."""
    for _ in range(3):
        primary.write_wal(20_000)
        primary.switch_wal()
        primary.sql("CHECKPOINT")
    with connect(primary) as connection:
        with pytest.raises(WalRemoved):
            WalStream(connection, slot=None, timeline=1, start=Lsn(MIB))
        now = connection.identify().lsn.floor(MIB)
        stream = WalStream(connection, slot=None, timeline=1, start=now)
        assert isinstance(receive(stream, now, now + 40), bytearray)
    with connect(primary) as connection:
        ahead = WalStream(connection, slot=None, timeline=1, start=connection.identify().lsn + 2**30)
        with pytest.raises(SourceUnavailable) as caught:
            ahead.read(60)
        assert not isinstance(caught.value, WalRemoved)


def test_a_timeline_switch_is_followed(base: Path, connect: Connect) -> None:
    """From a standby through its promotion: the end is a value, and the next timeline streams from its segment."""
    with make_cluster(base, wal_segsize_mb=1) as primary:
        standby = primary.standby()
        with standby:
            connection = connect(standby, any_server=True)
            primary.write_wal(1000)
            start = connection.identify().lsn.floor(MIB)
            stream = WalStream(connection, slot=None, timeline=1, start=start)
            primary.write_wal(5000)
            primary.stop()
            standby.promote()
            ended = receive(stream, start, start + 2**40)
            assert isinstance(ended, TimelineEnded)
            assert ended.next_timeline == 2
            name, content = connection.timeline_history(2)
            assert name == "00000002.history"
            assert TimelineHistory.parse(2, content).parents == ((1, ended.switchpoint),)
            again = ended.switchpoint.floor(MIB)
            end = Lsn.parse(standby.write_wal(100))
            second = WalStream(connection, slot=None, timeline=2, start=again)
            assert isinstance(receive(second, again, end), bytearray)
            second.finish()
            at_end = WalStream(connection, slot=None, timeline=1, start=ended.switchpoint)
            assert at_end.read(60) == ended


def test_status_without_reading_keeps_the_connection(base: Path, connect: Connect) -> None:
    """Back pressure: nothing is read for longer than wal_sender_timeout, status goes on, then all WAL comes."""
    with make_cluster(base, conf={"wal_sender_timeout": "3s"}) as primary:
        connection = connect(primary)
        start = connection.identify().lsn.floor(connection.wal_segment_size)
        end = Lsn.parse(primary.write_wal(200_000))
        assert end - start > 16 * MIB
        stream = WalStream(connection, slot=None, timeline=1, start=start)
        for _ in range(13):
            time.sleep(0.3)
            stream.send_status(start, start, start)
        assert isinstance(receive(stream, start, end), bytearray)


def test_finish_in_the_middle_of_much_wal(primary: TestCluster, connect: Connect) -> None:
    """The rest is drained, and the connection serves another stream."""
    with connect(primary) as connection:
        start = connection.identify().lsn.floor(MIB)
        end = Lsn.parse(primary.write_wal(40_000))
        stream = WalStream(connection, slot=None, timeline=1, start=start)
        stream.read(60, most=1)
        stream.finish(60)
        assert not connection.closed
        assert isinstance(receive(WalStream(connection, slot=None, timeline=1, start=start), start, end), bytearray)


def test_a_killed_server_is_unavailable(base: Path, connect: Connect) -> None:
    """A crash ends the stream at once, not by a timeout."""
    with make_cluster(base, wal_segsize_mb=1) as primary:
        connection = connect(primary)
        start = connection.identify().lsn.floor(MIB)
        stream = WalStream(connection, slot=None, timeline=1, start=start)
        primary.crash()
        began = time.monotonic()
        assert ends_with_the_source_unavailable(stream, start)
        assert time.monotonic() - began < 25
        with pytest.raises(SourceUnavailable):
            connection.identify()
        connection.close()
        for attempt in (connection.identify, lambda: stream.send_status(start, start, start), lambda: stream.read(0.1)):
            with pytest.raises(SourceUnavailable):
                attempt()
        stream.finish()


def ends_with_the_source_unavailable(stream: WalStream, start: Lsn) -> bool:
    """Read and acknowledge until the server ends the stream."""
    end = start
    try:
        for _ in range(300):
            batch = stream.read(0.1)
            assert isinstance(batch, list)
            for message in batch:
                end = message.start + len(message.data) if isinstance(message, XLogData) else end
            stream.send_status(end, end, end)
    except SourceUnavailable:
        return True
    return False


def test_a_primary_that_stops_waits_for_us_only_as_long_as_we_answer(base: Path, connect: Connect) -> None:
    """A fast shutdown ends when our flush is at the end; then the stream ends with the source unavailable."""
    with make_cluster(base, wal_segsize_mb=1) as primary:
        connection = connect(primary)
        start = connection.identify().lsn.floor(MIB)
        stream = WalStream(connection, slot=None, timeline=1, start=start)
        primary.stop_soon()
        assert ends_with_the_source_unavailable(stream, start)
        until = time.monotonic() + 60
        while primary.running and time.monotonic() < until:
            time.sleep(0.05)
        assert not primary.running


def test_wrong_password_no_privilege_no_server(primary: TestCluster) -> None:
    """What an operator gets wrong: refused with a hint; an absent server is unavailable."""

    def attempt(conninfo: str, password: bytes | None) -> None:
        ReplicationConnection.connect(conninfo, password, application_name="t", connect_timeout=60).close()

    with pytest.raises(SourceRefused) as caught:
        attempt(primary.conninfo(REPLICATION_USER), b"salah")
    assert "salah" not in str(caught.value)
    assert caught.value.hint
    with pytest.raises(SourceRefused):
        attempt(primary.conninfo(REPLICATION_USER), None)
    with pytest.raises(SourceRefused):  # no line for that user in pg_hba.conf
        attempt(primary.conninfo("orang_asing"), b"x")
    with pytest.raises(SourceUnavailable) as gone:
        attempt("host=127.0.0.1 port=1 user=u", b"x")
    assert not isinstance(gone.value, SourceRefused)
    with pytest.raises(SourceRefused) as missing:
        SqlConnection(primary.conninfo(REPLICATION_USER, dbname="tidak_ada"), PASSWORD.encode())
    assert missing.value.context["sqlstate"] == "3D000"


def test_a_plain_server_needs_nothing_special(base: Path) -> None:
    """A server as pytest-postgresql makes it streams to us."""
    if MAJOR < 14:
        pytest.skip("pytest-postgresql supports 14 and later")
    with plain_server(base) as server:
        conninfo = f"host={server.host} port={server.port} user={server.user}"
        with ReplicationConnection.connect(conninfo, None, application_name="t", connect_timeout=60) as connection:
            start = connection.identify().lsn.floor(connection.wal_segment_size)
            stream = WalStream(connection, slot=None, timeline=1, start=start)
            assert isinstance(receive(stream, start, start + 1000), bytearray)
