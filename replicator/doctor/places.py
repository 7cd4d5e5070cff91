"""What each store really honours: an S3 endpoint by throw-away objects, a directory by throw-away files.

Owns the folder of probes, which readers of a repository ignore; removes all that it put.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from replicator.core.finding import Finding
from replicator.doctor.finding import STORES, finding_of
from replicator.doctor.subject import Patient
from replicator.errors import Interrupted, ReplicatorError
from replicator.policy import StorePolicy, format_size
from replicator.repository.layout import PROBE
from replicator.store.probe import Observation

#: A store with less room is worth knowing of.
_LITTLE = 1 << 30
_SHARE = 0.05


def check_places(patient: Patient) -> Iterator[Finding]:
    """Findings about each store; one that does not answer is `check_stores`' to name."""
    for policy in patient.policy.stores:
        try:
            if policy.scheme == "file":
                yield from _directory(policy, policy.directory / patient.name)
            else:
                for seen in patient.probe(policy.name, f"{patient.name}/{PROBE}"):
                    yield _finding(policy.name, seen)
        except Interrupted:
            raise
        except ReplicatorError as error:
            yield finding_of(error, STORES, store=policy.name)


def _finding(store: str, seen: Observation) -> Finding:
    return Finding(seen.code, seen.text, seen.hint, STORES if seen.wrong else None, store=store)


def _directory(policy: StorePolicy, home: Path) -> Iterator[Finding]:
    """A directory's file system: has it room, and what creating an object once stands on."""
    name = policy.name
    try:
        if not stat.S_ISDIR(home.stat().st_mode):
            return
        found = shutil.disk_usage(home)
    except (FileNotFoundError, NotADirectoryError):
        return  # `check_stores` says it
    except OSError as error:
        yield _not_writable(name, home, error)
        return
    if found.free < max(_LITTLE, found.total * _SHARE):
        yield Finding(
            "little_room",
            f"store {name}: {home} has {format_size(found.free >> 20 << 20)} free of its disk",
            "Make room, or move the store: when it is full, the spool and then the primary's slot hold the WAL.",
            store=name,
        )
    files = [home / f".probe-{secrets.token_hex(8)}" for _ in range(2)]
    try:
        yield from _file_system(name, home, *files)
    except OSError as error:
        yield _not_writable(name, home, error)
    finally:
        for path in files:
            with suppress(OSError):  # where nothing can be put, nothing can be removed
                path.unlink(missing_ok=True)


def _not_writable(name: str, home: Path, error: OSError) -> Finding:
    reason = (error.strerror or "unknown reason").lower()
    hint = "Give the user that runs replicator the rights on it."
    return Finding("not_writable", f"store {name}: {home} can not be written: {reason}", hint, STORES, store=name)


def _file_system(name: str, home: Path, one: Path, two: Path) -> Iterator[Finding]:
    hint = "Put the store on a local disk, or on a network file system that can do it."
    handle = os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, b"probe")
        if not _syncs(handle) or not _syncs_directory(home):
            text = f"store {name}: the file system of {home} can not fsync: what was put may be gone after a crash"
            yield Finding("no_fsync", text, hint, STORES, store=name)
    finally:
        os.close(handle)
    try:
        os.link(one, two)
    except OSError:
        text = f"store {name}: the file system of {home} has no hard links: two hosts at once are not kept apart"
        yield Finding("no_links", text, hint, store=name)


def _syncs(handle: int) -> bool:
    try:
        os.fsync(handle)
    except OSError:
        return False
    return True


def _syncs_directory(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _syncs(handle)
    finally:
        os.close(handle)
