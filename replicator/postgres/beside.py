"""Whether a data directory on this host is that of the server that answers, and may be backed up by reading it.

Reads only. A standby, a copy or an old directory of the same cluster has the same system identifier, so it takes a
proof: the server exports a snapshot, which is a small file in the data directory for as long as the transaction lasts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import HostLacks
from replicator.postgres.datadir import CONTROL_FILE
from replicator.postgres.query import SqlConnection
from replicator.postgres.sqlbackup import functions

#: System identifier, version of pg_control, version of the catalog: at the start of pg_control in every version.
_CONTROL = struct.Struct("<QII")
_ELSEWHERE = "Correct `data_directory` in the policy's [source], or take it out: snapshots then come over the network."


class NotBeside(HostLacks):
    """The data directory can't be read as the server's own: a snapshot comes over the network instead."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A data directory that is the server's own. `version` is the name of its directory in each tablespace."""

    directory: Path
    version: str


def confirm_beside(sql: SqlConnection, directory: Path) -> Beside:
    """The directory, proven to be that of the server behind `sql`. Raises NotBeside, SourceUnavailable."""
    system_id, catalog = _control(directory)
    theirs = sql.system_id()
    if system_id != theirs:
        raise NotBeside(f"{directory} is of cluster {system_id}, the server of cluster {theirs}", hint=_ELSEWHERE)
    _prove(sql, directory)
    _may_backup(sql)
    major = sql.server_version // 10000
    return Beside(directory, f"PG_{major}_{catalog}")


def _control(directory: Path) -> tuple[int, int]:
    try:
        system_id, _, catalog = _CONTROL.unpack((directory / CONTROL_FILE).read_bytes()[: _CONTROL.size])
        next(iter((directory / "base").iterdir()), None)
    except OSError as error:
        raise NotBeside(
            f"{directory} can not be read as a data directory: {(error.strerror or 'unknown reason').lower()}",
            hint=f"Run the daemon on the server's host as the server's user. {_ELSEWHERE}",
        ) from error
    except struct.error as error:
        raise NotBeside(f"{directory}/{CONTROL_FILE} is too short", hint=_ELSEWHERE) from error
    return system_id, catalog


def _prove(sql: SqlConnection, directory: Path) -> None:
    sql.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    try:
        ((name, pid),) = sql.execute("SELECT pg_export_snapshot(), pg_backend_pid()")
        if "/" in name or f"pid:{pid}\n" not in _told(directory / "pg_snapshots" / name):
            raise NotBeside(f"{directory} is not the data directory of the server that answers", hint=_ELSEWHERE)
    finally:
        if not sql.closed:
            sql.execute("ROLLBACK")


def _told(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _may_backup(sql: SqlConnection) -> None:
    named = functions(sql.server_version)
    ((start, stop, user),) = sql.execute(
        "SELECT has_function_privilege(%s, 'execute'), has_function_privilege(%s, 'execute'), current_user::text", named
    )
    if not (start and stop):
        raise NotBeside(
            f"user {user} may not call {named[0]} and {named[1]}",
            hint=f"Run in the database that conninfo names: GRANT EXECUTE ON FUNCTION {', '.join(named)} TO {user};",
        )
