"""Whether a process that another one wrote down still runs: on this host only, and only as surely as /proc tells it."""

from __future__ import annotations

import socket
from enum import Enum
from pathlib import Path

_PROC = Path("/proc")


class Life(Enum):
    """What can be said of a process from here."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


def host_name() -> str:
    """This host's name, as begin documents carry it."""
    return socket.gethostname()


def process_mark(pid: int) -> str:
    """`<boot id>/<pid namespace>/<start>`: no other process of this host ever has the same one. Empty when unknown."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text("ascii", "replace")
        start = stat.rpartition(")")[2].split()[19]
        return f"{_boot()}/{_namespace()}/{start}"
    except (OSError, IndexError):
        return ""


def life_of(host: str, pid: int, mark: str) -> Life:
    """What can be said of the process `pid` of `host` that wrote down `mark`."""
    if host != host_name() or mark.count("/") != 2:
        return Life.UNKNOWN
    try:
        boot, namespace, _ = mark.split("/")
        if boot != _boot():
            return Life.DEAD
        if namespace != _namespace():
            return Life.UNKNOWN
    except OSError:
        return Life.UNKNOWN
    return Life.ALIVE if process_mark(pid) == mark else Life.DEAD


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:[").removesuffix("]")
