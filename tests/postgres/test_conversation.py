"""The conversation with a scripted walsender: exact bytes, cut anywhere."""

import struct
import time
from threading import Event, Timer

import pytest

from replicator.errors import (
    Interrupted,
    ProtocolViolation,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    WalRemoved,
)
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import TimelineEnded
from replicator.postgres.messages import PrimaryKeepalive, XLogData
from replicator.postgres.walreceive import WalStream
from tests import walsender as ws
from tests.walsender import Walsender, expect, expect_message, lsn, send


def start_after(server_end: str) -> ws.Step:
    """The server's end is asked for, then the stream."""
    identity = send(ws.rows(["s", "t", "x", "d"], ["7", "1", server_end, None]), ws.complete("I"), ws.READY)
    steps = [expect("IDENTIFY_SYSTEM"), identity]
    steps.append(expect("START_REPLICATION SLOT replicator_frk PHYSICAL 0/3000000 TIMELINE 1"))

    def step(session: ws.Session) -> None:
        for each in steps:
            each(session)

    return step


START = start_after("0/3000000")
END_ROW = ws.rows(["next_tli", "next_tli_startpos"], ["4", "0/3000080"])


def connect(server: Walsender, *, timeout: float = 30, stop: Event | None = None) -> ReplicationConnection:
    """Connect to it; `timeout` is for what is asked then."""
    return ReplicationConnection.connect(
        server.conninfo, None, application_name="tests", connect_timeout=30, request_timeout=timeout, stop=stop
    )


def stream(connection: ReplicationConnection) -> WalStream:
    """Start to stream."""
    return WalStream(connection, slot="replicator_frk", timeline=1, start=lsn("0/3000000"))


def read_all(found: WalStream, count: int) -> list[XLogData | PrimaryKeepalive]:
    """That many messages, in as many batches as it takes."""
    got: list[XLogData | PrimaryKeepalive] = []
    until = time.monotonic() + 60
    while len(got) < count and time.monotonic() < until:
        batch = found.read(1)
        assert isinstance(batch, list)
        got += batch
    return got


@pytest.mark.parametrize("pieces", [1, 3, 200])
def test_messages_arrive_whole_however_tcp_cuts_them(pieces: int) -> None:
    """WAL and keepalives in order, with a status in between that has exact bytes."""
    data = [ws.xlog_data(0x3000000, b"a" * 100), ws.keepalive(0x3000064, reply=True), ws.xlog_data(0x3000064, b"b")]
    script = [START, send(ws.COPY_BOTH, *data, pieces=pieces), expect_message(b"d"), ws.hang]
    with Walsender(script) as server, connect(server) as connection:
        found = stream(connection)
        first, second, third = read_all(found, 3)
        assert isinstance(first, XLogData)
        assert isinstance(third, XLogData)
        assert (first.start, bytes(first.data), bytes(third.data)) == (0x3000000, b"a" * 100, b"b")
        assert isinstance(second, PrimaryKeepalive)
        assert second.reply_requested
        found.send_status(lsn("0/3000065"), lsn("0/3000000"), lsn("0/3000000"))
    body = server.received[1]
    assert struct.unpack("!cQQQ", body[:25]) == (b"r", 0x3000065, 0x3000000, 0x3000000)


def test_nothing_comes_is_an_empty_list_after_the_timeout() -> None:
    """An idle server is no error."""
    with Walsender([START, send(ws.COPY_BOTH), ws.hang]) as server, connect(server) as connection:
        found = stream(connection)
        began = time.monotonic()
        assert found.read(0.2) == []
        assert 0.15 < time.monotonic() - began < 25


def test_the_end_of_a_timeline_is_a_value_and_frees_the_connection() -> None:
    """CopyDone both ways, the row, then the connection takes another command (trap 9)."""
    script = [
        START,
        send(ws.COPY_BOTH, ws.xlog_data(0x3000000, b"z" * 128), ws.COPY_DONE),
        expect_message(b"c"),
        send(END_ROW, ws.complete("START_STREAMING"), ws.READY),
        expect("IDENTIFY_SYSTEM"),
        send(ws.rows(["s", "t", "x", "d"], ["7", "4", "0/3000099", None]), ws.complete("IDENTIFY_SYSTEM"), ws.READY),
    ]
    with Walsender(script) as server, connect(server) as connection:
        found = stream(connection)
        assert len(read_all(found, 1)) == 1
        assert found.read(5) == TimelineEnded(4, lsn("0/3000080"))
        assert found.read(5) == TimelineEnded(4, lsn("0/3000080"))
        assert connection.identify().timeline == 4


def test_a_start_at_the_very_end_of_an_old_timeline() -> None:
    """The server skips the COPY and tells the next timeline at once."""
    script = [START, send(END_ROW, ws.complete("START_STREAMING"), ws.READY), ws.hang]
    with Walsender(script) as server, connect(server) as connection:
        assert stream(connection).read(1) == TimelineEnded(4, lsn("0/3000080"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [("58P01", WalRemoved), ("55006", SlotBusy), ("42704", SourceRefused), ("XX000", SourceUnavailable)],
)
def test_a_refused_start_is_decided_by_its_code(code: str, kind: type[Exception]) -> None:
    """The same text, another class."""
    with Walsender([START, send(ws.error(code, "no"), ws.READY), ws.hang]) as server, connect(server) as connection:
        with pytest.raises(kind) as caught:
            stream(connection)
        assert type(caught.value) is kind


@pytest.mark.parametrize("before", [b"", ws.keepalive(0x3000000, reply=False)])
def test_removed_wal_is_known_when_the_stream_is_made(before: bytes) -> None:
    """A server grants the stream and only then finds the WAL gone: we wait for that; the connection stays of use."""
    script = [
        start_after("0/4000000"),
        send(ws.COPY_BOTH, before, ws.error("58P01", "removed"), ws.READY),
        expect("IDENTIFY_SYSTEM"),
        send(ws.rows(["s", "t", "x", "d"], ["7", "4", "0/3000099", None]), ws.complete("I"), ws.READY),
    ]
    with Walsender(script) as server, connect(server) as connection:
        with pytest.raises(WalRemoved):
            stream(connection)
        assert connection.identify().timeline == 4


def test_what_came_while_making_the_stream_is_read_first() -> None:
    """Nothing that was waited for is lost."""
    script = [
        start_after("0/4000000"),
        send(ws.COPY_BOTH, ws.keepalive(0x3000000, reply=False), ws.xlog_data(0x3000000, b"1")),
        ws.hang,
    ]
    with Walsender(script) as server, connect(server) as connection:
        keepalive, data = read_all(stream(connection), 2)
        assert isinstance(keepalive, PrimaryKeepalive)
        assert isinstance(data, XLogData)


def test_wal_removed_while_streaming() -> None:
    """58P01 in the middle of the stream is a gap too; what came before is delivered first."""
    script = [START, send(ws.COPY_BOTH, ws.xlog_data(0x3000000, b"1"), ws.error("58P01", "removed"), ws.READY), ws.hang]
    with Walsender(script) as server, connect(server) as connection:
        found = stream(connection)
        assert len(read_all(found, 1)) == 1
        with pytest.raises(WalRemoved):
            read_all(found, 1)


@pytest.mark.parametrize("body", [b"?garbage", b"w short", b"k"])
def test_garbage_in_the_stream_is_a_protocol_violation(body: bytes) -> None:
    """Bytes that are no message are never skipped."""
    script = [START, send(ws.COPY_BOTH, ws.copy_data(body)), ws.hang]
    with Walsender(script) as server, connect(server) as connection, pytest.raises(ProtocolViolation):
        read_all(stream(connection), 1)


def test_a_connection_cut_inside_a_message() -> None:
    """What was whole is delivered, then the source is unavailable."""
    cut = ws.xlog_data(0x3000001, b"2" * 1000)[:500]
    script = [START, send(ws.COPY_BOTH, ws.xlog_data(0x3000000, b"1"), cut), ws.cut]
    with Walsender(script) as server, connect(server) as connection:
        found = stream(connection)
        assert len(read_all(found, 1)) == 1
        with pytest.raises(SourceUnavailable) as caught:
            read_all(found, 1)
        assert type(caught.value) is SourceUnavailable


def test_a_server_that_shuts_down_ends_the_stream() -> None:
    """CommandComplete without a next timeline is no end of a timeline."""
    script = [START, send(ws.COPY_BOTH, ws.COPY_DONE), expect_message(b"c"), send(ws.complete("COPY 0"), ws.READY)]
    with Walsender([*script, ws.hang]) as server, connect(server) as connection, pytest.raises(SourceUnavailable):
        stream(connection).read(5)


def test_finish_ends_and_drains() -> None:
    """After finish the connection is free."""
    script = [
        START,
        send(ws.COPY_BOTH, ws.xlog_data(0x3000000, b"1")),
        expect_message(b"c"),
        send(ws.xlog_data(0x3000001, b"2"), ws.COPY_DONE, ws.complete("COPY 0"), ws.READY),
        expect("SHOW wal_segment_size"),
        send(ws.rows(["wal_segment_size"], ["16MB"]), ws.complete("SHOW"), ws.READY),
    ]
    with Walsender(script) as server, connect(server) as connection:
        stream(connection).finish(30)
        assert not connection.closed
        assert connection.wal_segment_size == 16 * 2**20


def test_finish_closes_a_connection_that_does_not_end() -> None:
    """A deadline, not a wait."""
    with Walsender([START, send(ws.COPY_BOTH), ws.hang]) as server, connect(server) as connection:
        found = stream(connection)
        began = time.monotonic()
        found.finish(0.3)
        assert connection.closed
        assert time.monotonic() - began < 25


@pytest.mark.parametrize(
    ("code", "kind"),
    [("28P01", SourceRefused), ("28000", SourceRefused), ("57P03", SourceUnavailable), ("53300", SourceUnavailable)],
)
def test_a_refused_connection_is_decided_by_its_code(code: str, kind: type[Exception]) -> None:
    """libpq keeps no code of a refused connection; we have it nevertheless, by a second attempt."""
    with Walsender([], [], first=ws.error(code, 'no C "28P01" M "x" F "', severity="FATAL")) as server:
        with pytest.raises(kind) as caught:
            connect(server)
        assert type(caught.value) is kind
        assert caught.value.context["sqlstate"] == code  # type: ignore[attr-defined]


def test_a_silent_server_is_unavailable_after_the_connect_timeout() -> None:
    """Every wait has a deadline."""
    with Walsender([ws.hang], first=b"R") as server:
        began = time.monotonic()
        with pytest.raises(SourceUnavailable):
            ReplicationConnection.connect(server.conninfo, None, application_name="tests", connect_timeout=0.3)
        assert time.monotonic() - began < 25


def test_a_silent_answer_is_unavailable_after_the_request_timeout() -> None:
    """Commands too."""
    script = [expect("IDENTIFY_SYSTEM"), ws.hang]
    with Walsender(script) as server, connect(server, timeout=0.3) as connection, pytest.raises(SourceUnavailable):
        connection.identify()


def test_stop_interrupts_a_wait() -> None:
    """Whoever sets the flag does not wait for the deadline."""
    stop = Event()
    script = [expect("IDENTIFY_SYSTEM"), ws.hang]
    with Walsender(script) as server, connect(server, timeout=20, stop=stop) as connection:
        timer = Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(Interrupted):
            connection.identify()
        timer.join()


def test_the_primary_is_found_among_hosts() -> None:
    """A dead host and a standby are passed over."""
    dead = Walsender()
    dead._listener.close()
    with Walsender([], standby=True) as standby, Walsender([ws.hang]) as primary:
        ports = f"{dead.port},{standby.port},{primary.port}"
        conninfo = f"host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports} user=u sslmode=disable"
        with ReplicationConnection.connect(conninfo, None, application_name="t", connect_timeout=30) as connection:
            assert connection.host == f"127.0.0.1:{primary.port}"


def test_a_standby_alone_is_unavailable() -> None:
    """It may be promoted later, so this can be tried again."""
    with Walsender([], standby=True) as server, pytest.raises(SourceUnavailable) as caught:
        connect(server)
    assert caught.value.hint


def test_a_server_before_14_is_asked_whether_it_is_a_primary() -> None:
    """It does not report in_hot_standby by itself."""
    asked = expect("SHOW transaction_read_only")
    answer = send(ws.rows(["transaction_read_only"], ["off"]), ws.complete("SHOW"), ws.READY)
    with Walsender([asked, answer, ws.hang], version="13.9") as server, connect(server) as connection:
        assert connection.server_version // 10000 == 13
