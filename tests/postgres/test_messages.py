"""The messages inside replication COPY data."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.lsn import Lsn
from replicator.core.moment import POSTGRES_EPOCH_MICROSECONDS
from replicator.errors import ProtocolViolation
from replicator.postgres import messages


def test_xlog_data_carries_place_time_and_a_view() -> None:
    """Start, end and send time are read in network order; the data is the rest, not copied."""
    data = b"w" + struct.pack("!QQq", 0x1_0000_0000, 0x1_0000_0100, 1_000_000) + b"wal"
    found = messages.parse(memoryview(data))
    assert isinstance(found, messages.XLogData)
    assert (found.start, found.end) == (Lsn.parse("1/0"), Lsn.parse("1/100"))
    assert found.sent_us == POSTGRES_EPOCH_MICROSECONDS + 1_000_000
    assert isinstance(found.data, memoryview)
    assert bytes(found.data) == b"wal"


@pytest.mark.parametrize("asked", [True, False])
def test_keepalive_says_whether_a_reply_is_wanted(asked: bool) -> None:
    """The last byte is the request."""
    found = messages.parse(b"k" + struct.pack("!QqB", 77, -1, asked))
    assert found == messages.PrimaryKeepalive(Lsn(77), POSTGRES_EPOCH_MICROSECONDS - 1, asked)


def test_status_update_has_the_bytes_of_the_manual() -> None:
    """34 bytes: kind, write, flush, apply, time since 2000, reply."""
    update = messages.StandbyStatusUpdate(Lsn(3), Lsn(2), Lsn(1), POSTGRES_EPOCH_MICROSECONDS + 5, reply=True)
    assert update.to_bytes() == b"r" + struct.pack("!QQQqB", 3, 2, 1, 5, 1)


def test_flush_has_no_default() -> None:
    """A position that the server may forget is never filled in for the caller."""
    with pytest.raises(TypeError):
        messages.StandbyStatusUpdate(Lsn(3), now_us=0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "data", [b"", b"w", b"w" + bytes(23), b"k" + bytes(16), b"k" + bytes(18), b"x" + bytes(40), b"\xff" * 30]
)
def test_other_lengths_and_kinds_are_refused(data: bytes) -> None:
    """Nothing but exact messages is read."""
    with pytest.raises(ProtocolViolation):
        messages.parse(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_violation(data: bytes) -> None:
    """The parsers fail in one way only."""
    for parse in (messages.parse, messages.parse_backup):
        try:
            parse(data)
        except ProtocolViolation:
            continue


def test_backup_messages() -> None:
    """Archive, data, progress and manifest."""
    assert messages.parse_backup(b"nbase.tar\0\0") == messages.NewArchive("base.tar", "")
    assert messages.parse_backup(b"n16385.tar\0/srv/ts\0") == messages.NewArchive("16385.tar", "/srv/ts")
    assert messages.parse_backup(b"p" + struct.pack("!q", 9)) == messages.ProgressReport(9)
    assert messages.parse_backup(b"m") == messages.ManifestStart()
    data = messages.parse_backup(b"dabc")
    assert isinstance(data, messages.ArchiveData)
    assert bytes(data.data) == b"abc"
    for broken in (b"", b"n", b"nbase.tar\0", b"n\0\0", b"p123", b"mm", b"z"):
        with pytest.raises(ProtocolViolation):
            messages.parse_backup(broken)
