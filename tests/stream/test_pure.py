"""The pure decisions: what may be acknowledged, when to cut, how messages become segments."""

from __future__ import annotations

from math import inf
from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.errors import ProtocolViolation
from replicator.postgres.messages import XLogData
from replicator.spool import Position
from replicator.spool.position import START
from replicator.stream.assembler import Assembler
from replicator.stream.cutting import Uncut, seconds_until_cut
from replicator.stream.durable import acknowledgeable, durable_position, flush_position
from replicator.stream.settings import Acknowledge, StreamSettings

S = 2**20
SYSTEM = 7


def at(lsn: int, timeline: int = 1) -> Position:
    """A position."""
    return Position(timeline, Lsn(lsn))


@pytest.mark.parametrize(
    ("mode", "durable", "expected"),
    [
        ("spool", [START], at(100)),
        ("store", [at(50), at(80)], at(80)),
        ("store", [at(120), START], at(100)),
        ("stores", [at(50), at(80)], at(50)),
        ("stores", [at(50), START], START),
        ("store", [], START),
    ],
)
def test_what_may_be_acknowledged(mode: Acknowledge, durable: list[Position], expected: Position) -> None:
    """Flushed here, and durable in one store or in all, never more than flushed."""
    assert acknowledgeable(mode, at(100), durable) == expected


@pytest.mark.parametrize(
    ("acknowledged", "confirmed", "floor", "last", "expected"),
    [
        (at(100), 100, 0, 0, 100),
        (at(100), 60, 0, 0, 60),
        (at(100), 60, 80, 0, 0),
        (at(100), 60, 80, 90, 90),
        (at(100, 2), 200, 0, 40, 40),
        (at(30), 100, 0, 40, 40),
    ],
)
def test_the_flush_position(acknowledged: Position, confirmed: int, floor: int, last: int, expected: int) -> None:
    """Not beyond what was confirmed on this connection, never back, nothing while the slot stands further."""
    found = flush_position(acknowledged, timeline=1, confirmed=Lsn(confirmed), floor=Lsn(floor), last=Lsn(last))
    assert found == expected


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([], at(10)),
        ([(1, 0, 50)], at(50)),
        ([(1, 0, 50), (1, 60, 90)], at(50)),
        ([(1, 0, 100)], at(80, 2)),
        ([(1, 0, 100), (2, 80, 95)], at(95, 2)),
        ([(1, 0, 100), (2, 80, 999)], at(120, 2)),
        ([(2, 80, 999)], at(10)),
    ],
)
def test_durable_is_gapless(held: list[tuple[int, int, int]], expected: Position) -> None:
    """A later timeline counts only when the earlier is whole."""
    wanted = [(1, Lsn(10), Lsn(100)), (2, Lsn(80), Lsn(120))]
    assert durable_position(wanted, Coverage.of(held)) == expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_durable_never_passes_a_hole(ranges: list[tuple[int, int]]) -> None:
    """Every byte before the durable position is covered."""
    coverage = Coverage.of([(1, start, start + size) for start, size in ranges])
    found = durable_position([(1, Lsn(0), Lsn(60))], coverage)
    assert coverage.holds(1, 0, found.lsn)
    assert found.lsn == 60 or not coverage.holds(1, found.lsn, found.lsn + 1)


SPOOL, STORE = StreamSettings(slot="s"), StreamSettings(slot="s", acknowledge="store")


@pytest.mark.parametrize(
    ("settings", "size", "age", "outstanding", "wanted", "expected"),
    [
        (SPOOL, 0, None, False, True, inf),
        (SPOOL, 5, 0.25, False, False, 0.75),
        (SPOOL, 5, 1.5, False, False, 0.0),
        (SPOOL, S, 0.0, False, False, 0.0),
        (SPOOL, S, 9.0, True, False, inf),
        (SPOOL, 5, 0.0, True, True, 0.0),
        (SPOOL, 5, None, False, False, 0.0),
        (STORE, 5, 0.0, False, False, 0.0),
        (STORE, 5, 0.0, True, False, inf),
    ],
)
def test_when_a_piece_is_cut(
    settings: StreamSettings, size: int, age: float | None, outstanding: bool, wanted: bool, expected: float
) -> None:
    """A second after the first byte, at a megabyte, at once when asked; one piece in flight; nothing when idle."""
    assert seconds_until_cut(Uncut(size, age, outstanding, wanted), settings) == expected


def wal(start: int, size: int) -> bytes:
    """Bytes that begin each segment with a long page header."""
    data = bytearray(size)
    for place in range(-(-start // S) * S, start + size, S):
        head = Struct("<HHIQI4xQII").pack(0xD110, 2, 1, place, 0, SYSTEM, S, 8192)
        part = head[: start + size - place]
        data[place - start : place - start + len(part)] = part
    return bytes(data)


@given(st.lists(st.integers(1, 600_000), min_size=1, max_size=12))
def test_messages_become_segments_byte_for_byte(sizes: list[int]) -> None:
    """However the server cuts its messages, the writes are contiguous, within segments, and the same bytes."""
    total = sum(sizes)
    data = wal(3 * S, total)
    messages, position = [], 0
    for number, size in enumerate(sizes):
        view = memoryview(data)[position : position + size]
        messages.append(XLogData(Lsn(3 * S + position), Lsn(0), 1000 + number, view))
        position += size
    assembler = Assembler(SYSTEM, 1, Lsn(3 * S), S)
    writes = assembler.take(messages)
    assert b"".join(bytes(view) for write in writes for view in write.views) == data
    assert assembler.position == 3 * S + total
    place = Lsn(3 * S)
    for write in writes:
        assert write.start == place
        assert write.segment == Segment.holding(1, place, S)
        assert write.end <= write.segment.end
        assert write.first_us <= write.last_us
        place = write.end


def test_a_jump_is_no_wal_stream() -> None:
    """Bytes that don't follow the last are refused, back and forth."""
    assembler = Assembler(SYSTEM, 1, Lsn(3 * S), S)
    for start in (3 * S + 1, 2 * S):
        with pytest.raises(ProtocolViolation):
            assembler.take([XLogData(Lsn(start), Lsn(0), 0, memoryview(b"x"))])


def test_a_segment_of_another_cluster_is_refused() -> None:
    """The first page's long header must be this cluster's."""
    with pytest.raises(ProtocolViolation):
        Assembler(8, 1, Lsn(3 * S), S).take([XLogData(Lsn(3 * S), Lsn(0), 0, memoryview(wal(3 * S, 100)))])
