"""Plain SQL on a server: settings, the slot's health, privileges, and probes.

Reads only what it is asked; changes nothing by itself. One statement at a time, under a statement timeout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from types import TracebackType
from typing import Any

import psycopg
from psycopg import pq

from replicator.core.lsn import Lsn
from replicator.errors import ReplicatorError, SourceRefused, SourceUnavailable
from replicator.postgres.connect import connect
from replicator.postgres.conninfo import targets_of
from replicator.postgres.hosts import in_order
from replicator.postgres.patient import PatientConnection
from replicator.postgres.sqlstate import error_of


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """A slot in pg_replication_slots. `wal_status`: reserved, extended, unreserved, lost, or None while it reserves
    nothing; `safe_wal_size` in bytes, None without max_slot_wal_keep_size.
    """

    wal_status: str | None
    safe_wal_size: int | None
    active: bool
    restart_lsn: Lsn | None


@dataclass(frozen=True, slots=True)
class Privileges:
    """Of the connected user."""

    user: str
    superuser: bool
    replication: bool


class SqlConnection:
    """One SQL session in autocommit. Close it, or use it in a with statement. A server that falls silent is given up
    `connect_timeout` seconds after it should have given up the statement itself, and the session with it.
    """

    def __init__(
        self,
        conninfo: str,
        password: bytes | None,
        *,
        application_name: str = "replicator",
        connect_timeout: float = 5.0,
        statement_timeout: float = 30.0,
        first: str | None = None,
        stop: Event | None = None,
    ) -> None:
        """Connect as `ReplicationConnection.connect` does; seconds. Raises SourceRefused, SourceUnavailable."""
        targets = targets_of(conninfo, password, application_name=application_name)
        pgconn, target = connect(in_order(targets, first), connect_timeout=connect_timeout, stop=stop)
        self.host = target.label
        self.server_version: int = pgconn.server_version
        self._connection = PatientConnection(pgconn)
        self._connection.patience, self._connection.stop = statement_timeout + connect_timeout, stop
        self._connection.autocommit = True
        self.execute("SELECT set_config('statement_timeout', %s, false)", (f"{round(statement_timeout * 1000)}ms",))

    def __enter__(self) -> SqlConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the session; closing twice is well."""
        self._connection.close()

    def allow(self, seconds: float) -> None:
        """Let each statement from now on take so long."""
        self._connection.patience = seconds + 5.0
        self.execute("SELECT set_config('statement_timeout', %s, false)", (f"{round(seconds * 1000)}ms",))

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement: its rows, or none for a statement without. Raises by SQLSTATE."""
        try:
            cursor = self._connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: psycopg.Error) -> ReplicatorError:
        doing = f"asking {self.host}"
        if error.sqlstate is None:
            return SourceUnavailable(f"{doing}: {' '.join(str(error).split())}", sqlstate=None)
        return error_of(error.sqlstate, error.diag.message_primary or str(error), doing=doing)

    def settings(self, names: Iterable[str]) -> dict[str, str]:
        """The values of `names` as SHOW prints them; a name that the server does not know is absent."""
        rows = self.execute("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)", (list(names),))
        return dict(rows)

    def clock(self) -> datetime:
        """The server's time now, aware."""
        moment: datetime = self.execute("SELECT clock_timestamp()")[0][0]
        return moment

    def is_in_recovery(self) -> bool:
        """Whether the server is a standby or still recovers."""
        return bool(self.execute("SELECT pg_is_in_recovery()")[0][0])

    def wal_end(self) -> Lsn:
        """The server's flushed WAL end, on a standby what it has received or replayed."""
        query = (
            "SELECT CASE WHEN pg_is_in_recovery() THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
            " ELSE pg_current_wal_flush_lsn() END::text"
        )
        return Lsn.parse(self.execute(query)[0][0])

    def slot_state(self, name: str) -> SlotHealth | None:
        """The health of slot `name`, None when there is none."""
        rows = self.execute(
            "SELECT wal_status, safe_wal_size, active, restart_lsn::text FROM pg_replication_slots"
            " WHERE slot_name = %s",
            (name,),
        )
        if not rows:
            return None
        status, safe, active, restart = rows[0]
        return SlotHealth(status, safe, active, Lsn.parse(restart) if restart else None)

    def commits_wait_for(self, slot: str) -> bool:
        """Whether synchronous commits wait, or soon may, for who streams through `slot`; true if unknown."""
        query = (
            "SELECT coalesce(bool_or(coalesce(r.sync_state, '') <> 'async'), true) FROM pg_replication_slots s"
            " JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = %s"
        )
        return bool(self.execute(query, (slot,))[0][0])

    def in_place_tablespaces(self) -> list[str]:
        """The names of tablespaces that lie inside the data directory (PostgreSQL 15 and later)."""
        query = "SELECT spcname::text FROM pg_tablespace WHERE starts_with(pg_tablespace_location(oid), %s) ORDER BY 1"
        return [name for (name,) in self.execute(query, ("pg_tblspc/",))]

    def bytes_in_all(self) -> int:
        """The server's sum of the files of all tablespaces; 0 where the role may not ask."""
        try:
            return int(self.execute("SELECT sum(pg_tablespace_size(oid))::int8 FROM pg_tablespace")[0][0])
        except SourceRefused:
            return 0

    def redo(self) -> Lsn:
        """Where crash recovery would begin: the server needs its WAL from there on, whatever slots say."""
        return Lsn.parse(self.execute("SELECT redo_lsn::text FROM pg_control_checkpoint()")[0][0])

    def system_id(self) -> int:
        """The cluster's system identifier."""
        return int(self.execute("SELECT system_identifier FROM pg_control_system()")[0][0])

    def drop_slot(self, name: str) -> None:
        """Drop a slot. Raises SlotBusy while a connection holds it, SourceRefused when there is none."""
        self.execute("SELECT pg_drop_replication_slot(%s)", (name,))

    def create_slot(self, name: str) -> None:
        """Create a physical slot that keeps WAL from the last checkpoint on. Raises AlreadyExists."""
        self.execute("SELECT pg_create_physical_replication_slot(%s, true)", (name,))

    def privileges(self) -> Privileges:
        """What the connected user may do."""
        rows = self.execute("SELECT rolname, rolsuper, rolreplication FROM pg_roles WHERE rolname = current_user")
        return Privileges(*rows[0])

    def synchronous_standby_names(self) -> str:
        """The setting as written, empty when there is none."""
        return str(self.execute("SELECT current_setting('synchronous_standby_names')")[0][0])

    @property
    def closed(self) -> bool:
        """Whether the session is gone, closed by us or lost."""
        return self._connection.pgconn.status != pq.ConnStatus.OK
