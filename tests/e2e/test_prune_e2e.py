"""Retention as an operator meets it: snapshots follow each other, old ones go, and what is promised restores."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.clusters import cluster_base, have_binaries, make_cluster
from tests.e2e.site import Site, site_of

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


def policy(site: Site, retention: str) -> None:
    """Replace the policy's [retention]."""
    path = site.policies / "frk.toml"
    path.write_text(path.read_text().partition("[retention]")[0] + f"[retention]\n{retention}\n")


def age_notes(base: Path, hours: float) -> None:
    """Let so much time pass for every note of both stores."""
    for name in ("local", "offsite"):
        for path in (base / name).rglob("*"):
            if "/notes/" in str(path) and path.is_file():
                at = path.stat().st_mtime - hours * 3600
                os.utime(path, (at, at))


def rows(port: int) -> int:
    """How many rows a restored server has."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        found = connection.execute("SELECT count(*) FROM kegiatan").fetchone()
    assert found is not None
    return int(found[0])


def sizes(base: Path) -> dict[str, int]:
    """Bytes of each store."""
    return {
        name: sum(path.stat().st_size for path in (base / name).rglob("*") if path.is_file())
        for name in ("local", "offsite")
    }


def test_retention_from_end_to_end() -> None:
    """The daemon prunes after a snapshot; a pinned one stays and restores alone; killed and repeated it completes."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as site:
        site.run("init", "frk")
        cluster.write_wal(500)
        site.start_daemon()
        labels = []
        for _ in range(3):
            site.shipped(cluster.write_wal(500))
            labels.append(str(site.run("snapshot", "take", "frk")["label"]))
        pinned = site.run("snapshot", "pin", "frk", labels[1])
        assert pinned["stores"] == ["local", "offsite"]
        assert [row["pinned"] for row in site.run("snapshot", "list", "frk")] == [False, True, False]
        site.run("snapshot", "remove", "frk", labels[1], "--yes", code=8)
        policy(site, 'window = "0s"')
        told = site.run("prune", "frk", "--dry-run")["stores"]["local"]
        assert told["gone"] == [labels[0]]
        assert site.daemon is not None
        site.daemon.send_signal(signal.SIGHUP)
        site.wait(lambda: "policies_reloaded" in site.log() and site.answers("/readyz"))
        site.shipped(cluster.write_wal(500))
        labels.append(str(site.run("snapshot", "take", "frk")["label"]))
        # The daemon's own prune follows the snapshot.
        site.wait(lambda: len(site.run("snapshot", "list", "frk")) == 2)
        site.wait(lambda: not site.status()["tasks"])
        before = sizes(site.base)
        age_notes(site.base, 25)
        child = site.spawn("prune", "frk")
        time.sleep(0.4)
        child.kill()
        child.wait(30)
        done = site.run("prune", "frk")
        assert done["ok"]
        assert [kept["label"] for kept in done["stores"]["offsite"]["kept"]] == [labels[1], labels[3]]
        after = sizes(site.base)
        assert all(after[name] < before[name] for name in after)
        status = site.status()
        assert [gap for store in status["stores"].values() for gap in store["gaps"]] == []
        points = status["stores"]["local"]["windows"]
        assert [window["snapshot"] for window in points] == [labels[1], labels[3]]
        site.shipped(cluster.write_wal(100))
        restored = site.restore("--latest")
        assert rows(restored["port"]) == 2600
        site.stop_restored()
        restored = site.restore("--immediate", "--snapshot", labels[1], name="point")
        assert rows(restored["port"]) == 1500
        site.stop_restored("point")
        refused = site.run("snapshot", "remove", "frk", "20200101T000000Z", "--yes", code=3)
        assert "snapshot list" in refused["error"]["hint"]
        site.run("snapshot", "unpin", "frk", labels[1])
        assert site.run("snapshot", "remove", "frk", labels[1], "--yes")["stores"] == ["local", "offsite"]
        assert site.run("snapshot", "remove", "frk", labels[3], "--yes", code=8)["error"]["type"] == "Conflict"
        assert site.run("verify", "frk", "--objects", "--coverage", code=None)["ok"]
