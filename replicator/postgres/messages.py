"""The messages inside replication COPY data (PostgreSQL manual, section 55.4). Pure.

Owns their bytes, parsed with exact lengths. Times are microseconds since the Unix epoch. No I/O, no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from replicator.core.lsn import Lsn
from replicator.core.moment import POSTGRES_EPOCH_MICROSECONDS
from replicator.errors import ProtocolViolation

_XLOG_DATA = Struct("!QQq")
_KEEPALIVE = Struct("!cQqB")
_STATUS = Struct("!cQQQqB")
_PROGRESS = Struct("!q")
_XLOG_HEADER = 1 + _XLOG_DATA.size
_W, _K, _D, _P, _N, _M = b"wkdpnm"
Buffer = bytes | memoryview


class XLogData(NamedTuple):
    """WAL from `start` on. `end` is the server's own WAL end when it sent this; `data` is a view, not a copy."""

    start: Lsn
    end: Lsn
    sent_us: int
    data: memoryview


class PrimaryKeepalive(NamedTuple):
    """The server's WAL end; `reply_requested` wants a status update at once."""

    end: Lsn
    sent_us: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StandbyStatusUpdate:
    """Our positions: written, flushed, applied. `flush` is a promise and has no default."""

    write: Lsn
    flush: Lsn
    apply: Lsn
    now_us: int
    reply: bool = False

    def to_bytes(self) -> bytes:
        """The 34 bytes of the message."""
        sent = self.now_us - POSTGRES_EPOCH_MICROSECONDS
        return _STATUS.pack(b"r", self.write, self.flush, self.apply, sent, self.reply)


def parse(message: Buffer) -> XLogData | PrimaryKeepalive:
    """Read one message of a WAL stream. Raises ProtocolViolation."""
    view = memoryview(message)
    kind = view[0] if len(view) else 0
    if kind == _W and len(view) >= _XLOG_HEADER:
        start, end, sent = _XLOG_DATA.unpack_from(view, 1)
        return XLogData(Lsn(start), Lsn(end), sent + POSTGRES_EPOCH_MICROSECONDS, view[_XLOG_HEADER:])
    if kind == _K and len(view) == _KEEPALIVE.size:
        _, end, sent, reply = _KEEPALIVE.unpack(view)
        return PrimaryKeepalive(Lsn(end), sent + POSTGRES_EPOCH_MICROSECONDS, bool(reply))
    raise ProtocolViolation(f"a message of {len(view)} bytes and kind {chr(kind)!r} does not belong in a WAL stream")


class NewArchive(NamedTuple):
    """A tar archive begins. `location` is the tablespace's directory on the server, empty for the base archive."""

    name: str
    location: str


class ArchiveData(NamedTuple):
    """Bytes of the archive or manifest that is open."""

    data: memoryview


class ProgressReport(NamedTuple):
    """Bytes that the server has sent of the backup so far."""

    done: int


class ManifestStart(NamedTuple):
    """The manifest begins; it is the last thing in the stream."""


BackupMessage = NewArchive | ArchiveData | ProgressReport | ManifestStart


def parse_backup(message: Buffer) -> BackupMessage:
    """Read one message of a base backup (PostgreSQL 15 and later). Raises ProtocolViolation."""
    view = memoryview(message)
    kind = view[0] if len(view) else 0
    if kind == _D:
        return ArchiveData(view[1:])
    if kind == _P and len(view) == 1 + _PROGRESS.size:
        return ProgressReport(_PROGRESS.unpack_from(view, 1)[0])
    if kind == _N:
        parts = bytes(view[1:]).split(b"\0")
        if len(parts) == 3 and parts[0] and not parts[2]:
            name, location = (part.decode("utf-8", "surrogateescape") for part in parts[:2])
            return NewArchive(name, location)
    if kind == _M and len(view) == 1:
        return ManifestStart()
    raise ProtocolViolation(f"a message of {len(view)} bytes and kind {chr(kind)!r} does not belong in a base backup")
