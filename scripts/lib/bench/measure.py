"""What the benchmarks share: rows, processes with their CPU, this machine. Owns no workload."""

from __future__ import annotations

import os
import platform
import pwd
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Literal

from replicator.postgres.binaries import environment
from tests.clusters import OWNER

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """One line of the result. `ours` and `peer` are medians, `ratio` is the median of paired runs; None: not there.

    With a ratio the target is the ratio's; without one it is the target of `ours`. `ok` None: no peer to compare with,
    or no target (the row is there for the reader).
    """

    work: str
    ours: float | None
    peer: float | None
    limit: float | None
    ratio: float | None
    target: float | None
    better: Literal["lower", "higher"]
    ok: bool | None
    runs: int

    def as_json(self) -> dict[str, Any]:
        """For standard output."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


def against(
    work: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    target: float | None,
    better: Literal["lower", "higher"],
    limit: Sequence[float] = (),
) -> Row:
    """A row beside a peer: the nth of `ours` and of `peer` were run one after the other."""
    bound = median(limit) if limit else None
    if not peer:
        return Row(work, median(ours), None, bound, None, target, better, None, len(ours))
    ratio = median(one / other for one, other in zip(ours, peer, strict=True))
    ok = None if target is None else ratio <= target if better == "lower" else ratio >= target
    return Row(work, median(ours), median(peer), bound, ratio, target, better, ok, len(ours))


def alone(work: str, ours: float, *, target: float, runs: int, better: Literal["lower", "higher"] = "lower") -> Row:
    """A row held against a number."""
    ok = ours <= target if better == "lower" else ours >= target
    return Row(work, ours, None, None, None, target, better, ok, runs)


def cpu_of(pid: int) -> float:
    """CPU seconds of a running process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS


def peak_memory(pid: int) -> float:
    """The largest resident size of a running process so far, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


@dataclass(frozen=True)
class Spent:
    """What a program that ended took: wall and CPU seconds with its children's, its peak memory, and what it said."""

    seconds: float
    cpu: float
    memory_mb: float
    said: str


def spent(command: Sequence[object], *, as_owner: bool = False) -> Spent:
    """Run a program to its end, as the servers' user if `as_owner`. Fails with what it said."""
    user = pwd.getpwnam(OWNER) if as_owner and OWNER else None
    rights: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        child = subprocess.Popen(
            [str(part) for part in command],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            **({**rights, "cwd": "/"} if rights else {}),
        )
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        said = [_all_of(file) for file in (out, errors)]
    if child.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {said[0][-2000:]}{said[1][-2000:]}")
    return Spent(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, said[0])


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def timed(command: Sequence[object]) -> tuple[float, float]:
    """Run a program to its end: its seconds and CPU seconds. Fails with what it said."""
    found = spent(command)
    return found.seconds, found.cpu


def machine() -> dict[str, Any]:
    """Where this was measured, and how busy that was before."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }
