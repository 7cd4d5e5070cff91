"""Whether a PostgreSQL server runs in a data directory, as far as this host can see.

Owns that judgement: by postmaster.pid, and by what works there whatever that says. It never stops a server.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from replicator.errors import Conflict
from replicator.restore.tree import said

_PID = "postmaster.pid"
#: The process id of a server that is its container's first process.
_FIRST = 1
#: Seconds that a server may take to end once it has taken its postmaster.pid away, which is its last deed but one.
_ENDING_S = 10.0


def check_not_running(root: Path, ending_s: float = _ENDING_S) -> None:
    """Raise Conflict when a server runs in the directory, or ran in a container, where it may be out of sight. A
    process id that is another program's now does not count; a process that outlives its postmaster.pid is waited for.
    """
    place = said(str(root))
    noted = _noted(root)
    number = _working(root) or (noted if noted not in (0, _FIRST) and _runs(noted, root) else 0)
    ended = time.monotonic() + ending_s
    while number and not noted and time.monotonic() < ended:
        time.sleep(0.05)
        noted, number = _noted(root), _working(root)
    if number:
        raise Conflict(
            f"a server runs in {place} (process {number})", hint=f"Stop it first: pg_ctl stop -m fast -D {place}"
        )
    if noted == _FIRST:
        raise Conflict(
            f"the server of {place} ran in a container, and can not be seen from here",
            hint=f"Make sure that it is stopped, then remove {place}/{_PID}.",
        )


def _noted(root: Path) -> int:
    """The process that postmaster.pid names; 0 for none."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with open(root / _PID, "rb", opener=lambda name, given: os.open(name, given | flags)) as file:
            first = file.readline(32).strip()
    except FileNotFoundError:
        return 0
    return abs(int(first)) if first.lstrip(b"-").isdigit() else 0


def _runs(number: int, root: Path) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    try:
        return Path(f"/proc/{number}/cwd").samefile(root)
    except OSError:
        return True  # it is alive, and nobody can say where


def _working(root: Path) -> int:
    """A process of PostgreSQL that works there: one of a container of this host, whose number is another one inside, or
    one that its postmaster left behind. 0 for none.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text("utf-8", "replace").strip()
            if ("postgres" in name or name == "postmaster") and (process / "cwd").samefile(root):
                return int(process.name)
        except OSError:
            continue  # it has ended, or is none of ours to look at
    return 0
