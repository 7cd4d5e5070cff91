"""The frame table and trailer at the end of a sealed object (docs/format.md, sections 4.4 and 4.5). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import accumulate

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError
from replicator.seal.header import VERSION

MAGIC = b"RPLTABLE"
END_MAGIC = b"RPLEND\r\n"
SIGNATURE_SIZE = 64
TRAILER_SIZE = 16
#: What a reader asks for first: the tables of nearly all objects fit.
TAIL_SIZE = 65_536

_HEAD = struct.Struct(">8sHHIII32sQQQQQ")
_FRAME = struct.Struct(">32sII")
_TRAILER = struct.Struct(">II8s")


@dataclass(frozen=True, slots=True)
class FrameEntry:
    """One frame: BLAKE3 of its sealed bytes, and both lengths."""

    digest: bytes
    sealed_size: int
    plain_size: int


@dataclass(frozen=True)
class Table:
    """What is known of an object after its last frame. LSNs and times as docs/format.md says by kind."""

    name: str
    header_digest: bytes
    start: Lsn
    end: Lsn
    first_us: int
    last_us: int
    plain_size: int
    frames: tuple[FrameEntry, ...]
    extra: bytes = b""
    head_size: int = field(default=0, compare=False)

    def to_bytes(self) -> bytes:
        """The table's bytes, without signature and trailer."""
        name = self.name.encode()
        head = _HEAD.pack(
            MAGIC, VERSION, len(name), len(self.frames), len(self.extra), 0, self.header_digest,
            self.start, self.end, self.first_us, self.last_us, self.plain_size,
        )  # fmt: skip
        entries = b"".join(_FRAME.pack(entry.digest, entry.sealed_size, entry.plain_size) for entry in self.frames)
        return head + name + entries + self.extra

    @classmethod
    def parse(cls, data: bytes, head_size: int, name: str) -> Table:
        """Read a table's bytes. `name` is what was asked for. Raises IntegrityError when the table is another's."""
        try:
            magic, version, name_size, count, extra_size, zero, *facts = _HEAD.unpack_from(data)
            at = _HEAD.size + name_size
            own = data[_HEAD.size : at].decode()
            frames = tuple(FrameEntry(*entry) for entry in _FRAME.iter_unpack(data[at : at + _FRAME.size * count]))
        except (struct.error, UnicodeDecodeError) as error:
            raise IntegrityError(f"{name}: a damaged frame table", object=name) from error
        extra = data[at + _FRAME.size * count :]
        if magic != MAGIC or version != VERSION or zero or len(frames) != count or len(extra) != extra_size:
            raise IntegrityError(f"{name}: a damaged frame table", object=name)
        if own != name:
            raise IntegrityError(f"{name}: holds the object {own}", hint="It was renamed or swapped.", object=name)
        if sum(entry.plain_size for entry in frames) != facts[5]:
            raise IntegrityError(f"{name}: frames do not add up", object=name)
        header_digest, start, end, first_us, last_us, plain_size = facts
        return cls(own, header_digest, Lsn(start), Lsn(end), first_us, last_us, plain_size, frames, extra, head_size)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each frame begins in the object, and at the end where the table begins."""
        return tuple(accumulate((entry.sealed_size for entry in self.frames), initial=self.head_size))

    @property
    def size(self) -> int:
        """The whole object's length in bytes."""
        sealed = sum(entry.sealed_size for entry in self.frames)
        return self.head_size + sealed + len(self.to_bytes()) + SIGNATURE_SIZE + TRAILER_SIZE


def trailer(table_size: int, head_size: int) -> bytes:
    """The object's last 16 bytes."""
    return _TRAILER.pack(table_size, head_size, END_MAGIC)


def parse_trailer(tail: bytes, name: str) -> tuple[int, int]:
    """(length of the table, length of the head) from the object's last bytes. Raises IntegrityError."""
    if len(tail) < TRAILER_SIZE:
        raise IntegrityError(f"{name}: too short for a sealed object", object=name)
    table_size, head_size, magic = _TRAILER.unpack(tail[-TRAILER_SIZE:])
    if magic != END_MAGIC:
        raise IntegrityError(f"{name}: its end is missing", hint="It was truncated or damaged.", object=name)
    return table_size, head_size
