"""Whether this host can take a restore: room, user, port, and who may get where. Checked before anything is touched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from replicator.errors import HostLacks, UsageError
from replicator.postgres.binaries import as_user, run
from replicator.restore.tree import host_errors, owner_ids


def check_options(owner: str | None, port: int | None, *, starts: bool) -> None:
    """Raise UsageError when root named no owner to start as, HostLacks for a user that does not exist."""
    if port is not None and not starts:
        raise UsageError("--port goes with --start", hint="Without --start the port stands in postgresql.conf.")
    if starts and owner is None and os.geteuid() == 0:
        raise UsageError(
            "--start as root needs --owner",
            hint="PostgreSQL refuses to run as root; name its user, for example --owner postgres.",
        )
    if owner is not None:
        owner_ids(owner)


def check_host(into: Path, owner: str | None, port: int | None) -> None:
    """Raise HostLacks when the server could not start: its user can't get to the directory, its port is taken."""
    unreachable = reach_note(into, owner)
    if unreachable is not None:
        raise HostLacks(unreachable, hint="Restore into a directory below one that the server's user may enter.")
    if port is not None:
        _check_port(port)


def reach_note(into: Path, owner: str | None) -> str | None:
    """A sentence when `owner` can't get to the directory; None when all is well."""
    place = _existing(into.parent)
    if owner is None or run(["test", "-x", str(place)], timeout=30, owner=owner).returncode == 0:
        return None
    return f"{owner} can not get to {place}"


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostLacks(
                f"port {port} is taken", hint="Name another with --port, or leave it out for a free one."
            ) from error


def disk_of(place: Path) -> tuple[int, int]:
    """The disk that a path lies on, as a number, and the bytes free there. Raises OSError."""
    return place.stat().st_dev, shutil.disk_usage(place).free


def check_room(
    into: Path, needed: int, others: Iterable[Path] = (), *, disk: Callable[[Path], tuple[int, int]] = disk_of
) -> None:
    """Raise HostLacks when the disks of `into` and of `others` (its tablespaces) have less than `needed` bytes free
    together: how much goes to which is not known beforehand.
    """
    disks: dict[int, tuple[Path, int]] = {}
    with host_errors(into):
        for place in map(_existing, (into, *others)):
            number, room = disk(place)
            disks.setdefault(number, (place, room))
    free = sum(room for _, room in disks.values())
    if free < needed:
        names = " and ".join(str(place) for place, _ in disks.values())
        raise HostLacks(
            f"{names}: {free // 2**20} MB free, the restore needs {needed // 2**20} MB",
            hint="Make room, or restore to another disk.",
        )


def check_command(command: Sequence[str], owner: str | None) -> None:
    """Raise HostLacks unless the server's user can run replicator: the WAL is more than is prefetched."""
    try:
        words = [*command, "--version"]
        done = subprocess.run(words, capture_output=True, timeout=60, check=False, **as_user(owner))
        well = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        well = False
    if not well:
        raise HostLacks(
            f"{owner or 'this user'} can not run {command[0]}, and the WAL is more than is prefetched",
            hint="Use --start, which fetches ahead of the server, or install replicator where that user can run it.",
        )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
