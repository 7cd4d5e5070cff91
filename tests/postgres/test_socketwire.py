"""Base backups read from the socket itself, byte for byte."""

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.errors import ProtocolViolation, SourceRefused, SourceUnavailable
from replicator.postgres import backend
from replicator.postgres.backupwire import Answer
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.messages import ManifestStart, NewArchive
from replicator.postgres.socketwire import SocketWire, reads_plainly
from tests import walsender as ws
from tests.walsender import Walsender

pytestmark = pytest.mark.server
PAGE = bytes(range(256)) * 128  # as much as PostgreSQL puts into a message


def wired(server: Walsender) -> tuple[ReplicationConnection, SocketWire]:
    """A wire to a scripted server that has been asked something."""
    connection = ReplicationConnection.connect(server.conninfo, None, application_name="t", connect_timeout=60)
    connection.pgconn.send_query(b"X")
    assert connection.pgconn.flush() == 0
    assert reads_plainly(connection, 60)
    return connection, SocketWire(connection, 60)


def content(seed: int, size: int) -> bytes:
    """Bytes that differ from place to place."""
    return b"".join(struct.pack("!I", seed * 2**20 + at) for at in range(-(-size // 4)))[:size]


SIZES = st.lists(st.sampled_from([1, 5, 6, 512, 8192, 32767, 32768, 32769, 65536, 150_000]), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=SIZES,
    rooms=st.lists(st.sampled_from([1, 7, 512, 32768, 100_000, 2**20]), min_size=1, max_size=8),
    pieces=st.integers(1, 40),
    every=st.integers(1, 6),
)
def test_the_same_bytes_however_they_are_cut(sizes: list[int], rooms: list[int], pieces: int, every: int) -> None:
    """Messages of any size, with progress reports between them, into rooms of any size."""
    messages = [content(number, size) for number, size in enumerate(sizes)]
    wire = ws.COPY_OUT + ws.copy_data(b"nbase.tar\0\0")
    for number, data in enumerate(messages):
        wire += ws.copy_data(b"d" + data)
        if number % every == 0:
            wire += ws.copy_data(b"p" + struct.pack("!q", number))
            wire += ws.error("01000", "look", severity="WARNING", kind=b"N")
    wire += ws.copy_data(b"m") + ws.copy_data(b"d" + PAGE) + ws.COPY_DONE + ws.complete("SELECT") + ws.READY
    with Walsender([ws.expect("X"), ws.send(wire, pieces=pieces), ws.hang]) as server:
        connection, reader = wired(server)
        found: list[bytes] = []
        with connection:
            for part in reader.parts([None], manifest=True):
                held, turn = b"", 0
                while True:
                    room = memoryview(bytearray(rooms[turn % len(rooms)]))
                    count = reader.fill(room)
                    held += room[:count]
                    turn += 1
                    if count < len(room):
                        break
                found.append(held)
                assert isinstance(part, NewArchive if len(found) == 1 else ManifestStart)
            assert reader.answer(60) == Answer()
            assert reader.answer(60) is None
            reader.close()
        assert found == [b"".join(messages), PAGE]
        told = [number for number in range(len(messages)) if number % every == 0]
        assert (reader.done_bytes, reader.warnings) == (told[-1], ["look"] * len(told))


def test_what_nobody_takes_is_skipped() -> None:
    """The next part begins after it."""
    wire = ws.COPY_OUT + ws.copy_data(b"nbase.tar\0\0") + ws.copy_data(b"d" + PAGE) * 5
    wire += ws.copy_data(b"n16385.tar\0/srv\0") + ws.copy_data(b"dabc") + ws.COPY_DONE
    with Walsender([ws.expect("X"), ws.send(wire), ws.hang]) as server:
        connection, reader = wired(server)
        with connection:
            parts = reader.parts([None, 16385], manifest=False)
            next(parts)
            assert reader.fill(memoryview(bytearray(70_000))) == 70_000
            assert next(parts) == NewArchive("16385.tar", "/srv")
            room = memoryview(bytearray(9))
            assert reader.fill(room) == 3
            assert bytes(room[:3]) == b"abc"
            assert next(parts, None) is None
            reader.close()


BEGIN = ws.COPY_OUT + ws.copy_data(b"nbase.tar\0\0")


@pytest.mark.parametrize(
    ("wire", "kind", "words"),
    [
        (BEGIN + ws.copy_data(b"d" + PAGE) + ws.error("57P01", "going"), SourceUnavailable, "going"),
        (BEGIN + ws.copy_data(b"d" + PAGE)[:-9], SourceUnavailable, "closed"),
        (BEGIN + ws.copy_data(b"d" + PAGE) + b"d\0\0\0\3", ProtocolViolation, "3 bytes"),
        (BEGIN + ws.copy_data(b"d" + PAGE) + b"d\xff\0\0\3", ProtocolViolation, "bytes from"),
        (BEGIN + ws.message(b"v", b"x"), ProtocolViolation, "b'v'"),
        (BEGIN + ws.copy_data(b"z" + PAGE), ProtocolViolation, "'z'"),
        (BEGIN + ws.copy_data(b""), ProtocolViolation, "0 bytes"),
        (BEGIN + ws.message(b"d", b"z" + bytes(2**20)), ProtocolViolation, "1048577 bytes"),
        (ws.error("42501", "no"), SourceRefused, "no"),
        (ws.rows(["a"], ["1"]) + ws.complete("SELECT"), ProtocolViolation, "fewer"),
        (ws.message(b"T", b"") + ws.message(b"D", b"\0\1\0\0\0\5ab"), ProtocolViolation, "cut off"),
        (ws.message(b"T", b"") + ws.message(b"D", b"\0"), ProtocolViolation, "cut off"),
        (ws.message(b"T", b"") + ws.message(b"W", b"\0"), ProtocolViolation, "b'W'"),
    ],
)
def test_what_does_not_belong_there(wire: bytes, kind: type[Exception], words: str) -> None:
    """Each ends in an error that says what it was."""
    with Walsender([ws.expect("X"), ws.send(wire), ws.cut]) as server:
        connection, reader = wired(server)
        with connection, pytest.raises(kind, match=words):
            list(reader.parts([None], manifest=False))  # takes nothing of them: all is skipped
        reader.close()


def test_rows_with_null_and_nothing() -> None:
    """As the server sends them."""
    assert backend.row(b"\0\3\xff\xff\xff\xff\0\0\0\0\0\0\0\2ab") == (None, b"", b"ab")


@pytest.mark.parametrize("first", [b"\0\0\0\x20", b"\x17\3\3\0", b""])
def test_a_socket_that_is_not_plain_is_left_to_libpq(first: bytes) -> None:
    """What begins as no message does: an encrypted packet, or the end."""
    with Walsender([ws.expect("X"), ws.send(first), ws.cut]) as server:
        connection = ReplicationConnection.connect(server.conninfo, None, application_name="t", connect_timeout=60)
        with connection:
            connection.pgconn.send_query(b"X")
            assert not reads_plainly(connection, 60)


def test_an_older_server_is_left_to_libpq() -> None:
    """It sends archives without types."""
    with Walsender([ws.hang], version="14.9") as server:
        connection = ReplicationConnection.connect(server.conninfo, None, application_name="t", connect_timeout=60)
        with connection:
            assert not reads_plainly(connection, 60)
