"""Benchmarks beside peers and limits. `stream`: a backlog caught up beside pg_receivewal, zstd and pgBackRest (Debian's
package, or the program that PGBACKREST names), what the primary pays, the age of the newest row when primary and
daemon host vanish, an idle daemon, and memory. `snapshot`: snapshots and restores of two loads beside pgBackRest,
pg_basebackup and a pipeline. `verify`: a proof beside openssl, zstd and the same steps by hand. Runs are paired and
interleaved; a miss is reported as ok false. `plot` draws what `snapshot --json` printed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from catchup import CatchUp
from cost import Cost
from loss import Loss, idle_row
from measure import Row, machine
from proof import Proof
from snapshot import OURS, WORKS, Snapshots
from snapshot_loads import load
from snapshot_replay import Replay

from tests.clusters import cluster_base

_STREAM = ("catchup", "cost", "loss", "idle")


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def stream(options: argparse.Namespace) -> list[Row]:
    """Every row of `scripts/bench stream`."""
    rows: list[Row] = []
    only = options.only or _STREAM
    with cluster_base() as base:
        if "catchup" in only:
            catch_up = CatchUp(base, options.megabytes, say)
            try:
                rows += catch_up.rows(options.pairs)
            finally:
                catch_up.cluster.destroy()
        if "cost" in only:
            rows += Cost(base, say).rows(options.pairs)
        if "loss" in only:
            rows += Loss(base, options.seed, say).rows(options.runs)
        if "idle" in only:
            rows.append(idle_row(base, say))
    return rows


def snapshot(options: argparse.Namespace) -> list[Row]:
    """Every row of `scripts/bench snapshot`, and the settings of both tools."""
    rows: list[Row] = []
    only = options.only or list(WORKS)
    options.settings = {"ours": OURS, "scale": options.scale}
    with cluster_base() as base:
        for name in "AB" if options.load == "both" else options.load:
            if set(only) - {"replay"}:
                measured = Snapshots(base, load(name, options.scale), only, say)
                rows += measured.rows(options.runs)
                options.settings["peer"] = measured.settings or "pgBackRest is not there"
        if "replay" in only:
            rows += Replay(base, options.scale, say).rows(options.runs)
    return rows


def draw(options: argparse.Namespace) -> int:
    """The chart of a result."""
    from plot import plot  # noqa: PLC0415 — its library is there only where someone plots

    for path in plot(json.loads(options.result.read_text()), options.out):
        say(f"written: {path}")
    return 0


def works(text: str) -> list[str]:
    """`--only` of snapshot."""
    found = text.split(",")
    if unknown := sorted(set(found) - set(WORKS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(WORKS)}")
    return found


def verify(options: argparse.Namespace) -> list[Row]:
    """Every row of `scripts/bench verify`."""
    with cluster_base() as base:
        return Proof(base, options.megabytes, say).rows(options.pairs)


def show(result: dict[str, Any]) -> None:
    """The rows for a reader."""
    for who, said in result.get("settings", {}).items():
        print(f"{who}: {said}")
    print(f"{'':6}{'ours':>10}{'peer':>10}{'limit':>10}{'ratio':>8}{'target':>8}  work")
    for row in result["rows"]:
        verdict = {True: "ok", False: "MISS", None: "-"}[row["ok"]]
        cells = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("ours", "peer", "limit", "ratio")]
        bound = "-" if row["target"] is None else f"{'≤' if row['better'] == 'lower' else '≥'}{row['target']:g}"
        print(f"{verdict:6}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}{cells[3]:>8}{bound:>8}  {row['work']}")


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    kinds = parser.add_subparsers(dest="work", required=True)
    command = kinds.add_parser("stream", help="the stream beside pg_receivewal, zstd and pgBackRest")
    command.add_argument("--megabytes", type=int, default=2000, help="WAL to catch up (default 2000)")
    command.add_argument("--pairs", type=int, default=3, help="paired runs (default 3)")
    command.add_argument("--runs", type=int, default=20, help="how often primary and daemon vanish (default 20)")
    command.add_argument("--seed", type=int, default=1, help="the same seed draws the same moments (default 1)")
    command.add_argument("--only", action="append", choices=_STREAM, help="only these (may be repeated)")
    command.set_defaults(run=stream)
    proof = kinds.add_parser("verify", help="a proof beside openssl, zstd and the same steps by hand")
    proof.add_argument("--megabytes", type=int, default=600, help="tables to prove (default 600)")
    proof.add_argument("--pairs", type=int, default=3, help="paired runs (default 3)")
    proof.set_defaults(run=verify)
    taken = kinds.add_parser("snapshot", help="snapshots and restores beside pgBackRest, pg_basebackup and a pipeline")
    taken.add_argument("--runs", type=int, default=3, help="paired runs (default 3)")
    taken.add_argument("--load", choices=("A", "B", "both"), default="both", help="pgbench, forms, or both (default)")
    taken.add_argument("--scale", type=float, default=1.0, help="a fraction of the loads' 1.7 GB (default 1)")
    taken.add_argument("--only", type=works, help=f"only these, with commas: {', '.join(WORKS)}")
    taken.set_defaults(run=snapshot)
    for each in (command, proof, taken):
        each.add_argument("--json", action="store_true", help="one object on standard output")
    chart = kinds.add_parser("plot", help="draw the ratios of `snapshot --json` as SVG and PNG")
    chart.add_argument(
        "result", type=Path, metavar="FILE", help="the JSON that `scripts/bench snapshot --json` printed"
    )
    chart.add_argument("out", type=Path, metavar="NAME", help="where the charts go, without .svg and .png")
    return parser


def main() -> int:
    """Run one benchmark; 1 if a target was missed."""
    options = arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped and files removed on the way out
    if options.work == "plot":
        return draw(options)
    where, began = machine(), time.monotonic()
    rows = options.run(options)
    result = {
        "ok": all(row.ok is not False for row in rows),
        "machine": where,
        "elapsed_s": round(time.monotonic() - began, 1),
        **({"settings": options.settings} if "settings" in options else {}),
        "rows": [row.as_json() for row in rows],
    }
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
