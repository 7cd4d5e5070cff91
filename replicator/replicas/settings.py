"""What a replica's server is told: one block at the end of postgresql.auto.conf. Pure text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from replicator.restore.settings import AT_LEAST, quote

_BEGIN, _END = "# replicator replica: begin", "# replicator replica: end"
_TARGETS = (
    "recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """All that decides the text. `primary` and `snapshot` are settings there; `overrides` win over the tree's files."""

    primary_conninfo: str
    slot: str
    restore_command: str
    port: int
    listen: str
    sockets: Path
    server_version: int
    primary: Mapping[str, str]
    snapshot: Mapping[str, str]
    overrides: Mapping[str, str] = field(default_factory=dict)


def at_least(primary: Mapping[str, str], snapshot: Mapping[str, str]) -> dict[str, int]:
    """What a standby needs at least as high as its primary has it now and had it at the snapshot: else replay stops."""
    held = {name: [int(source[name]) for source in (primary, snapshot) if name in source] for name in AT_LEAST}
    return {name: max(values) for name, values in held.items() if values}


def append(auto_conf: str, settings: ReplicaSettings) -> str:
    """postgresql.auto.conf with the block at its end, where it wins."""
    text = auto_conf + ("" if not auto_conf or auto_conf.endswith("\n") else "\n")
    return text + "\n".join([_BEGIN, *_lines(settings), _END, ""])


def _lines(settings: ReplicaSettings) -> list[str]:
    lines = [
        f"primary_conninfo = {quote(settings.primary_conninfo)}",
        f"primary_slot_name = {quote(settings.slot)}",
        f"restore_command = {quote(settings.restore_command)}",
        "recovery_target_timeline = 'latest'",
        "recovery_end_command = ''",
        "archive_cleanup_command = ''",
        "recovery_min_apply_delay = 0",
        "hot_standby = on",
        "archive_mode = off",
        "archive_command = ''",
        "synchronous_standby_names = ''",
        f"port = {settings.port}",
        f"listen_addresses = {quote(settings.listen)}",
        f"unix_socket_directories = {quote(str(settings.sockets))}",
        *(f"{name} = ''" for name in _TARGETS),
        *(f"{name} = {value}" for name, value in at_least(settings.primary, settings.snapshot).items()),
        *(f"{name} = {quote(value)}" for name, value in settings.overrides.items()),
    ]
    if settings.server_version >= 150000:  # a standby panics at a tablespace inside its data directory without the last
        lines += ["archive_library = ''", "allow_in_place_tablespaces = on"]
    return lines
