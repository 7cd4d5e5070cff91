"""The steps of a conversation with libpq, as generators over a `PGconn`: nothing here waits.

Each step yields the `Wait` it needs and returns its value. A failed result becomes our error by its SQLSTATE.
Tests drive them with `send`, the product with `waiting.drive`.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import pq
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from replicator.core.lsn import Lsn
from replicator.errors import ProtocolViolation, ReplicatorError, SourceUnavailable, UsageError
from replicator.postgres import messages
from replicator.postgres.sqlstate import error_of
from replicator.postgres.waiting import Conversation, Wait
from replicator.postgres.words import libpq_words

FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)
COPYING = (ExecStatus.COPY_BOTH, ExecStatus.COPY_OUT, ExecStatus.COPY_IN)
_LOOK = Wait.READ | Wait.NOW


@dataclass(frozen=True, slots=True)
class TimelineEnded:
    """The timeline asked for ends at `switchpoint`; the next is what the server says, not ours plus one (trap 16)."""

    next_timeline: int
    switchpoint: Lsn


def text(value: bytes | None) -> str:
    """A server's bytes as text; what is not UTF-8 survives as surrogates."""
    return (value or b"").decode("utf-8", "surrogateescape")


def failure_of(result: PGresult, *, doing: str, wal: bool = False) -> ReplicatorError:
    """Our error for a failed result."""
    code = result.error_field(DiagnosticField.SQLSTATE)
    primary = result.error_field(DiagnosticField.MESSAGE_PRIMARY)
    message = text(primary) if primary else result.get_error_message()
    return error_of(text(code) or None, message, doing=doing, wal=wal)


def lost(pgconn: PGconn, error: psycopg.Error, *, doing: str, wal: bool = False) -> ReplicatorError:
    """Our error for a connection that broke: the server's last words where it left some, else libpq's."""
    try:
        result = pgconn.get_result()
    except psycopg.Error:
        result = None
    if result is not None and result.error_field(DiagnosticField.SQLSTATE):
        return failure_of(result, doing=doing, wal=wal)
    return SourceUnavailable(f"{doing}: {libpq_words(pq.error_message(pgconn) or str(error))}", sqlstate=None)


def flush(pgconn: PGconn) -> Conversation[None]:
    """Send what libpq has buffered; reads meanwhile, so that two full sockets cannot block each other."""
    while pgconn.flush():
        if (yield Wait.READ | Wait.WRITE) & Wait.READ:
            pgconn.consume_input()


def fetch(pgconn: PGconn) -> Conversation[PGresult | None]:
    """The next result of the command that runs; None after its last."""
    while pgconn.is_busy():
        yield Wait.READ
        pgconn.consume_input()
    return pgconn.get_result()


def send(pgconn: PGconn, query: str, *, doing: str) -> Conversation[None]:
    """Send one command by the simple protocol, the only one that a walsender understands."""
    try:
        pgconn.send_query(query.encode("utf-8", "surrogateescape"))
        yield from flush(pgconn)
    except psycopg.Error as error:
        raise lost(pgconn, error, doing=doing) from error


def next_result(pgconn: PGconn, *, doing: str) -> Conversation[PGresult | None]:
    """`fetch`, with a lost connection as our error. A failed result is returned: the caller judges it."""
    try:
        return (yield from fetch(pgconn))
    except psycopg.Error as error:
        raise lost(pgconn, error, doing=doing) from error


def command(pgconn: PGconn, query: str, *, doing: str, wal: bool = False) -> Conversation[list[PGresult]]:
    """Run `query` by the simple protocol: its results up to the last, or up to one that starts COPY."""
    yield from send(pgconn, query, doing=doing)
    results: list[PGresult] = []
    failed: ReplicatorError | None = None
    try:
        while (result := (yield from fetch(pgconn))) is not None:
            if result.status in FAILED:
                failed = failed or failure_of(result, doing=doing, wal=wal)
                continue  # to the last result: only then is the connection free for another command
            results.append(result)
            if result.status in COPYING:
                break
    except psycopg.Error as error:
        raise failed or lost(pgconn, error, doing=doing, wal=wal) from error
    if failed is not None:
        raise failed
    return results


def read_copy(pgconn: PGconn, most: int) -> Conversation[tuple[list[memoryview], bool]]:
    """COPY messages: waits for the first, then takes what is there without waiting, up to about `most` bytes.

    The flag says that the server ended the COPY: nothing more comes, the results do. Raises psycopg.Error.
    """
    found: list[memoryview] = []
    size = 0
    consumed = False
    while size < most:
        count, data = pgconn.get_copy_data(1)
        if count > 0:
            found.append(data)
            size += count
            consumed = False
        elif count < 0:
            return found, True
        elif not consumed:
            try:
                pgconn.consume_input()  # also when nothing is ready: TLS may hold bytes that no poll shows
            except psycopg.Error:
                if not found:
                    raise
                break  # what a dying server sent last is worth keeping; the next call fails
            consumed = True
        elif not found:
            yield Wait.READ
            consumed = False
        elif (yield _LOOK) & Wait.READ:
            consumed = False
        else:
            break
    return found, False


def wal_messages(found: list[memoryview]) -> list[messages.XLogData | messages.PrimaryKeepalive]:
    """The messages of one batch."""
    return [messages.parse(message) for message in found]


def end_of_wal(pgconn: PGconn, *, doing: str) -> Conversation[TimelineEnded | None]:
    """After the server's CopyDone: answer it, read what follows (trap 9). None: it ended without a next timeline."""
    ended: TimelineEnded | None = None
    failed: ReplicatorError | None = None
    try:
        while (result := (yield from fetch(pgconn))) is not None:
            if result.status in FAILED:
                failed = failed or failure_of(result, doing=doing, wal=True)
            elif result.status == ExecStatus.COPY_IN:
                pgconn.put_copy_end()
                yield from flush(pgconn)
            elif result.status == ExecStatus.TUPLES_OK:
                ended = timeline_ended(result)
    except psycopg.Error as error:
        raise failed or lost(pgconn, error, doing=doing, wal=True) from error
    if failed is not None:
        raise failed
    return ended


def timeline_ended(result: PGresult) -> TimelineEnded:
    """The row (next_tli, next_tli_startpos). Raises ProtocolViolation."""
    try:
        return TimelineEnded(int(text(result.get_value(0, 0))), Lsn.parse(text(result.get_value(0, 1))))
    except (ValueError, UsageError) as error:
        raise ProtocolViolation("the server's row about the next timeline cannot be read") from error
