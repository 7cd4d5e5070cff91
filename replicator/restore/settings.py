"""What a restored cluster is told: recovery settings, and configuration files where the tree has none. Pure text.

Owns two blocks at the end of postgresql.auto.conf. One detaches the cluster from its source for good: it never
archives or streams into the source's repository. The other is for this recovery alone and is taken out afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.core.moment import to_microseconds
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import UsageError

_BEGIN, _END = "# replicator {}: begin", "# replicator {}: end"
_DETACHED, _RECOVERY = "detached from its source", "recovery"
#: What a replica that the snapshot was read from is told.
_REPLICA = "replica"
#: A recovering server needs these at least as high as its source had them (trap 45).
AT_LEAST = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)
_TARGETS = {
    TargetKind.IMMEDIATE: "recovery_target",
    TargetKind.TIME: "recovery_target_time",
    TargetKind.LSN: "recovery_target_lsn",
    TargetKind.XID: "recovery_target_xid",
    TargetKind.NAME: "recovery_target_name",
}


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """All that decides the text. `restore_command` and `end_command` as PostgreSQL's shell gets them, % not doubled."""

    stop: RecoveryTarget
    timeline: int
    action: str
    restore_command: str
    end_command: str
    server_version: int
    source: Mapping[str, str]


def quote(value: str) -> str:
    """A value in postgresql.conf. Raises UsageError for a line end, which no setting can hold."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise UsageError(f"{value!r} can not stand in postgresql.conf", hint="Use a name without line ends.")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def shell_quote(path: str) -> str:
    """A path within restore_command: one word for the shell, its % doubled for PostgreSQL."""
    return "'" + path.replace("'", "'\\''").replace("%", "%%") + "'"


def _target_value(stop: RecoveryTarget) -> str:
    if stop.kind is TargetKind.TIME and stop.time is not None:
        seconds, rest = divmod(to_microseconds(stop.time), 1_000_000)
        return f"{stop.time.strftime('%Y-%m-%d %H:%M:%S')}.{rest:06d}+00" if seconds else ""
    values = {
        TargetKind.IMMEDIATE: "immediate",
        TargetKind.LSN: str(stop.lsn),
        TargetKind.XID: str(stop.xid),
        TargetKind.NAME: stop.name or "",
    }
    return values[stop.kind]


def detached_lines(settings: RecoverySettings) -> list[str]:
    """The lines that stay: a restored cluster never archives or streams where its source does (trap 47)."""
    lines = [
        "archive_mode = off",
        "archive_command = ''",
        "primary_conninfo = ''",
        "primary_slot_name = ''",
        "synchronous_standby_names = ''",
    ]
    if settings.server_version >= 150000:
        lines.append("archive_library = ''")
    return lines


def recovery_lines(settings: RecoverySettings) -> list[str]:
    """The lines for this recovery. Every kind of target is named: the tree may bring stale ones."""
    stop = settings.stop
    chosen = _TARGETS.get(stop.kind)
    lines = [
        f"restore_command = {quote(settings.restore_command)}",
        f"recovery_end_command = {quote(settings.end_command)}",
        "archive_cleanup_command = ''",
        "recovery_min_apply_delay = 0",
        f"hot_standby = {'on' if settings.action == 'pause' else 'off'}",
        f"recovery_target_timeline = '{settings.timeline}'",
        f"recovery_target_inclusive = {'on' if stop.inclusive else 'off'}",
        f"recovery_target_action = '{settings.action if chosen else 'promote'}'",
        *(f"{name} = {quote(settings.source[name])}" for name in AT_LEAST if name in settings.source),
        *(f"{name} = ''" for name in _TARGETS.values() if name != chosen),
    ]
    if settings.server_version >= 150000:  # else the server panics at the first that lies inside the data directory
        lines.append("allow_in_place_tablespaces = on")
    if chosen is not None:
        lines.append(f"{chosen} = {quote(_target_value(stop))}")
    return lines


def append(auto_conf: str, settings: RecoverySettings) -> str:
    """postgresql.auto.conf with both blocks at its end; earlier ones of ours are taken out."""
    text = _without(_without(_without(auto_conf, _DETACHED), _RECOVERY), _REPLICA)
    text += "" if not text or text.endswith("\n") else "\n"
    return text + _block(_DETACHED, detached_lines(settings)) + _block(_RECOVERY, recovery_lines(settings))


def after_recovery(auto_conf: str) -> str:
    """postgresql.auto.conf without the recovery block: a stale target would surprise the next crash start (trap 40)."""
    return _without(auto_conf, _RECOVERY)


def _block(name: str, lines: Iterable[str]) -> str:
    return "\n".join([_BEGIN.format(name), *lines, _END.format(name), ""])


def _without(text: str, name: str) -> str:
    kept: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line.strip() == _BEGIN.format(name):
            inside = True
        if not inside:
            kept.append(line)
        if line.strip() == _END.format(name):
            inside = False
    return "".join(kept)


def minimal_files(source: Mapping[str, str]) -> dict[str, str]:
    """Configuration for a tree that has none (Debian keeps it in /etc). Access is safe, not generous: the owner over
    the local socket, everybody else on this host by password.
    """
    note = "# Written by replicator: the snapshot had none. Replace it with the source's own.\n"
    lines = [f"{name} = {quote(source[name])}\n" for name in AT_LEAST if name in source]
    return {
        "postgresql.conf": note + "listen_addresses = 'localhost'\n" + "".join(lines),
        "pg_hba.conf": note
        + "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n",
        "pg_ident.conf": note,
    }
