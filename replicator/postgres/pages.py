"""The headers of WAL pages (PostgreSQL source, access/xlog_internal.h). Pure.

Owns magic numbers and the check that bytes are WAL of a given place. Knows no WAL records. Little-endian, as every
platform that PostgreSQL is packaged for.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from replicator.core.lsn import Lsn, Segment, valid_segment_size
from replicator.errors import IntegrityError

_PAGE = Struct("<HHIQI4x")
_LONG = Struct("<QII")
_LONG_HEADER = 0x0002
_KNOWN_FLAGS = 0x000F
#: xlp_magic changes with each major version.
MAGIC = {13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
_MAJOR = {magic: major for major, magic in MAGIC.items()}
HEADER_SIZE = _PAGE.size + _LONG.size


@dataclass(frozen=True, slots=True)
class PageHeader:
    """One page: its own address, and how many bytes of a record from before it continues."""

    magic: int
    info: int
    timeline: int
    address: Lsn
    remaining: int

    @property
    def is_long(self) -> bool:
        """Whether it is a segment's first page."""
        return bool(self.info & _LONG_HEADER)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """A segment's first page: who wrote it, and the two sizes that never change in a cluster."""

    page: PageHeader
    system_id: int
    segment_size: int
    block_size: int

    @property
    def major(self) -> int | None:
        """The PostgreSQL major version that wrote it; None for one that we do not know."""
        return _MAJOR.get(self.page.magic)


def parse_page(data: bytes | memoryview, offset: int = 0) -> PageHeader:
    """Read the header at `offset`. Raises IntegrityError when the bytes are too few or no WAL page."""
    if len(data) - offset < _PAGE.size:
        raise IntegrityError("too few bytes for a WAL page header")
    magic, info, timeline, address, remaining = _PAGE.unpack_from(data, offset)
    if magic >> 8 != 0xD1 or info & ~_KNOWN_FLAGS or timeline == 0:
        raise IntegrityError("the bytes are not a WAL page")
    return PageHeader(magic, info, timeline, Lsn(address), remaining)


def parse_segment_header(data: bytes | memoryview) -> SegmentHeader:
    """Read a segment's first `HEADER_SIZE` bytes. Raises IntegrityError."""
    page = parse_page(data)
    if not page.is_long or len(data) < HEADER_SIZE:
        raise IntegrityError("the bytes are not the start of a WAL segment")
    system_id, segment_size, block_size = _LONG.unpack_from(data, _PAGE.size)
    if not valid_segment_size(segment_size) or block_size & (block_size - 1) or not 512 <= block_size <= 65536:
        raise IntegrityError("the WAL segment's header is damaged")
    return SegmentHeader(page, system_id, segment_size, block_size)


def check_segment(data: bytes | memoryview, segment: Segment, system_id: int) -> SegmentHeader:
    """The header of `data` if it is `segment` of that cluster (trap 14); IntegrityError otherwise.

    The page's own timeline may be an ancestor's: a new timeline's first segment repeats bytes of the old one.
    """
    header = parse_segment_header(data)
    if header.system_id != system_id:
        raise IntegrityError(f"segment {segment.name} was written by cluster {header.system_id}, not {system_id}")
    if header.segment_size != segment.size or header.page.address != segment.start:
        raise IntegrityError(f"segment {segment.name} holds the bytes of another place, {header.page.address}")
    if header.page.timeline > segment.timeline:
        raise IntegrityError(f"segment {segment.name} holds the bytes of timeline {header.page.timeline}")
    return header


def written_prefix(data: bytes | memoryview, start: Lsn) -> int:
    """How many leading bytes of `data`, whose first byte is the segment start `start`, are pages of that place.

    Whole pages; ends at the first that is zero or recycled. It says where WAL may be, not where its last record ends.
    """
    block = parse_segment_header(data).block_size
    for offset in range(0, len(data), block):
        if len(data) - offset < _PAGE.size:
            return offset
        magic, _, _, address, _ = _PAGE.unpack_from(data, offset)
        if magic >> 8 != 0xD1 or address != start + offset:
            return offset
    return len(data)
