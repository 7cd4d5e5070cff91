"""A session against a scripted source: the exact positions that it is told."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import tests.walsender as ws
from replicator.core.lsn import Lsn, Segment
from replicator.errors import ProtocolViolation, WalConflict
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.walreceive import WalStream
from replicator.stream.board import Board
from replicator.stream.handshake import Granted
from replicator.stream.position import StartAt
from replicator.stream.receiver import Receiver
from replicator.stream.session import Session
from replicator.stream.settings import StreamSettings, no_step
from replicator.tolerance import SystemClock
from tests.repositories import make_repository
from tests.stream.test_pure import SYSTEM, S, wal

START = 3 * S


def positions(body: bytes) -> tuple[int, int, int]:
    """Write, flush and apply of a status update."""
    kind, write, flush, apply = struct.unpack_from("!cQQQ", body)
    assert kind == b"r"
    return write, flush, apply


def status_into(got: list[bytes]) -> ws.Step:
    """The client sends a status update, which is kept."""

    def step(session: ws.Session) -> None:
        ws.expect_message(b"d")(session)
        got.append(session.received[-1])

    return step


def farewell(session: ws.Session) -> None:
    """Wait for the client's CopyDone, then hang up."""
    try:
        while session.next_message()[0] != b"c":
            pass
        session.close()
    except (EOFError, ConnectionError):
        return


def run(tmp_path: Path, steps: Sequence[ws.Step], *, slot_lsn: int = 0) -> None:
    """Stream from a scripted source for as long as its script wants something of us."""
    board = Board(
        make_repository(tmp_path),
        tmp_path / "spool",
        StreamSettings(slot="s", status_interval=60.0),
        SystemClock(),
        no_step,
    )
    spool = board.open_spool(SYSTEM, S)
    stop = threading.Event()
    identity = ws.rows(["systemid", "timeline", "xlogpos", "dbname"], [str(SYSTEM), "1", str(Lsn(START)), None])
    script = [
        ws.expect("IDENTIFY_SYSTEM"),
        ws.send(identity, ws.complete("IDENTIFY_SYSTEM"), ws.READY),
        ws.expect("START_REPLICATION"),
        ws.send(ws.COPY_BOTH),
        *steps,
        lambda _: stop.set(),
        farewell,
    ]
    with ws.Walsender(script) as server:
        connection = ReplicationConnection.connect(
            server.conninfo, None, application_name="s", connect_timeout=30.0, request_timeout=30.0
        )
        with connection:
            stream = WalStream(connection, slot="s", timeline=1, start=Lsn(START))
            session = Session(board, spool, Granted(stream, StartAt(1, Lsn(START), Lsn(START)), Lsn(slot_lsn)))
            session.run(stop)


def test_a_reply_is_sent_at_once_and_says_what_is_durable(tmp_path: Path) -> None:
    """After 100 bytes and a request the source hears exactly 100 bytes written and flushed, apply never ahead."""
    got: list[bytes] = []
    status = status_into(got)
    run(
        tmp_path,
        [
            status,
            ws.send(ws.xlog_data(START, wal(START, 100)), ws.keepalive(START + 100, reply=True)),
            status,
            ws.send(ws.keepalive(START + 100, reply=True), pieces=5),
            status,
        ],
    )
    assert [positions(body) for body in got[1:]] == [(START + 100,) * 3] * 2


def test_nothing_is_said_below_where_the_slot_stands(tmp_path: Path) -> None:
    """While old bytes are repeated the flush position is 0, so that the slot never moves back."""
    got: list[bytes] = []
    status = status_into(got)
    body = wal(START, 300)
    run(
        tmp_path,
        [
            status,
            ws.send(ws.xlog_data(START, body[:100]), ws.keepalive(START + 300, reply=True)),
            status,
            ws.send(ws.xlog_data(START + 100, body[100:]), ws.keepalive(START + 300, reply=True)),
            status,
        ],
        slot_lsn=START + 200,
    )
    assert [positions(body)[1] for body in got] == [0, 0, START + 300]


@pytest.mark.parametrize(
    "broken",
    [ws.xlog_data(START + 1, b"x"), ws.xlog_data(START, bytes(100)), ws.copy_data(b"?nonsense")],
    ids=["a jump", "no WAL page", "no message"],
)
def test_what_is_no_wal_stream_is_refused(tmp_path: Path, broken: bytes) -> None:
    """Nothing of it reaches the spool."""
    with pytest.raises(ProtocolViolation):
        run(tmp_path, [ws.send(broken), ws.hang])
    assert not list((tmp_path / "spool").rglob("*.partial"))


def test_a_receiver_that_gives_up_leaves_nothing_half_durable(tmp_path: Path) -> None:
    """Another one may open the spool next: no fsync of ours is under way then, and what was received counts."""
    board = Board(make_repository(tmp_path), tmp_path / "spool", StreamSettings(slot="s"), SystemClock(), no_step)
    spool = board.open_spool(SYSTEM, S)

    def connect() -> ReplicationConnection:
        for number, size in ((3, S), (4, 100)):
            segment = Segment(1, number, S)
            spool.append(segment, segment.start, [memoryview(bytes(size))], acknowledged=Lsn(0))
        raise WalConflict("two servers wrote this timeline")

    with pytest.raises(WalConflict):
        Receiver(board, connect, may_create_slot=lambda: False).run(threading.Event())
    assert spool.flushed == spool.received == (1, Lsn(4 * S + 100))
