"""A scripted walsender: the server's side of the protocol over a real TCP socket, byte for byte.

A script is a list of steps that run after the handshake. What a step finds wrong fails the test when the
`Walsender` is closed.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from replicator.core.lsn import Lsn

_SSL, _GSS = 80877103, 80877104
COPY_DONE = b"c\0\0\0\4"
COPY_BOTH = b"W\0\0\0\7\0\0\0"
COPY_OUT = b"H\0\0\0\7\0\0\0"
READY = b"Z\0\0\0\5I"
POSTGRES_EPOCH_US = 946_684_800_000_000
#: How long a client is waited for, in seconds.
_PATIENCE_S = 60.0


def message(kind: bytes, body: bytes) -> bytes:
    """One protocol message."""
    return kind + struct.pack("!I", len(body) + 4) + body


def copy_data(body: bytes) -> bytes:
    """CopyData."""
    return message(b"d", body)


def xlog_data(start: int, data: bytes, *, sent_us: int = POSTGRES_EPOCH_US) -> bytes:
    """CopyData with WAL."""
    return copy_data(b"w" + struct.pack("!QQq", start, start + len(data), sent_us - POSTGRES_EPOCH_US) + data)


def keepalive(end: int, *, reply: bool, sent_us: int = POSTGRES_EPOCH_US) -> bytes:
    """CopyData with a primary keepalive."""
    return copy_data(b"k" + struct.pack("!QqB", end, sent_us - POSTGRES_EPOCH_US, reply))


def rows(columns: Sequence[str], *values: Sequence[str | None]) -> bytes:
    """A result: row description and data rows, without the command's end."""
    fields = b"".join(name.encode() + b"\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0) for name in columns)
    found = message(b"T", struct.pack("!h", len(columns)) + fields)
    for row in values:
        cells = [struct.pack("!i", -1) if v is None else struct.pack("!i", len(v.encode())) + v.encode() for v in row]
        found += message(b"D", struct.pack("!h", len(row)) + b"".join(cells))
    return found


def complete(tag: str) -> bytes:
    """CommandComplete."""
    return message(b"C", tag.encode() + b"\0")


def error(sqlstate: str, text: str, *, severity: str = "ERROR", kind: bytes = b"E") -> bytes:
    """ErrorResponse, or a notice with kind N."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    return message(kind, b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items()) + b"\0")


class Session:
    """One accepted connection, as a script's steps see it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.received: list[bytes] = []

    def read(self, count: int) -> bytes:
        """Exactly that many bytes; EOFError when the client is gone."""
        found = b""
        while len(found) < count:
            piece = self._socket.recv(count - len(found))
            if not piece:
                raise EOFError("the client closed the connection")
            found += piece
        return found

    def next_message(self) -> tuple[bytes, bytes]:
        """The client's next message: kind and body."""
        kind = self.read(1)
        (length,) = struct.unpack("!I", self.read(4))
        return kind, self.read(length - 4)

    def send(self, data: bytes, pieces: int = 1) -> None:
        """Send, cut into about that many pieces, each in a segment of its own."""
        size = max(1, -(-len(data) // pieces))
        for at in range(0, len(data), size):
            self._socket.sendall(data[at : at + size])

    def handshake(self, first: bytes, parameters: dict[str, str]) -> None:
        """Startup without encryption and password; `first` is sent instead of the welcome when given."""
        while True:
            (length,) = struct.unpack("!I", self.read(4))
            body = self.read(length - 4)
            if struct.unpack("!I", body[:4])[0] not in (_SSL, _GSS):
                break
            self.send(b"N")
        self.received.append(body)
        if first:
            self.send(first)
            return
        told = b"".join(message(b"S", f"{k}\0{v}\0".encode()) for k, v in parameters.items())
        self.send(message(b"R", struct.pack("!I", 0)) + told + message(b"K", struct.pack("!II", 1, 2)) + READY)

    def close(self) -> None:
        """Cut the connection."""
        self._socket.close()


Step = Callable[[Session], None]


def expect(command: str) -> Step:
    """The client sends this command (its beginning)."""

    def step(session: Session) -> None:
        kind, body = session.next_message()
        assert kind == b"Q", (kind, body)
        assert body.startswith(command.encode()), (body, command)

    return step


def send(*parts: bytes, pieces: int = 1) -> Step:
    """Send bytes."""
    return lambda session: session.send(b"".join(parts), pieces)


def expect_message(kind: bytes) -> Step:
    """The client sends a message of this kind (d: status, c: CopyDone); its body goes to `received`."""

    def step(session: Session) -> None:
        found, body = session.next_message()
        assert found == kind, (found, body, kind)
        session.received.append(body)

    return step


def cut(session: Session) -> None:
    """Close the connection at once."""
    session.close()


def hang(session: Session) -> None:
    """Say nothing until the client goes."""
    try:
        while True:
            session.read(1)
    except (EOFError, ConnectionError):
        return


class Walsender:
    """A server that plays one script per connection. `received` holds startup packets and expected messages."""

    def __init__(
        self, *scripts: Sequence[Step], first: bytes = b"", version: str = "15.18", standby: bool = False
    ) -> None:
        self._scripts = scripts
        self._first = first
        self._parameters = {"server_version": version, "client_encoding": "UTF8"}
        if int(version.split(".")[0]) >= 14:
            self._parameters["in_hot_standby"] = "on" if standby else "off"
        self._failures: list[BaseException] = []
        self.received: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_PATIENCE_S)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="walsender")

    @property
    def conninfo(self) -> str:
        """Where to connect."""
        return f"host=127.0.0.1 port={self.port} user=replicator sslmode=disable gssencmode=disable"

    def __enter__(self) -> Walsender:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._thread.join(_PATIENCE_S)
        self._listener.close()
        if problem is None and self._failures:
            raise self._failures[0]

    def _serve(self) -> None:
        try:
            for script in self._scripts:
                connection, _ = self._listener.accept()
                connection.settimeout(_PATIENCE_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection:
                    self._play(Session(connection), script)
        except (AssertionError, OSError, EOFError, struct.error) as problem:  # the test's thread raises it
            self._failures.append(problem)

    def _play(self, session: Session, script: Sequence[Step]) -> None:
        try:
            session.handshake(self._first, self._parameters)
            for step in script:
                step(session)
        finally:
            self.received += session.received


def lsn(text: str) -> Lsn:
    """Short for tests."""
    return Lsn.parse(text)
