"""Benchmarks beside peers and limits. `stream`: a backlog caught up beside pg_receivewal, zstd and pgBackRest (Debian's
package, or the program that PGBACKREST names), what the primary pays, the age of the newest row when primary and
daemon host vanish, an idle daemon, and memory. `verify`: a proof beside openssl, zstd and the same steps by hand. Runs
are paired and interleaved; a miss is reported as ok false.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import Any

from catchup import CatchUp
from cost import Cost
from loss import Loss, idle_row
from measure import Row, machine
from proof import Proof

from tests.clusters import cluster_base

_WORKS = ("catchup", "cost", "loss", "idle")


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def stream(options: argparse.Namespace) -> list[Row]:
    """Every row of `scripts/bench stream`."""
    rows: list[Row] = []
    only = options.only or _WORKS
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


def verify(options: argparse.Namespace) -> list[Row]:
    """Every row of `scripts/bench verify`."""
    with cluster_base() as base:
        return Proof(base, options.megabytes, say).rows(options.pairs)


def show(result: dict[str, Any]) -> None:
    """The rows for a reader."""
    print(f"{'':6}{'ours':>10}{'peer':>10}{'limit':>10}{'ratio':>8}{'target':>8}  work")
    for row in result["rows"]:
        verdict = {True: "ok", False: "MISS", None: "-"}[row["ok"]]
        cells = ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("ours", "peer", "limit", "ratio")]
        bound = f"{'≤' if row['better'] == 'lower' else '≥'}{row['target']:g}"
        print(f"{verdict:6}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}{cells[3]:>8}{bound:>8}  {row['work']}")


def main() -> int:
    """Run one benchmark; 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    works = parser.add_subparsers(dest="work", required=True)
    command = works.add_parser("stream", help="the stream beside pg_receivewal, zstd and pgBackRest")
    command.add_argument("--megabytes", type=int, default=2000, help="WAL to catch up (default 2000)")
    command.add_argument("--pairs", type=int, default=3, help="paired runs (default 3)")
    command.add_argument("--runs", type=int, default=20, help="how often primary and daemon vanish (default 20)")
    command.add_argument("--seed", type=int, default=1, help="the same seed draws the same moments (default 1)")
    command.add_argument("--only", action="append", choices=_WORKS, help="only these (may be repeated)")
    command.set_defaults(run=stream)
    proof = works.add_parser("verify", help="a proof beside openssl, zstd and the same steps by hand")
    proof.add_argument("--megabytes", type=int, default=600, help="tables to prove (default 600)")
    proof.add_argument("--pairs", type=int, default=3, help="paired runs (default 3)")
    proof.set_defaults(run=verify)
    for each in (command, proof):
        each.add_argument("--json", action="store_true", help="one object on standard output")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped and files removed on the way out
    where, began = machine(), time.monotonic()
    rows = options.run(options)
    result = {
        "ok": all(row.ok is not False for row in rows),
        "machine": where,
        "elapsed_s": round(time.monotonic() - began, 1),
        "rows": [row.as_json() for row in rows],
    }
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
