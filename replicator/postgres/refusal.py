"""Why a server refused a connection: its SQLSTATE, which libpq does not keep but shows in its protocol trace.

A refused attempt is made once more with the trace on, into anonymous memory that dies with the attempt: a trace may
hold a password and never reaches a file. psycopg cannot give back what a trace allocates (about 4 KiB), so the answer
is kept for half a minute, and attempts that succeed or reach no server are never traced.
Where libpq is too old to trace this, a refusal after the server asked for a password counts as one of the password.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from threading import Lock

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn

from replicator.errors import ReplicatorError, SourceUnavailable
from replicator.postgres.conninfo import Target
from replicator.postgres.sqlstate import error_of
from replicator.postgres.words import libpq_words

_ERROR_RESPONSE = re.compile(rb'^B\t\d+\tErrorResponse\t[^\n]*? C "([0-9A-Z]{5})"', re.MULTILINE)
_PASSWORD = "28P01"  # noqa: S105 (an SQLSTATE)
_KEPT_SECONDS = 30.0
#: libpq 17 is the first to trace the messages before a connection is open.
_CAN_TRACE = pq.version() >= 170000 and hasattr(os, "memfd_create")
_Key = tuple[str | None, ...]
_answers: dict[_Key, tuple[float, str | None]] = {}
_lock = Lock()


def _key(target: Target) -> _Key:
    return (target.label, *(target.parameters.get(name) for name in ("user", "dbname", "replication")))


def worth_asking(target: Target, pgconn: PGconn) -> bool:
    """Whether a second, traced attempt can tell more than we know. Not where we had no password to give."""
    if not _CAN_TRACE or pgconn.needs_password:
        return False
    with _lock:
        known = _answers.get(_key(target))
    return known is None or time.monotonic() - known[0] > _KEPT_SECONDS


def remember(target: Target, sqlstate: str | None) -> None:
    """Keep what a traced attempt told."""
    with _lock:
        _answers[_key(target)] = (time.monotonic(), sqlstate)


def words(pgconn: PGconn) -> str:
    """libpq's message about a failed attempt, on one line, without the address that ours names already."""
    return libpq_words(pgconn.get_error_message())


def error_for(target: Target, pgconn: PGconn, doing: str) -> ReplicatorError:
    """The error of a refused attempt, by the SQLSTATE that is known."""
    message = words(pgconn)
    if pgconn.needs_password:
        return error_of(_PASSWORD, "the server asks for a password and none was given", doing=doing)
    with _lock:
        _, sqlstate = _answers.get(_key(target), (0.0, None))
    if sqlstate is None and not _CAN_TRACE and pgconn.used_password:
        sqlstate = _PASSWORD
    if sqlstate is None:
        return SourceUnavailable(f"{doing}: {message}", sqlstate=None)
    return error_of(sqlstate, message, doing=doing)


class Trace:
    """libpq's protocol trace of one attempt, in anonymous memory."""

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._memory = os.memfd_create("replicator-connect", os.MFD_CLOEXEC)

    def __enter__(self) -> Trace:
        with suppress(psycopg.NotSupportedError):
            self._pgconn.trace(self._memory)
            self._pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        os.close(self._memory)

    def _end(self) -> None:
        with suppress(psycopg.NotSupportedError):
            self._pgconn.untrace()

    def answer(self) -> str | None:
        """The SQLSTATE of the last ErrorResponse, if there was one."""
        self._end()  # which also writes what libpq still buffers
        found = _ERROR_RESPONSE.findall(os.pread(self._memory, 65536, 0))
        return found[-1].decode("ascii") if found else None
