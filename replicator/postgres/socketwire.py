"""A base backup read from the socket itself, past libpq (PostgreSQL 15 and later, where nothing encrypts the socket).

libpq copies each message of 32 KiB twice and hands it over by itself, with the interpreter lock held throughout. Here
the kernel writes the data of many messages where they are wanted, in one call without the lock. The server's messages
are of one size within a large file: that is what the call is laid out for, and where it guessed wrong the bytes are
put right. Connecting, authentication and the command are libpq's; afterwards it must not be used but to close.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from socket import MSG_PEEK, socket

from replicator.errors import ProtocolViolation, ReplicatorError, SourceUnavailable
from replicator.postgres import backend
from replicator.postgres.backupwire import DOING, Answer
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.messages import ManifestStart, NewArchive, ProgressReport, parse_backup
from replicator.postgres.sqlstate import error_of
from replicator.postgres.waiting import Conversation, Wait

_MOST_WARNINGS = 1000
#: What is read at once without knowing what it is; the buffer for it also takes what a call was wrongly laid out for.
_READ = 2**18
_BUFFER = 2**20
#: Bytes of a file in one message of PostgreSQL's, while the file has so many.
_PAYLOAD = 2**15
#: Messages that one call is laid out for.
_AHEAD = 16
#: In front of these bytes: that of the CopyData message, and the letter that says they are an archive's.
_PREFIX = backend.HEAD.size + 1
_ARCHIVE = b"d"
_HEADS = {_PAYLOAD: backend.HEAD.pack(backend.COPY_DATA, 5 + _PAYLOAD) + _ARCHIVE}


def reads_plainly(connection: ReplicationConnection, seconds: float) -> bool:
    """Whether the socket holds the server's answer to a command as it is; waits for its first byte, and leaves it."""
    if connection.server_version < 150000 or connection.pgconn.ssl_in_use:
        return False
    with socket(fileno=os.dup(connection.pgconn.socket)) as peeked:
        return connection.run(_first(peeked), doing=DOING, seconds=seconds) in backend.FIRST


def _first(peeked: socket) -> Conversation[bytes]:
    while True:
        yield Wait.READ
        try:
            return peeked.recv(1, MSG_PEEK)
        except BlockingIOError:
            continue
        except OSError:
            return b""  # libpq finds the words for it


class SocketWire:
    """As BackupWire says; `silence` is how many seconds may pass between two messages."""

    def __init__(self, connection: ReplicationConnection, silence: float) -> None:
        self.done_bytes = 0
        self.warnings: list[str] = []
        self._connection = connection
        self._silence = silence
        self._socket = socket(fileno=os.dup(connection.pgconn.socket))
        self._buffer = memoryview(bytearray(_BUFFER))
        self._at = self._end = 0
        self._left = 0  # of the message of archive bytes that is open
        self._begun: NewArchive | ManifestStart | None = None
        self._copied = False

    def close(self) -> None:
        """Close our handle of the socket; libpq has its own."""
        self._socket.close()

    def answer(self, seconds: float) -> Answer | None:
        """The next result; None after the last."""
        return self._connection.run(self._answer(), doing=DOING, seconds=seconds)

    def parts(self, oids: Sequence[int | None], *, manifest: bool) -> Iterator[NewArchive | ManifestStart]:  # noqa: ARG002 the server says it itself
        """What begins, in order."""
        answer = self.answer(self._silence)
        if answer is not None and answer.failure is not None:
            raise answer.failure
        if answer is None or not answer.copying:
            raise ProtocolViolation(f"{DOING}: the server sends fewer archives than it said")
        rest = memoryview(bytearray(_PAYLOAD))
        while True:
            while self.fill(rest):
                pass
            if self._begun is None:
                return
            begun, self._begun = self._begun, None
            yield begun

    def fill(self, room: memoryview) -> int:
        """The next bytes of the part that has begun."""
        return self._connection.run(self._fill(room), doing=DOING, seconds=self._silence)

    def _answer(self) -> Conversation[Answer | None]:
        rows: list[tuple[bytes | None, ...]] = []
        while True:
            kind, body = yield from self._message()
            if self._aside(kind, body):
                continue
            if kind == backend.DATA_ROW:
                rows.append(backend.row(body))
            elif kind == backend.COMPLETE:
                return Answer(tuple(rows))
            elif kind == backend.COPY_OUT:
                return Answer(copying=True)
            elif kind == backend.ERROR:
                return Answer(failure=_failure(body))
            elif kind == backend.READY:
                return None
            elif kind != backend.ROW_DESCRIPTION:
                raise _unexpected(kind)

    def _fill(self, room: memoryview) -> Conversation[int]:
        held = 0
        while held < len(room) and self._begun is None and not self._copied:
            if self._at == self._end and (self._left or len(room) - held >= _PAYLOAD):
                held += yield from self._receive_data(room[held:])
            elif not self._left:
                yield from self._open()
            else:
                count = min(self._end - self._at, self._left, len(room) - held)
                room[held : held + count] = self._buffer[self._at : self._at + count]
                self._at += count
                self._left -= count
                held += count
        return held

    def _open(self) -> Conversation[None]:
        """The next message with bytes of this part; there is none once another part has begun, or the COPY ended."""
        while not self._left and self._begun is None and not self._copied:
            yield from self._hold(backend.HEAD.size)
            kind, length = backend.HEAD.unpack_from(self._buffer, self._at)
            size = backend.body_length(length)
            if kind == backend.COPY_DATA and size:
                yield from self._hold(_PREFIX)
                if self._buffer[self._at + _PREFIX - 1] == _ARCHIVE[0]:
                    self._at += _PREFIX
                    self._left = size - 1
                    continue
            kind, body = yield from self._message()
            if self._aside(kind, body):
                continue
            if kind == backend.COPY_DONE:
                self._copied = True
            elif kind == backend.ERROR:
                raise _failure(body)
            elif kind != backend.COPY_DATA:
                raise _unexpected(kind)
            else:
                event = parse_backup(body)
                if isinstance(event, ProgressReport):
                    self.done_bytes = event.done
                elif isinstance(event, NewArchive | ManifestStart):
                    self._begun = event

    def _receive_data(self, room: memoryview) -> Conversation[int]:
        """Into the room, past the buffer, which is empty: the rest of the open message, and what should follow it. How
        many bytes of the room are filled.
        """
        first = min(self._left, len(room))
        rooms = [room[:first]]
        heads = memoryview(bytearray(_AHEAD * _PREFIX))
        at = first
        while first == self._left and at < len(room) and len(rooms) < 2 * _AHEAD:
            rooms += [heads[:_PREFIX], room[at : at + _PAYLOAD]]
            heads = heads[_PREFIX:]
            at += len(rooms[-1])
        count = yield from self._receive(rooms)
        held = min(count, first)
        self._left -= held
        count -= held
        for number in range(1, len(rooms), 2):
            head, part = rooms[number : number + 2]
            if count < _PREFIX or head != _head(len(part)):
                self._put_right(rooms[number:], count)
                break
            taken = min(count - _PREFIX, len(part))
            self._left = len(part) - taken
            held += taken
            count -= _PREFIX + taken
        return held

    def _put_right(self, rooms: list[memoryview], count: int) -> None:
        """The first `count` bytes there were not what they were taken for, or nothing yet: they are read again."""
        self._at = self._end = 0
        for part in rooms:
            taken = part[: count - self._end]
            self._buffer[self._end : self._end + len(taken)] = taken
            self._end += len(taken)

    def _message(self) -> Conversation[tuple[bytes, bytes]]:
        """The next message, whole."""
        yield from self._hold(backend.HEAD.size)
        kind, length = backend.HEAD.unpack_from(self._buffer, self._at)
        size = backend.body_length(length)
        if size > _BUFFER - _READ:
            raise ProtocolViolation(f"{DOING}: a message of {size} bytes and kind {kind!r} from the server")
        yield from self._hold(backend.HEAD.size + size)
        begin = self._at + backend.HEAD.size
        self._at = begin + size
        return kind, bytes(self._buffer[begin : self._at])

    def _hold(self, count: int) -> Conversation[None]:
        """Until the buffer has so many bytes."""
        while self._end - self._at < count:
            rest = self._end - self._at
            self._buffer[:rest] = self._buffer[self._at : self._end]
            self._at, self._end = 0, rest
            self._end += yield from self._receive([self._buffer[rest : rest + _READ]])

    def _receive(self, rooms: list[memoryview]) -> Conversation[int]:
        while True:
            try:
                count = self._socket.recvmsg_into(rooms)[0]
            except BlockingIOError:
                yield Wait.READ
                continue
            except OSError as error:
                raise SourceUnavailable(f"{DOING}: {error.strerror or error}", sqlstate=None) from error
            if not count:
                raise SourceUnavailable(f"{DOING}: the server closed the connection", sqlstate=None)
            return count

    def _aside(self, kind: bytes, body: bytes) -> bool:
        """Whether it is what a server may say at any time; warnings are kept."""
        if kind == backend.NOTICE:
            found = backend.fields(body)
            if found.get("V") == "WARNING" and len(self.warnings) < _MOST_WARNINGS:
                self.warnings.append(found.get("M", ""))
        return kind in (backend.NOTICE, backend.PARAMETER)


def _head(size: int) -> bytes:
    return _HEADS.get(size) or backend.HEAD.pack(backend.COPY_DATA, 5 + size) + _ARCHIVE


def _failure(body: bytes) -> ReplicatorError:
    found = backend.fields(body)
    return error_of(found.get("C"), found.get("M", ""), doing=DOING)


def _unexpected(kind: bytes) -> ProtocolViolation:
    return ProtocolViolation(f"{DOING}: a message of kind {kind!r} from the server")
