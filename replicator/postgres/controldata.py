"""What pg_control says of a data directory, read with pg_controldata of the right major version.

Read-only. Of the file itself only its first field is ever read here: the system identifier, which is there in every
version.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from replicator.core.lsn import Lsn
from replicator.errors import HostLacks, ReplicatorError, UsageError
from replicator.postgres.binaries import Binaries, run

_SETTINGS = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}


@dataclass(frozen=True, slots=True)
class ControlData:
    """The facts that recovery needs. `state` is pg_controldata's, in English, for example "in production";
    `settings` are those that a recovering server needs at least as high (trap 45).
    """

    system_id: int
    state: str
    timeline: int
    checkpoint: Lsn
    redo: Lsn
    minimum_recovery_end: Lsn
    segment_size: int
    checksums: bool
    settings: Mapping[str, int]


def parse_controldata(output: str) -> ControlData:
    """Read pg_controldata's output (LC_ALL=C). Raises HostLacks when a line is missing."""
    lines = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in output.splitlines())}
    try:
        return ControlData(
            system_id=int(lines["Database system identifier"]),
            state=lines["Database cluster state"],
            timeline=int(lines["Latest checkpoint's TimeLineID"]),
            checkpoint=Lsn.parse(lines["Latest checkpoint location"]),
            redo=Lsn.parse(lines["Latest checkpoint's REDO location"]),
            minimum_recovery_end=Lsn.parse(lines["Minimum recovery ending location"]),
            segment_size=int(lines["Bytes per WAL segment"]),
            checksums=lines["Data page checksum version"] != "0",
            settings={ours: int(lines[theirs]) for theirs, ours in _SETTINGS.items()},
        )
    except (KeyError, ValueError, UsageError) as error:
        raise HostLacks("pg_controldata's output cannot be read", hint="Check the version of the programs.") from error


def read_controldata(binaries: Binaries, data_directory: Path, *, owner: str | None = None) -> ControlData:
    """Run pg_controldata on a data directory. Raises HostLacks when it fails."""
    done = run([str(binaries.program("pg_controldata")), "-D", str(data_directory)], timeout=30, owner=owner)
    if done.returncode != 0:
        raise _failed(done.stderr, data_directory)
    return parse_controldata(done.stdout)


def system_id_of(data_directory: Path) -> int | None:
    """The system identifier of a data directory on this host, without any program; None where there is none."""
    try:
        with (data_directory / "global/pg_control").open("rb") as file:
            field = file.read(8)
    except OSError:
        return None
    return int.from_bytes(field, sys.byteorder) if len(field) == 8 else None


def _failed(told: str, data_directory: Path) -> ReplicatorError:
    last = told.strip().splitlines()[-1] if told.strip() else "it says nothing"
    return HostLacks(f"pg_controldata cannot read {data_directory}: {last}")
