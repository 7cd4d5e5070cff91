"""This host: PostgreSQL's programs for restores, and directories with room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from replicator.core.finding import Finding
from replicator.doctor.finding import PROOFS, RESTORES, STREAM, finding_of
from replicator.doctor.subject import Patient
from replicator.errors import BinariesMissing, HostLacks, ReplicatorError
from replicator.policy import format_size
from replicator.postgres.query import SqlConnection
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.manifests import read_summary

_PROGRAMS = ("postgres", "pg_ctl", "pg_controldata", "pg_waldump", "psql")


def check_binaries(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the programs of the server's major version."""
    try:
        binaries = patient.binaries(sql.server_version // 10000)
        for program in _PROGRAMS:
            binaries.program(program)
    except BinariesMissing as error:
        yield finding_of(error, RESTORES)


def check_directories(patient: Patient) -> Iterator[Finding]:
    """Findings about the state directory and the spool."""
    try:
        state = patient.state_directory()
    except HostLacks as error:
        yield finding_of(error, STREAM)
    else:
        yield from _writable(state, "the state directory")
    spool = patient.spool_directory
    yield from _writable(spool, "the spool")
    base = _existing(spool)
    free, limit = shutil.disk_usage(base).free, patient.policy.stream.spool_limit
    if free + _size(spool) < limit:
        yield Finding(
            "little_room",
            f"the spool may grow to {format_size(limit)} and its disk has {format_size(free)} free",
            "Lower [stream] spool_limit, or give the spool a larger disk.",
            STREAM,
        )


def check_scratch(patient: Patient) -> Iterator[Finding]:
    """Findings about the place where drills restore to; none without [verify]."""
    if patient.policy.verify is None:
        return
    scratch = patient.policy.verify.scratch
    yield from _writable(scratch, "the scratch directory", PROOFS)
    needed, free = _newest_size(patient), shutil.disk_usage(_existing(scratch)).free
    if needed is not None and free < needed:
        yield Finding(
            "little_room",
            f"a drill restores {needed >> 20} MB into {scratch}, whose disk has {free >> 20} MB free",
            "Name a place with more room as [verify] scratch.",
            PROOFS,
        )


def _newest_size(patient: Patient) -> int | None:
    """Bytes of the newest snapshot of the first store that has one; None where none can be read."""
    try:
        repository = patient.sealed()
    except ReplicatorError:
        return None  # the stores' and the keys' subjects say it
    for store in repository.stores.values():
        with suppress(ReplicatorError):
            found = [one for system in system_ids(store) for one in list_snapshots(store, system)]
            if found:
                return read_summary(store, max(found, key=lambda one: one.label), repository.keyring).bytes
    return None


def _writable(path: Path, what: str, affects: str = STREAM) -> Iterator[Finding]:
    base = _existing(path)
    if not os.access(base, os.W_OK | os.X_OK):
        yield Finding(
            "not_writable",
            f"{what} {path} can not be written by this user",
            f"Create it for the user that runs replicator: install -d -m 700 -o USER {path}",
            affects,
        )


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that is there."""
    return next(place for place in (path, *path.parents) if _is_there(place))


def _is_there(path: Path) -> bool:
    """Whether it is there, as far as this user may look."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _size(directory: Path) -> int:
    """Bytes of the files below it. A daemon may be at work there: what goes meanwhile counts nothing."""
    found = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                found += Path(place, name).stat().st_size
    return found
