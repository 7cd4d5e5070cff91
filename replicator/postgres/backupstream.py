"""The wire of a base backup: one COPY with typed messages since PostgreSQL 15, one COPY per archive before.

Both become the same events: an archive begins, data, the manifest begins. Holds one batch of messages at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import psycopg
from psycopg.pq import ExecStatus

from replicator.errors import ProtocolViolation
from replicator.postgres import conversation
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import FAILED
from replicator.postgres.messages import (
    ArchiveData,
    BackupMessage,
    ManifestStart,
    NewArchive,
    ProgressReport,
    parse_backup,
)

_BATCH = 2**20
_DOING = "taking a base backup"


class BackupEvents:
    """`parts` yields what begins; after each take `data` to its end. `done_bytes` is what the server says it has sent
    (15 and later) or what came.
    """

    def __init__(
        self, connection: ReplicationConnection, oids: Sequence[int | None], *, manifest: bool, silence: float
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._oids = list(oids)
        self._manifest = manifest
        self._silence = silence
        self._waiting: deque[BackupMessage] = deque()
        self._stream = self._one_copy() if connection.server_version >= 150000 else self._many_copies()
        self.done_bytes = 0

    def archive_oid(self, archive: NewArchive) -> int | None:
        """The tablespace of an archive, None for the base directory. Raises ProtocolViolation for an unknown one."""
        stem = archive.name.removesuffix(".tar")
        oid = None if stem == "base" else int(stem) if stem.isascii() and stem.isdigit() else -1
        if oid not in self._oids:
            raise ProtocolViolation(f"{_DOING}: an archive of no tablespace, {archive.name!r}")
        return oid

    def parts(self) -> Iterator[NewArchive | ManifestStart]:
        """What begins, in order. Data left over from the part before is skipped."""
        while (event := self._next()) is not None:
            if isinstance(event, NewArchive | ManifestStart):
                yield event

    def data(self) -> Iterator[memoryview]:
        """The data of the part that has begun, up to the next part or the end."""
        while (event := self._next()) is not None:
            if isinstance(event, ArchiveData):
                yield event.data
            else:
                self._waiting.appendleft(event)
                return

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

    def _many_copies(self) -> Iterator[BackupMessage]:
        """Archives in the order of the tablespace rows, then the manifest, each a COPY of bare bytes."""
        for oid in self._oids:
            self._next_copy()
            yield NewArchive("base.tar" if oid is None else f"{oid}.tar", "")
            yield from self._bare_copy()
        if self._manifest:
            self._next_copy()
            yield ManifestStart()
            yield from self._bare_copy()

    def _bare_copy(self) -> Iterator[BackupMessage]:
        for view in self._copy():
            self.done_bytes += len(view)
            yield ArchiveData(view)

    def _next_copy(self) -> None:
        steps = conversation.next_result(self._pgconn, doing=_DOING)
        result = self._connection.run(steps, doing=_DOING, seconds=self._silence)
        if result is not None and result.status in FAILED:
            raise conversation.failure_of(result, doing=_DOING)
        if result is None or result.status != ExecStatus.COPY_OUT:
            raise ProtocolViolation(f"{_DOING}: the server sends fewer archives than it said")

    def _copy(self) -> Iterator[memoryview]:
        while True:
            steps = conversation.read_copy(self._pgconn, _BATCH)
            try:
                found, ended = self._connection.run(steps, doing=_DOING, seconds=self._silence)
            except psycopg.Error as error:
                raise conversation.lost(self._pgconn, error, doing=_DOING) from error
            yield from found
            if ended:
                return
