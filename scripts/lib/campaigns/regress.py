"""PostgreSQL's own regression suite runs on the primary while the daemon streams from it, from a snapshot of the empty
cluster on. Then each store is restored to its end, and pg_dumpall of primary and restored server must be equal. The
suite comes from Debian's source package of exactly the installed version (kept in .venv/postgresql), pg_regress from
postgresql-server-dev. Exit 1 when a dump differs or a test of the suite failed, 9 when the suite can't be had here.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from suite import NotHad, Suite, obtain

from replicator.errors import BinariesMissing
from tests.clusters import TestCluster, binaries, cluster_base, make_cluster, own, run_as_owner
from tests.e2e.site import Site, number, site_of

STORES = ("local", "offsite")
#: The suite's large tables fit, and its parallel groups of twenty find a connection each.
CONF = {"shared_buffers": "128MB", "max_connections": "60", "max_prepared_transactions": "2", "wal_keep_size": "64MB"}
_RESULT = re.compile(r"^(?:not ok \d+\s+[-+]\s+|test\s+|\s+)(\S+)\s.*?(?:FAILED|\d+ ms$)")


def run_suite(suite: Suite, cluster: TestCluster, base: Path) -> tuple[int, list[str]]:
    """Run it against the running primary: how many tests there were, and which failed."""
    outputs = base / "suite"
    outputs.mkdir()
    own(outputs)
    command: list[object] = [suite.driver, f"--bindir={cluster.binaries.directory}", f"--dlpath={suite.libraries}"]
    command += [f"--inputdir={suite.inputs}", f"--outputdir={outputs}", "--max-connections=20"]
    command += [f"--schedule={suite.inputs}/parallel_schedule", f"--host={cluster.socket_directory}"]
    command += [f"--port={cluster.port}", "--user=postgres"]
    inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", outputs]
    told = run_as_owner([*inside, *command], check=False, timeout=1200)
    print(told[-800:], file=sys.stderr)
    lines = told.splitlines()
    tests = [line for line in lines if re.search(r"\d+ ms$", line)]
    if not tests:
        raise NotHad(f"pg_regress ran no test: {lines[-1] if lines else 'it says nothing'}")
    failed = [match[1] for line in tests if ("FAILED" in line or "not ok" in line) and (match := _RESULT.match(line))]
    return len(tests), failed


def log_sequences(cluster: TestCluster) -> None:
    """PostgreSQL logs sequences 32 values ahead, and a recovery continues there; setval logs the value itself."""
    query = "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'"
    for (database,) in cluster.sql(query):
        sequences = "SELECT seqrelid::regclass::text FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid"
        for (sequence,) in cluster.sql(f"{sequences} WHERE relpersistence = 'p'", dbname=database):
            name = sequence.replace("'", "''")
            cluster.sql(f"SELECT setval('{name}', last_value, is_called) FROM {sequence}", dbname=database)


def dump(cluster: TestCluster, port: int) -> list[str]:
    """pg_dumpall's lines, without what pg_dump makes up anew each time and without the rows of unlogged tables."""
    command = [cluster.binaries.program("pg_dumpall"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    text = run_as_owner([*command, "--no-unlogged-table-data"], timeout=300)
    return [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def judge(site: Site, cluster: TestCluster, suite: Suite) -> dict[str, Any]:
    """Stream, run the suite, restore from each store, compare."""
    site.run("init", "frk", "--sheet", str(site.base / "sheet"))
    site.start_daemon()
    site.run("snapshot", "take", "frk")
    begin = number(cluster.lsn())
    began = time.monotonic()
    tests, failed = run_suite(suite, cluster, site.base)
    suite_s = time.monotonic() - began
    log_sequences(cluster)
    expected = dump(cluster, cluster.port)
    end = cluster.lsn()
    site.wait(lambda: all(number(site.status()["stores"][name]["durable_lsn"]) >= number(end) for name in STORES), 300)
    differences = {store: differing(site, cluster, store, expected) for store in STORES}
    return {
        "ok": not failed and not any(differences.values()),
        "version": cluster.binaries.version,
        "tests": tests,
        "failed": failed,
        "dumps_equal": {store: not lines for store, lines in differences.items()},
        "differences": {store: lines for store, lines in differences.items() if lines},
        "dump_lines": len(expected),
        "wal_bytes": number(end) - begin,
        "suite_s": round(suite_s, 1),
    }


def differing(site: Site, cluster: TestCluster, store: str, expected: list[str]) -> list[str]:
    """The first lines in which a restore from `store` alone differs from the primary."""
    result = site.restore("--latest", "--store", store, name=f"from-{store}")
    try:
        found = dump(cluster, result["port"])
    finally:
        site.stop_restored(f"from-{store}")
    if found == expected:
        return []
    return list(islice(difflib.unified_diff(expected, found, "primary", store, lineterm="", n=1), 40))


def main() -> int:
    """Fetch, run, judge."""
    parser = argparse.ArgumentParser(prog="scripts/regress", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    options = parser.parse_args()
    began = time.monotonic()
    try:
        suite = obtain(binaries())
        with cluster_base() as base, make_cluster(base, conf=CONF) as cluster, site_of(base, cluster) as site:
            result = judge(site, cluster, suite)
        code = 0 if result["ok"] else 1
    except (NotHad, BinariesMissing) as error:
        result, code = {"ok": None, "reason": f"not had: {error}"}, 9
    result["elapsed_s"] = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
    return code


if __name__ == "__main__":
    sys.exit(main())
