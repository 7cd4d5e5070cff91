"""What is too large for the suite: a cluster of many tables (20,000 unless told otherwise), with --big also a relation
over 1 GB, is streamed from and snapshotted, half before and half after; each store is restored to its end, and
pg_dumpall of primary and restored server must be equal. Once with WAL segments of 1 MB and no checksums, once with
64 MB and checksums. Exit 1 when a dump differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from typing import Any

import psutil

from tests.clusters import cluster_base, make_cluster
from tests.e2e import shapes
from tests.e2e.site import Site, number, site_of

STORES = ("local", "offsite")
KINDS = ((1, False), (64, True))


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def fill(site: Site, shaped: shapes.Shaped, tables: int, *, big: bool) -> None:
    """A daemon, everything, and a snapshot in the middle."""
    site.run("init", "frk", "--sheet", str(site.base / "sheet"))
    site.start_daemon()
    shaped.kinds()
    shaped.tablespaces()
    shaped.tables(1, tables // 2)
    shaped.prepare("sebelum")
    if big:
        shaped.large()
    say("snapshot")
    site.run("snapshot", "take", "frk", timeout=900)
    shaped.databases()
    shaped.tables(tables // 2 + 1, tables)
    shaped.more()
    if big:
        shaped.change_large()
    shaped.prepare("sesudah")


def judge(megabytes: int, checksums: bool, tables: int, *, big: bool) -> dict[str, Any]:
    """One cluster: what a restore from each store is like."""
    began = time.monotonic()
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=megabytes, checksums=checksums, conf=shapes.CONF) as cluster,
        site_of(base, cluster) as site,
    ):
        say(f"segments of {megabytes} MB, checksums {'on' if checksums else 'off'}, {tables} tables")
        shaped = shapes.Shaped(cluster)
        fill(site, shaped, tables, big=big)
        expected = shapes.dump(cluster, cluster.port)
        end = number(cluster.lsn())
        site.wait(lambda: all(number(site.status()["stores"][name]["durable_lsn"]) >= end for name in STORES), 300)
        assert site.daemon is not None
        memory = psutil.Process(site.daemon.pid).memory_info().rss
        differences = {store: compare(site, shaped, store, expected) for store in STORES}
    return {
        "wal_segment_size_mb": megabytes,
        "checksums": checksums,
        "tables": tables,
        "big": big,
        "dump_lines": len(expected),
        "daemon_rss_mb": memory >> 20,
        "differences": differences,
        "elapsed_s": round(time.monotonic() - began, 1),
    }


def compare(site: Site, shaped: shapes.Shaped, store: str, expected: list[str]) -> str:
    """How a restore from one store differs; empty when it is the same."""
    say(f"restore from {store}")
    restored = shapes.restore(site, shaped, store, store + "-restored")
    try:
        found = shapes.first_difference(expected, shapes.dump(shaped.cluster, restored["port"]))
        shapes.assert_prepared(restored["port"], ["sebelum", "sesudah"])
        shapes.assert_unlogged_is_empty(restored["port"])
    except AssertionError as error:
        found = str(error) or "prepared transactions or the unlogged table differ"
    finally:
        site.stop_restored(store + "-restored")
        shutil.rmtree(site.base / f"{store}-restored", ignore_errors=True)
    return found


def main() -> int:
    """Run; 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="scripts/shapes", description=__doc__)
    parser.add_argument("--tables", type=int, default=20_000, help="how many tables (default 20000)")
    parser.add_argument("--big", action="store_true", help="also a relation over 1 GB")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    options = parser.parse_args()
    began = time.monotonic()
    runs = [judge(megabytes, checksums, options.tables, big=options.big) for megabytes, checksums in KINDS]
    clean = not any(difference for run in runs for difference in run["differences"].values())
    result = {"ok": clean, "runs": runs, "elapsed_s": round(time.monotonic() - began, 1)}
    if options.json:
        print(json.dumps(result))
    else:
        for run in runs:
            print(", ".join(f"{key} {value}" for key, value in run.items()))
        print("everything is equal" if clean else "DIFFERENT")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
