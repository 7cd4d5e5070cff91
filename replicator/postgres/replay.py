"""Holding a standby's replay at one position, and letting it go on.

Owns the SQL for it, before and since PostgreSQL 14. It waits for nothing.
"""

from __future__ import annotations

from replicator.core.lsn import Lsn
from replicator.postgres.query import SqlConnection

#: What lets it go on: also for psql.
RESUME = "SELECT pg_wal_replay_resume()"


def may_pause(connection: SqlConnection) -> bool:
    """Whether the session's user may pause and resume."""
    rows = connection.execute(
        "SELECT bool_and(has_function_privilege(name, 'EXECUTE'))"
        " FROM unnest('{pg_wal_replay_pause(),pg_wal_replay_resume()}'::text[]) name"
    )
    return bool(rows[0][0])


def pause(connection: SqlConnection) -> None:
    """Ask replay to pause; it does so after the record at hand. Raises SourceRefused without the right to."""
    connection.execute("SELECT pg_wal_replay_pause()")


def is_paused(connection: SqlConnection) -> bool:
    """Whether replay stands still."""
    if connection.server_version >= 140000:
        return bool(connection.execute("SELECT pg_get_wal_replay_pause_state() = 'paused'")[0][0])
    return bool(connection.execute("SELECT pg_is_wal_replay_paused()")[0][0])


def is_asked_to_pause(connection: SqlConnection) -> bool:
    """Whether somebody paused it, or is about to."""
    return bool(connection.execute("SELECT pg_is_wal_replay_paused()")[0][0])


def replayed(connection: SqlConnection) -> Lsn | None:
    """The end of the last record replayed; None before the first."""
    found = connection.execute("SELECT pg_last_wal_replay_lsn()::text")[0][0]
    return Lsn.parse(found) if found else None


def resume(connection: SqlConnection) -> None:
    """Let replay go on; well when it does."""
    connection.execute(RESUME)
