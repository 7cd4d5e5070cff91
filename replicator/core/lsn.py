"""Log sequence numbers and WAL segments (PostgreSQL manual, section 30.6 "WAL Internals").

Owns every conversion between a byte position, its text "0/16B3748", and a segment's file name.
A segment's size is always a parameter: it comes from the server (1 MiB to 1 GiB), never from a constant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicator.errors import UsageError

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\Z")
_HEX16 = re.compile(r"[0-9A-F]{16}\Z")
_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})\Z")
_MAX = 2**64 - 1


class Lsn(int):
    """A byte position in the WAL: an int that prints as PostgreSQL prints it."""

    def __new__(cls, value: int) -> Lsn:
        """Raise UsageError outside 0 … 2^64-1."""
        if not 0 <= value <= _MAX:
            raise UsageError(f"{value} is not an LSN: it must fit in 64 bits")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read "0/16B3748". Raises UsageError for anything else."""
        match = _TEXT.match(text)
        if match is None:
            raise UsageError(f"{text!r} is not an LSN", hint="Write it as PostgreSQL prints it, for example 0/16B3748.")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    @classmethod
    def from_hex16(cls, text: str) -> Lsn:
        """Read the sixteen upper-case hex digits used in object names. Raises UsageError."""
        if not _HEX16.match(text):
            raise UsageError(f"{text!r} is not an LSN of sixteen hex digits")
        return cls(int(text, 16))

    @property
    def hex16(self) -> str:
        """Sixteen upper-case hex digits: sorts as it counts."""
        return f"{int(self):016X}"

    def floor(self, segment_size: int) -> Lsn:
        """The start of the segment that holds this byte."""
        return Lsn(int(self) - int(self) % segment_size)

    def ceil(self, segment_size: int) -> Lsn:
        """The first segment start at or after this byte."""
        return Lsn(-(-int(self) // segment_size) * segment_size)

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __add__(self, other: int) -> Lsn:
        return Lsn(int(self) + int(other))


def valid_segment_size(size: int) -> bool:
    """Whether PostgreSQL allows this segment size: a power of two from 1 MiB to 1 GiB."""
    return 2**20 <= size <= 2**30 and size & (size - 1) == 0


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One WAL segment file of one timeline; `size` in bytes."""

    timeline: int
    number: int
    size: int

    @classmethod
    def holding(cls, timeline: int, lsn: int, size: int) -> Segment:
        """The segment that holds the byte at `lsn`."""
        return cls(timeline, int(lsn) // size, size)

    @classmethod
    def parse(cls, name: str, size: int) -> Segment:
        """Read a 24-digit file name. Raises UsageError when it is not one for this segment size."""
        match = _NAME.match(name)
        if match is None or not valid_segment_size(size):
            raise UsageError(f"{name!r} is not a WAL segment name")
        per_log = 2**32 // size
        timeline, log, low = (int(part, 16) for part in match.groups())
        if low >= per_log or timeline == 0:
            raise UsageError(f"{name!r} is not a WAL segment name for segments of {size} bytes")
        return cls(timeline, log * per_log + low, size)

    @property
    def name(self) -> str:
        """The 24-digit file name."""
        per_log = 2**32 // self.size
        return f"{self.timeline:08X}{self.number // per_log:08X}{self.number % per_log:08X}"

    @property
    def log(self) -> str:
        """The middle eight digits: the folder in the repository."""
        return self.name[8:16]

    @property
    def start(self) -> Lsn:
        """Its first byte."""
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """The byte after its last."""
        return Lsn((self.number + 1) * self.size)

    def next(self) -> Segment:
        """The following segment of the same timeline."""
        return Segment(self.timeline, self.number + 1, self.size)
