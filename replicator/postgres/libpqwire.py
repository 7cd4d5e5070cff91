"""A base backup read through libpq: one COPY with typed messages since PostgreSQL 15, one COPY per archive before.

Both become the same parts. Holds one batch of messages at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from replicator.errors import ProtocolViolation
from replicator.postgres import conversation
from replicator.postgres.backupwire import DOING, Answer
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import FAILED, text
from replicator.postgres.messages import (
    ArchiveData,
    BackupMessage,
    ManifestStart,
    NewArchive,
    ProgressReport,
    parse_backup,
)

_BATCH = 2**20
_MOST_WARNINGS = 1000


class LibpqWire:
    """As BackupWire says; `silence` is how many seconds may pass between two messages."""

    def __init__(self, connection: ReplicationConnection, silence: float) -> None:
        self.done_bytes = 0
        self.warnings: list[str] = []
        self._connection = connection
        self._pgconn = connection.pgconn
        self._pgconn.notice_handler = self._notice
        self._silence = silence
        self._waiting: deque[BackupMessage] = deque()
        self._stream: Iterator[BackupMessage] = iter(())
        self._data = memoryview(b"")

    def answer(self, seconds: float) -> Answer | None:
        """The next result; None after the last."""
        steps = conversation.next_result(self._pgconn, doing=DOING)
        result = self._connection.run(steps, doing=DOING, seconds=seconds)
        if result is None:
            return None
        if result.status in FAILED:
            return Answer(failure=conversation.failure_of(result, doing=DOING))
        rows = [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]
        return Answer(tuple(map(tuple, rows)), result.status == ExecStatus.COPY_OUT)

    def parts(self, oids: Sequence[int | None], *, manifest: bool) -> Iterator[NewArchive | ManifestStart]:
        """What begins, in order."""
        modern = self._connection.server_version >= 150000
        self._stream = self._one_copy() if modern else self._many_copies(oids, manifest)
        while (event := self._next()) is not None:
            if isinstance(event, NewArchive | ManifestStart):
                self._data = memoryview(b"")
                yield event

    def fill(self, room: memoryview) -> int:
        """The next bytes of the part that has begun."""
        held = 0
        while held < len(room):
            if not self._data:
                event = self._next()
                if not isinstance(event, ArchiveData):
                    if event is not None:
                        self._waiting.appendleft(event)
                    break
                self._data = event.data
                continue
            taken = self._data[: len(room) - held]
            room[held : held + len(taken)] = taken
            self._data = self._data[len(taken) :]
            held += len(taken)
        return held

    def close(self) -> None:
        """Nobody listens to the server's notices any more."""
        self._pgconn.notice_handler = None

    def _next(self) -> BackupMessage | None:
        while True:
            event = self._waiting.popleft() if self._waiting else next(self._stream, None)
            if not isinstance(event, ProgressReport):
                return event
            self.done_bytes = event.done

    def _one_copy(self) -> Iterator[BackupMessage]:
        self._next_copy()
        for view in self._copy():
            yield parse_backup(view)

    def _many_copies(self, oids: Sequence[int | None], manifest: bool) -> Iterator[BackupMessage]:
        """Archives in the order of the tablespace rows, then the manifest, each a COPY of bare bytes."""
        for oid in oids:
            self._next_copy()
            yield NewArchive("base.tar" if oid is None else f"{oid}.tar", "")
            yield from self._bare_copy()
        if manifest:
            self._next_copy()
            yield ManifestStart()
            yield from self._bare_copy()

    def _bare_copy(self) -> Iterator[BackupMessage]:
        for view in self._copy():
            self.done_bytes += len(view)
            yield ArchiveData(view)

    def _next_copy(self) -> None:
        answer = self.answer(self._silence)
        if answer is not None and answer.failure is not None:
            raise answer.failure
        if answer is None or not answer.copying:
            raise ProtocolViolation(f"{DOING}: the server sends fewer archives than it said")

    def _copy(self) -> Iterator[memoryview]:
        while True:
            steps = conversation.read_copy(self._pgconn, _BATCH)
            try:
                found, ended = self._connection.run(steps, doing=DOING, seconds=self._silence)
            except psycopg.Error as error:
                raise conversation.lost(self._pgconn, error, doing=DOING) from error
            yield from found
            if ended:
                return

    def _notice(self, result: PGresult) -> None:
        severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity == b"WARNING" and len(self.warnings) < _MOST_WARNINGS:
            self.warnings.append(text(result.error_field(DiagnosticField.MESSAGE_PRIMARY)))
