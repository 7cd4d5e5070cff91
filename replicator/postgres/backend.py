"""The server's own messages, around the COPY data (PostgreSQL manual, sections 55.7 and 55.8). Pure.

Only what a reader of the socket meets after it has sent a command; connections and all else are libpq's.
"""

from __future__ import annotations

from struct import Struct, error
from typing import Final

from replicator.errors import ProtocolViolation

#: Kind and length of every message; the length counts itself, but not the kind.
HEAD: Final = Struct("!cI")
ROW_DESCRIPTION, DATA_ROW, COMPLETE, READY = b"T", b"D", b"C", b"Z"
COPY_OUT, COPY_DATA, COPY_DONE = b"H", b"d", b"c"
ERROR, NOTICE, PARAMETER = b"E", b"N", b"S"
#: What may come first after a command, where nothing encrypts the socket. A TLS record begins with 20 to 23, a GSSAPI
#: packet with its length, of which the first byte is 0.
FIRST: Final = frozenset((ROW_DESCRIPTION, COMPLETE, READY, COPY_OUT, ERROR, NOTICE, PARAMETER))

_COUNT = Struct("!H")
_LENGTH = Struct("!i")


def body_length(length: int) -> int:
    """Of the bytes after the head whose length this is. Raises ProtocolViolation."""
    if length < 4 or length >= 2**30:
        raise ProtocolViolation(f"a message of {length} bytes from the server")
    return length - 4


def row(body: bytes) -> tuple[bytes | None, ...]:
    """The values of a DataRow, None for NULL. Raises ProtocolViolation."""
    values: list[bytes | None] = []
    try:
        (count,) = _COUNT.unpack_from(body)
        at = _COUNT.size
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size
            values.append(None if length < 0 else body[at : at + length])
            at += max(0, length)
    except error:
        at = -1
    if at != len(body):
        raise ProtocolViolation("a row from the server is cut off")
    return tuple(values)


def fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or a NoticeResponse by their letter: V severity, C SQLSTATE, M the message."""
    found: dict[str, str] = {}
    for part in body.split(b"\0"):
        if part:
            found[chr(part[0])] = part[1:].decode("utf-8", "surrogateescape")
    return found
