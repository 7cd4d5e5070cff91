"""What the verbs ask of a store that holds very many objects: a repository with (unless said otherwise) 100,000 WAL
segments and 1,000 snapshots is put behind a real S3 server, and `status` without a daemon, `snapshot list`,
`wal coverage` and `restore --dry-run` are run against it as processes of their own, first without ranges and summaries,
then with those that `prune` writes. Requests are counted on the line. The answers must be the same.

Then maps of 1,000,000 blocks (no data): what they cost a take, a reader of the manifest, and the restore of one file.

The server is moto (in memory, its listings are slow), rclone over files, or `given`: one that
REPLICATOR_TEST_S3_ENDPOINT, _BUCKET, _ACCESS_KEY and _SECRET_KEY name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.core.moment import rfc3339
from scripts.lib.campaigns.scale_blocks import measure as measure_blocks
from scripts.lib.campaigns.scale_ground import Ground, make_ground, s3_store, serving, write_policy
from tests.clusters import cluster_base
from tests.httpproxy import HttpProxy, http_proxy_to

#: A few dozen.
MOST_REQUESTS = 48
#: Prunes after which all ranges must be there.
_MOST_PRUNES = 60


@dataclass(frozen=True)
class Ran:
    """One verb, run to its end."""

    code: int
    answer: Any
    seconds: float
    cpu_s: float
    rss_bytes: int
    requests: int


def run(policies: Path, arguments: list[str], environment: dict[str, str], proxy: HttpProxy | None = None) -> Ran:
    """Run a verb with --json as a process."""
    command = [sys.executable, "-m", "replicator", *arguments, "--policies", str(policies), "--json"]
    before = proxy.requests if proxy is not None else 0
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **environment})
        rss, pid = 0, 0
        while not pid:
            rss = max(rss, _most_memory(child.pid))
            time.sleep(0.01)
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        text, said = out.read(), err.read().decode(errors="replace")
    if not text or b'"error": {' in text[:20] or "Traceback" in said:
        raise RuntimeError(f"{arguments}: {child.returncode}: {text[:2000]!r} {said[-3000:]}")
    requests = proxy.requests - before if proxy is not None else 0
    cpu = usage.ru_utime + usage.ru_stime
    return Ran(child.returncode, json.loads(text), seconds, cpu, rss, requests)


def _most_memory(pid: int) -> int:
    """The most bytes that a process had so far; wait4 would tell those of the process that made it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def verbs(ground: Ground) -> dict[str, list[str]]:
    """What is run."""
    into = ["restore", "frk", "--into", str(ground.base / "nowhere"), "--dry-run"]
    return {
        "status without a daemon": ["status", "frk"],
        "snapshot list": ["snapshot", "list", "frk"],
        "wal coverage": ["wal", "coverage", "frk"],
        "restore --latest --dry-run": [*into, "--latest"],
        "restore --to-lsn --dry-run": [*into, "--to-lsn", ground.lsn, "--exclusive"],
        "restore --to-time --dry-run": [*into, "--to-time", rfc3339(ground.time)],
    }


def measure(
    ground: Ground, policies: Path, environment: dict[str, str], proxy: HttpProxy, ranges: bool
) -> Iterator[Any]:
    """A row per verb, and its answer."""
    for work, arguments in verbs(ground).items():
        found = run(policies, arguments, environment, proxy)
        row = {
            "work": work,
            "ranges": ranges,
            "requests": found.requests,
            "seconds": round(found.seconds, 2),
            "cpu_s": round(found.cpu_s, 2),
            "rss_mb": round(found.rss_bytes / 1e6, 1),
            "ok": found.requests <= MOST_REQUESTS if ranges else None,
        }
        say(f"{work}{'' if ranges else ' without ranges'}: {found.requests} requests, {found.seconds:.1f} s")
        yield row, found.answer


def write_ranges(ground: Ground) -> dict[str, Any]:
    """Prune until there is nothing to write: what it took."""
    policies = write_policy(ground, "here", f'url = "file://{ground.root}"')
    before: list[Path] | None = None
    cpu, runs, rss = 0.0, 0, 0
    while (found := objects(ground)) != before and runs < _MOST_PRUNES:
        before = found
        ran = run(policies, ["prune", "frk"], {})
        cpu, runs, rss = cpu + ran.cpu_s, runs + 1, max(rss, ran.rss_bytes)
        say(f"prune {runs}: {len(objects(ground))} ranges and summaries")
    size = sum(path.stat().st_size for path in objects(ground))
    return {"runs": runs, "cpu_s": round(cpu, 1), "rss_mb": round(rss / 1e6, 1), "objects": len(found), "bytes": size}


def objects(ground: Ground) -> list[Path]:
    """The ranges and summaries that there are."""
    return sorted((ground.root / "frk").glob("*/ranges/*"))


def everything(ground: Ground) -> Iterator[Path]:
    """Every object's file."""
    return (path for path in ground.root.rglob("*") if path.is_file())


def say(text: str) -> None:
    """Tell whoever waits."""
    print(text, file=sys.stderr, flush=True)


def campaign(base: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fill, measure without ranges, write them, measure again."""
    ground = make_ground(base, options.segments, options.snapshots, say)
    rows: list[dict[str, Any]] = []
    answers: dict[str, Any] = {}
    differ: list[str] = []
    with serving(options.server, ground) as (server, load), http_proxy_to(server.port) as proxy:
        environment = {"SCALE_ACCESS_KEY": server.access_key, "SCALE_SECRET_KEY": server.secret_key}
        policies = write_policy(ground, "there", s3_store(server, proxy.port))
        load(everything(ground))
        say("filled")
        if not options.only_ranges:
            for row, answer in measure(ground, policies, environment, proxy, ranges=False):
                rows.append(row)
                answers[row["work"]] = answer
        written = write_ranges(ground)
        load(iter(objects(ground)))
        for row, answer in measure(ground, policies, environment, proxy, ranges=True):
            rows.append(row)
            if answers.get(row["work"], answer) != answer:
                differ.append(row["work"])
    return {
        "ok": not differ and all(row["ok"] is not False for row in rows),
        "machine": f"{os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}",
        "server": options.server,
        "segments": options.segments,
        "snapshots": options.snapshots,
        "rows": rows,
        "prune": written,
        "differ": differ,
    }


def main() -> int:
    """Run it; 1 if a verb asked too much or answered otherwise."""
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    parser.add_argument("--segments", type=int, default=100_000, help="complete WAL segments (default 100000)")
    parser.add_argument("--snapshots", type=int, default=1000, help="snapshots (default 1000)")
    parser.add_argument("--blocks", type=int, default=1_000_000, help="blocks of a snapshot (default 1000000; 0: none)")
    parser.add_argument("--server", choices=("moto", "rclone", "given"), default="moto", help="default moto")
    parser.add_argument("--only-ranges", action="store_true", help="leave out the runs without ranges")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    options = parser.parse_args()
    began = time.monotonic()
    with cluster_base() as base:
        result = campaign(base, options)
        if options.blocks:
            result["blocks"] = measure_blocks(base, options.blocks, say)
    result["elapsed_s"] = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps(result))
        return 0 if result["ok"] else 1
    for row in result["rows"]:
        print(f"{row['work']:32} {'ranges' if row['ranges'] else 'no ranges':10} {row['requests']:6} requests "
              f"{row['seconds']:8.2f} s {row['cpu_s']:8.2f} CPU s {row['rss_mb']:7.1f} MB")  # fmt: skip
    for row in result.get("blocks", ()):
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    print(f"prune: {result['prune']}; answers that differ: {result['differ'] or 'none'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
