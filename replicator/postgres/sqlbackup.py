"""A base backup by SQL functions: the server is told that it begins and ends, the files are read by someone else.

Owns the session that must live from start to stop: PostgreSQL 15 renamed the functions, and ends the backup when the
session ends. Writes nothing into the data directory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import TracebackType

from replicator.core.lsn import Lsn
from replicator.errors import ProtocolViolation, SourceUnavailable
from replicator.postgres.query import SqlConnection

_START_LINE = re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE)
_TIMELINE_LINE = re.compile(rb"^START TIMELINE: (\d+)$", re.MULTILINE)

# As bytes in the database's own encoding, which is what the server itself would write.
_STOP = (
    "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()::name),"
    " convert_to(coalesce(spcmapfile, ''), getdatabaseencoding()::name) FROM pg_backup_stop(false)"
)
_STOP_BEFORE_15 = _STOP.replace("pg_backup_stop(false)", "pg_stop_backup(false, false)")


@dataclass(frozen=True, slots=True)
class BackupEnd:
    """What the server says at the end: its label and its map of tablespaces, byte for byte."""

    stop_lsn: Lsn
    timeline: int
    label: bytes
    tablespace_map: bytes


def functions(server_version: int) -> tuple[str, str]:
    """The functions that start and stop, with their arguments, as GRANT and has_function_privilege name them."""
    if server_version >= 150000:
        return "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
    return "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"


class SqlBackup:
    """A backup that runs until `stop`; leaving it early ends the session and with it the backup.

    The start waits for a checkpoint, up to `checkpoint_wait` seconds. Raises by SQLSTATE.
    """

    def __init__(
        self, sql: SqlConnection, *, label: str, checkpoint: str = "fast", checkpoint_wait: float = 3700.0,
        silence: float = 120.0,
    ) -> None:  # fmt: skip
        self._sql = sql
        self._modern = sql.server_version >= 150000
        if sql.server_version >= 140000:
            sql.execute("SELECT set_config('idle_session_timeout', '0', false)")
        call = "pg_backup_start(%s, %s)" if self._modern else "pg_start_backup(%s, %s, false)"
        sql.allow(checkpoint_wait)
        rows = sql.execute(f"SELECT {call}::text", (label, checkpoint == "fast"))
        self.start_lsn = Lsn.parse(rows[0][0])
        sql.allow(silence)

    def __enter__(self) -> SqlBackup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sql.close()

    def alive(self) -> None:
        """Raise SourceUnavailable when the session is gone, and the backup with it."""
        self._sql.execute("SELECT 1")

    def stop(self) -> BackupEnd:
        """End the backup, without waiting for any archiving. Raises ProtocolViolation when its label isn't there,
        SourceUnavailable when the server, a standby, followed its primary to another timeline meanwhile.
        """
        query = _STOP if self._modern else _STOP_BEFORE_15
        lsn, label, spaces = self._sql.execute(query)[0]
        started, timeline = _START_LINE.search(label or b""), _TIMELINE_LINE.search(label or b"")
        if started is None or timeline is None or Lsn.parse(started[1].decode("ascii")) != self.start_lsn:
            raise ProtocolViolation("the server's backup label is not that of the backup that was started")
        # The label has the timeline of the start alone; of a primary, which can't change it, this is 0.
        ((reached,),) = self._sql.execute("SELECT min_recovery_end_timeline FROM pg_control_recovery()")
        if reached not in (0, int(timeline[1])):
            raise SourceUnavailable(
                f"the server changed from timeline {int(timeline[1])} to {reached} during the backup",
                hint="Take the snapshot again.",
            )
        return BackupEnd(Lsn.parse(lsn), int(timeline[1]), bytes(label), bytes(spaces))
