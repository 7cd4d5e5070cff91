"""A replication connection to one server: its commands, short of the two that stream.

Not thread-safe: one owner at a time. Streaming is `walreceive.WalStream` and `basebackup.base_backup` over this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from threading import Event
from types import TracebackType

import psycopg
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from replicator.core.lsn import Lsn, valid_segment_size
from replicator.errors import Interrupted, NotFound, ProtocolViolation, SourceUnavailable, UsageError, WalRemoved
from replicator.postgres import conversation
from replicator.postgres.connect import connect
from replicator.postgres.conninfo import Target, targets_of
from replicator.postgres.conversation import text
from replicator.postgres.hosts import in_order
from replicator.postgres.waiting import Conversation, T, drive

_SLOT_NAME = re.compile(r"[a-z0-9_]{1,63}\Z")
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,126}\Z")
_SIZE = re.compile(r"(\d+)(B|kB|MB|GB)?\Z")
_UNITS = {None: 1, "B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30}


@dataclass(frozen=True, slots=True)
class Identity:
    """What IDENTIFY_SYSTEM says: `lsn` is the server's flushed WAL end."""

    system_id: int
    timeline: int
    lsn: Lsn
    dbname: str | None


@dataclass(frozen=True, slots=True)
class SlotState:
    """A physical slot. Both are None while it reserves nothing; the timeline also on servers before 15."""

    restart_lsn: Lsn | None
    restart_timeline: int | None


def check_slot_name(name: str) -> str:
    """`name` if PostgreSQL allows it for a slot; raises UsageError."""
    if not _SLOT_NAME.match(name):
        raise UsageError(f"{name!r} is not a slot name", hint="Use lower-case letters, digits and underscores only.")
    return name


class ReplicationConnection:
    """Open one with `connect`; close it, or use it in a with statement."""

    def __init__(self, pgconn: PGconn, target: Target, *, request_timeout: float, stop: Event | None = None) -> None:
        self.pgconn = pgconn
        self.host = target.label
        self.server_version: int = pgconn.server_version
        self._target = target
        self.request_timeout = request_timeout
        self._stop = stop

    @classmethod
    def connect(
        cls,
        conninfo: str,
        password: bytes | None,
        *,
        application_name: str,
        connect_timeout: float,
        replication: str = "true",
        request_timeout: float = 30.0,
        first: str | None = None,
        stop: Event | None = None,
    ) -> ReplicationConnection:
        """Connect to the first primary among conninfo's hosts (any server where conninfo sets target_session_attrs
        otherwise); `first` is the label of the one to begin with. Seconds: `connect_timeout` per host,
        `request_timeout` per answer of a command.

        Raises UsageError, SourceRefused, SourceUnavailable; Interrupted when `stop` is set.
        """
        targets = targets_of(conninfo, password, application_name=application_name, replication=replication)
        pgconn, target = connect(in_order(targets, first), connect_timeout=connect_timeout, stop=stop)
        return cls(pgconn, target, request_timeout=request_timeout, stop=stop)

    def __enter__(self) -> ReplicationConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, closed by us or lost."""
        return self.pgconn.status != ConnStatus.OK

    def close(self) -> None:
        """Close without waiting for the server; closing twice is well."""
        self.pgconn.finish()

    def check_stop(self, doing: str) -> None:
        """Raise Interrupted when the stop flag given to `connect` is set."""
        if self._stop is not None and self._stop.is_set():
            raise Interrupted(f"{doing}: stopped")

    def run(self, steps: Conversation[T], *, doing: str, seconds: float | None = None) -> T:
        """Drive protocol steps on this connection; `seconds` of silence allowed, by default the request timeout."""
        limit = self.request_timeout if seconds is None else seconds
        try:
            socket = self.pgconn.socket
        except psycopg.Error as error:
            raise SourceUnavailable(f"{doing}: the connection is gone", sqlstate=None) from error
        return drive(steps, socket, limit, doing=doing, stop=self._stop)

    def execute(self, command: str, *, doing: str, wal: bool = False, seconds: float | None = None) -> list[PGresult]:
        """Run one command by the simple protocol: its results. Raises by SQLSTATE (`wal`: 58P01 is WalRemoved)."""
        steps = conversation.command(self.pgconn, command, doing=doing, wal=wal)
        return self.run(steps, doing=doing, seconds=seconds)

    def _row(self, command: str, *, doing: str, columns: int) -> list[bytes | None]:
        for result in self.execute(command, doing=doing):
            if result.status == ExecStatus.TUPLES_OK and result.ntuples == 1 and result.nfields >= columns:
                return [result.get_value(0, column) for column in range(result.nfields)]
        raise ProtocolViolation(f"{doing}: the server's answer is not one row of {columns} columns")

    def identify(self) -> Identity:
        """IDENTIFY_SYSTEM."""
        row = self._row("IDENTIFY_SYSTEM", doing="identifying the source", columns=4)
        return Identity(int(text(row[0])), int(text(row[1])), Lsn.parse(text(row[2])), text(row[3]) or None)

    def show(self, name: str) -> str:
        """A setting's value as SHOW prints it."""
        if not _SETTING_NAME.match(name):
            raise UsageError(f"{name!r} is not the name of a setting")
        return text(self._row(f"SHOW {name}", doing=f"reading {name}", columns=1)[0])

    @property
    def wal_segment_size(self) -> int:
        """Bytes per WAL segment, as the server was made."""
        match = _SIZE.match(self.show("wal_segment_size"))
        size = int(match[1]) * _UNITS[match[2]] if match else 0
        if not valid_segment_size(size):
            raise ProtocolViolation("the server's wal_segment_size cannot be read")
        return size

    def read_slot(self, name: str) -> SlotState | None:
        """The physical slot `name`, or None when there is none. Raises UsageError when it is a logical one."""
        check_slot_name(name)
        doing = f"reading slot {name}"
        if self.server_version >= 150000:
            row = self._row(f"READ_REPLICATION_SLOT {name}", doing=doing, columns=3)
        else:
            row = self._read_slot_by_sql(name, doing)
        if row[0] is None:
            return None
        if row[0] != b"physical":
            raise UsageError(f"slot {name} is a {text(row[0])} slot", hint="Name a physical slot in [source].")
        return SlotState(Lsn.parse(text(row[1])) if row[1] else None, int(text(row[2])) if row[2] else None)

    def _read_slot_by_sql(self, name: str, doing: str) -> list[bytes | None]:
        """Servers before 15 tell it in SQL only, which a connection with replication=database understands."""
        given = {**self._target.parameters, "replication": "database"}
        if given.get("dbname") == "replication":
            given["dbname"] = "postgres"
        target = Target(self._target.label, wants_primary=False, parameters=given)
        pgconn, _ = connect((target,), connect_timeout=self.request_timeout, stop=self._stop)
        with ReplicationConnection(pgconn, target, request_timeout=self.request_timeout, stop=self._stop) as second:
            query = f"SELECT slot_type, restart_lsn, NULL FROM pg_replication_slots WHERE slot_name = '{name}'"  # noqa: S608
            results = second.execute(query, doing=doing)
            if results and results[0].ntuples == 1:
                return [results[0].get_value(0, column) for column in range(3)]
        return [None, None, None]

    def create_slot(self, name: str) -> None:
        """Create a physical slot that keeps WAL from now on. Raises AlreadyExists when one of that name is there."""
        check_slot_name(name)
        self.execute(f"CREATE_REPLICATION_SLOT {name} PHYSICAL RESERVE_WAL", doing=f"creating slot {name}")

    def drop_slot(self, name: str, *, wait: bool = False) -> None:
        """Drop the slot. Raises SlotBusy while a connection holds it (`wait`: it is waited for as long as for any
        answer), SourceRefused when there is none.
        """
        check_slot_name(name)
        self.execute(f"DROP_REPLICATION_SLOT {name}{' WAIT' if wait else ''}", doing=f"dropping slot {name}")

    def timeline_history(self, timeline: int) -> tuple[str, bytes]:
        """File name and content of a timeline's history. Raises NotFound when the server has none (timeline 1)."""
        doing = f"reading the history of timeline {timeline}"
        try:
            results = self.execute(f"TIMELINE_HISTORY {int(timeline)}", doing=doing, wal=True)
        except WalRemoved as error:  # the code of any file that is not there
            raise NotFound(f"the server has no history of timeline {timeline}", timeline=timeline) from error
        name = results[0].get_value(0, 0) if results and results[0].ntuples == 1 and results[0].nfields == 2 else None
        if text(name) != f"{timeline:08X}.history":
            raise ProtocolViolation(f"{doing}: the server's answer is not that history")
        return text(name), results[0].get_value(0, 1) or b""
