"""The slot governor in a daemon: every store away until the source's disk would suffer, then back again."""

from __future__ import annotations

import time
import urllib.request

import pytest

from tests.clusters import cluster_base, have_binaries, make_cluster
from tests.e2e.site import Site, site_of

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20
KEEP = 40 * MB
CONF = {
    "max_slot_wal_keep_size": f"{KEEP // MB}MB",
    "max_wal_size": "4MB",
    "min_wal_size": "2MB",
    "checkpoint_warning": "0",
}


def away(site: Site, *, yes: bool) -> None:
    """Unmount both stores, or mount them again."""
    for name in ("local", "offsite"):
        here, there = site.base / name, site.base / f"{name}.away"
        (here if yes else there).rename(there if yes else here)


def metric(site: Site, name: str) -> float:
    """A metric of this cluster; -1 while it is not known."""
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.split()[-1] for line in lines if line.startswith(f'replicator_{name}{{cluster="frk"}}')]
    return float(found[0]) if found else -1.0


def codes(site: Site) -> set[str]:
    """The codes of all problems in status."""
    return {problem["code"] for problem in site.status()["problems"]}


def unseen(site: Site) -> int:
    """How much less room the slot has than the daemon knows; 0 when one of both is not known."""
    room = site.cluster.sql("SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = 'replicator_frk'")
    known = site.status()["source"]["safe_wal_bytes"]
    return known - room[0][0] if room and room[0][0] is not None and known is not None else 0


@pytest.mark.slow
def test_given_up_and_closed_by_a_snapshot() -> None:
    """Warned, given up as a gap that status and its exit code show while no store answers; the stores back, a snapshot
    closes it, and all is well.
    """
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1, conf=CONF) as cluster,
        site_of(base, cluster, stream='spool_limit = "4MB"') as site,
    ):
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        site.wait(lambda: site.status()["snapshots"]["count"] == 1)
        away(site, yes=True)
        warned, kept = False, 0
        deadline = time.monotonic() + 200
        while "open_gap" not in codes(site):
            assert time.monotonic() < deadline, site.log()
            if unseen(site) <= 6 * MB:  # however slow this host is, the daemon looks before the end is reached
                cluster.sql("SELECT pg_logical_emit_message(false, 'isi', repeat('x', %s))", (2 * MB,))
            kept = max(kept, cluster.wal_kept())
            warned = warned or any("WAL for slot" in problem["text"] for problem in site.status()["problems"])
            time.sleep(0.6)
        assert warned
        site.wait(lambda: metric(site, "slot_safe_bytes") > KEEP // 4)
        site.wait(lambda: metric(site, "slot_safe_seconds") > 0)
        assert kept < KEEP + 16 * MB
        assert site.run("status", "frk", code=4)["ok"] is False
        away(site, yes=False)
        site.wait(lambda: site.status()["snapshots"]["count"] == 2, 90)
        site.wait(lambda: site.status()["problems"] == [], 60)
        site.run("status", "frk")
        for store in site.status()["stores"].values():
            assert [gap["open"] for gap in store["gaps"]] == [False]
            assert len(store["windows"]) == 2
