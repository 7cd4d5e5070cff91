"""WAL page headers."""

import struct

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import IntegrityError
from replicator.postgres import pages

SEGMENT = Segment(2, 5, 2**20)
SYSTEM = 7_000_000_000_000_000_001


def page(address: int, *, timeline: int = 2, magic: int = 0xD110, long: bool = False) -> bytes:
    """One page of 8 KiB."""
    head = struct.pack("<HHIQI4x", magic, 0x0002 if long else 0, timeline, address, 0)
    head += struct.pack("<QII", SYSTEM, 2**20, 8192) if long else b""
    return head + b"r" * (8192 - len(head))


def segment_bytes() -> bytes:
    """Three written pages, one recycled page, zeros."""
    start = int(SEGMENT.start)
    written = page(start, long=True) + page(start + 8192) + page(start + 16384)
    return written + page(start + 24576 - 2**20) + bytes(8192)


def test_a_segment_is_checked_against_its_place() -> None:
    """System, size, address and timeline must be those of the name."""
    header = pages.check_segment(segment_bytes(), SEGMENT, SYSTEM)
    assert (header.major, header.block_size, header.page.timeline) == (15, 8192, 2)
    for segment, system in (
        (SEGMENT, SYSTEM + 1),
        (Segment(2, 6, 2**20), SYSTEM),
        (Segment(2, 5, 2**21), SYSTEM),
        (Segment(1, 5, 2**20), SYSTEM),
    ):
        with pytest.raises(IntegrityError):
            pages.check_segment(segment_bytes(), segment, system)


def test_an_ancestors_page_may_begin_a_segment() -> None:
    """After a switch the new timeline's first segment repeats the old one's bytes."""
    pages.check_segment(segment_bytes(), Segment(3, 5, 2**20), SYSTEM)


def test_recycled_pages_and_zeros_are_not_written() -> None:
    """Valid-looking pages of another address end the prefix (trap 14)."""
    assert pages.written_prefix(segment_bytes(), SEGMENT.start) == 3 * 8192
    assert pages.written_prefix(segment_bytes()[:10_000], SEGMENT.start) == 10_000
    assert pages.written_prefix(segment_bytes(), Lsn(0)) == 0


@pytest.mark.parametrize("data", [b"", bytes(8192), b"x" * 100, page(0)[:30]])
def test_other_bytes_are_an_integrity_error(data: bytes) -> None:
    """Zeros, text and short bytes are no WAL."""
    with pytest.raises(IntegrityError):
        pages.parse_segment_header(data)
