"""LSNs and segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.lsn import Lsn, Segment, valid_segment_size
from replicator.errors import UsageError

SIZES = st.sampled_from([2**power for power in range(20, 31)])


@given(st.integers(0, 2**64 - 1))
def test_text_and_hex_read_back(value: int) -> None:
    """What an LSN prints is what it parses, in both forms."""
    lsn = Lsn(value)
    assert Lsn.parse(str(lsn)) == lsn
    assert Lsn.from_hex16(lsn.hex16) == lsn
    assert len(lsn.hex16) == 16


def test_prints_like_postgres() -> None:
    """The text is PostgreSQL's, also in an f-string."""
    assert str(Lsn(0x16B3748)) == "0/16B3748"
    assert f"{Lsn(1 << 32)}" == "1/0"


@pytest.mark.parametrize("text", ["", "16B3748", "0/", "/1", "0/123456789", "x/1", "0/1 ", "0/-1"])
def test_refuses_what_is_no_lsn(text: str) -> None:
    """Anything else is a usage error with a hint."""
    with pytest.raises(UsageError) as caught:
        Lsn.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("value", [-1, 2**64])
def test_stays_within_64_bits(value: int) -> None:
    """An LSN has 64 bits."""
    with pytest.raises(UsageError):
        Lsn(value)


@given(SIZES, st.integers(1, 2**32 - 1), st.integers(0, 2**63))
def test_segment_names_read_back(size: int, timeline: int, lsn: int) -> None:
    """A segment's name holds its timeline and number for any segment size."""
    segment = Segment.holding(timeline, lsn, size)
    assert Segment.parse(segment.name, size) == segment
    assert segment.start <= lsn < segment.end
    assert segment.next().start == segment.end
    assert segment.name[8:16] == segment.log


def test_segment_name_of_sixteen_megabytes() -> None:
    """The arithmetic is pg_walfile_name's."""
    assert Segment.holding(1, Lsn.parse("1/2345678"), 2**24).name == "000000010000000100000002"
    assert Segment.holding(2, Lsn.parse("1/2345678"), 2**20).name == "000000020000000100000023"


@pytest.mark.parametrize(
    "name", ["", "00000001000000000000000", "000000010000000000000100", "00000000" + "0" * 16, "g" * 24]
)
def test_refuses_names_that_are_no_segments(name: str) -> None:
    """A name out of range for the segment size is refused."""
    with pytest.raises(UsageError):
        Segment.parse(name, 2**24)


def test_segment_sizes() -> None:
    """Powers of two from 1 MiB to 1 GiB."""
    assert [size for size in (0, 2**19, 2**20, 3 * 2**20, 2**30, 2**31) if valid_segment_size(size)] == [2**20, 2**30]


def test_floor_and_ceil() -> None:
    """Rounding to segment starts."""
    assert Lsn(2**24 + 5).floor(2**24) == 2**24
    assert Lsn(2**24 + 5).ceil(2**24) == 2**25
    assert Lsn(2**24).ceil(2**24) == 2**24
