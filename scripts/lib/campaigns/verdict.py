"""How a campaign is asked for, and how it ends: its arguments, what it counted told once, and the exit code.

Owns the fields that every campaign tells. Never judges a run: what was lost, missed or not repaired is given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any, Protocol


class Counted(Protocol):
    """What a campaign counted."""

    lost: int
    missed: int
    unrepaired: int
    by_kind: Counter[str]


def arguments(name: str, about: str | None, *, runs: int, what: str) -> argparse.ArgumentParser:
    """Those that every campaign has: of `runs` by default, where a run is one of `what`."""
    parser = argparse.ArgumentParser(prog=f"scripts/{name}", description=about)
    parser.add_argument("--runs", type=int, default=runs, help=f"how many {what} (default {runs})")
    parser.add_argument("--seed", type=int, default=1, help=f"the same seed draws the same {what} (default 1)")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser


def conclude(options: argparse.Namespace, counted: Counted, began: float, **more: Any) -> int:
    """Tell what a campaign that began at `began` (time.monotonic) counted, and `more`; 1 if anything was lost, missed
    or not repaired.
    """
    clean = not (counted.lost or counted.missed or counted.unrepaired)
    result = {
        "ok": clean,
        "seed": options.seed,
        "runs": options.runs,
        "lost": counted.lost,
        "missed": counted.missed,
        "unrepaired": counted.unrepaired,
        "by_kind": dict(sorted(counted.by_kind.items())),
        "elapsed_s": round(time.monotonic() - began, 1),
        **more,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(", ".join(f"{key} {value}" for key, value in result.items()))
    return 0 if clean else 1
