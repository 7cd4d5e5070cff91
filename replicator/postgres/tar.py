"""Reading tar as PostgreSQL writes it (ustar; base-256 numbers for what octal cannot hold). Pure.

Memory is bounded by the chunk size, never by a member's size.
Names are checked here: relative, without "..", so that they can become paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from replicator.errors import ProtocolViolation
from replicator.postgres.rooms import Rooms

BLOCK = 512
#: What `chunks` yields at most, in bytes: what is sealed at once, so that large files need not be copied again.
CHUNK = 2**21
_CHECKSUM = slice(148, 156)
Buffer = bytes | memoryview


class Kind(StrEnum):
    """The kinds of member that PostgreSQL writes."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


_KINDS = {b"0": Kind.FILE, b"\0": Kind.FILE, b"5": Kind.DIRECTORY, b"2": Kind.SYMLINK}


@dataclass(frozen=True, slots=True)
class Header:
    """One member: `path` and `link` with surrogates for bytes that are not UTF-8; `mtime` in whole Unix seconds."""

    path: str
    kind: Kind
    size: int
    mode: int
    mtime: int
    link: str


def parse_header(block: Buffer) -> Header:
    """Read one header block. Raises ProtocolViolation."""
    raw = bytes(block)
    checksum = sum(raw) - sum(raw[_CHECKSUM]) + 8 * ord(" ")
    if len(raw) != BLOCK or _number(raw[_CHECKSUM]) != checksum:
        raise ProtocolViolation("a tar header in the base backup is damaged")
    kind = _KINDS.get(raw[156:157])
    if kind is None:
        raise ProtocolViolation(f"a tar member of type {raw[156:157]!r} in the base backup")
    prefix = _text(raw[345:500])
    name = _text(raw[:100])
    path = f"{prefix}/{name}" if prefix else name
    size = _number(raw[124:136]) if kind is Kind.FILE else 0
    return Header(
        check_path(path), kind, size, _number(raw[100:108]) & 0o7777, _number(raw[136:148]), _text(raw[157:257])
    )


def check_path(path: str) -> str:
    """`path` without a leading "./" or a closing "/"; raises ProtocolViolation when it could leave its directory."""
    parts = [part for part in path.split("/") if part != "."]
    if parts and not parts[-1]:
        parts.pop()
    if not parts or any(part in ("", "..") or "\0" in part for part in parts):
        raise ProtocolViolation(f"a tar member named {path!r} in the base backup")
    return "/".join(parts)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b"\0 ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise ProtocolViolation("a tar header in the base backup is damaged") from None


class Source(Protocol):
    """Where an archive comes from."""

    def fill(self, room: memoryview) -> int:
        """The next bytes into `room`: how many; fewer than fit only at the end."""
        ...


class TarReader:
    """The members of one archive, in its order. Take a member's `chunks` before the next; what is left is skipped."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._rooms = Rooms(CHUNK)
        self._block = memoryview(bytearray(BLOCK))
        self._left = 0
        self._padding = 0

    def members(self) -> Iterator[Header]:
        """Each header. Ends at the end of the source, with or without the closing zero blocks."""
        while True:
            for _ in self.chunks():
                pass
            self._take(self._block[: self._padding])
            self._padding = 0
            count = self._source.fill(self._block)
            if 0 < count < BLOCK:
                raise _cut()
            if not count or not any(self._block):
                self._drain()
                return
            header = parse_header(self._block)
            self._left = header.size
            self._padding = -header.size % BLOCK
            yield header

    def chunks(self, most: int = CHUNK) -> Iterator[memoryview]:
        """The rest of the current member, in pieces of `most` bytes but the last. Raises ProtocolViolation when the
        archive ends before.
        """
        while self._left:
            chunk = self._rooms.take(min(most, self._left))
            self._take(chunk)
            self._left -= len(chunk)
            yield chunk

    def _take(self, room: memoryview) -> None:
        if self._source.fill(room) < len(room):
            raise _cut()

    def _drain(self) -> None:
        while self._source.fill(self._block):
            pass


def _cut() -> ProtocolViolation:
    return ProtocolViolation("a tar archive of the base backup ends inside a member")
