"""Retention as an operator meets it: snapshots follow each other, old ones go, and what is promised restores."""

from __future__ import annotations

import os
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


def pruned(site: Site) -> bool:
    """Whether the daemon's prune has ended, well."""
    return any(line["event"] == "task_ended" and line["kind"] == "prune" for line in site.lines())


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
        path = site.policies / "frk.toml"
        path.write_text(path.read_text() + '[snapshot]\nschedule = "0 2 * * *"\n[retention]\nwindow = "1d"\n')
        site.run("init", "frk")
        cluster.write_wal(500)
        site.start_daemon()
        site.wait(lambda: pruned(site))
        labels = [str(site.status()["snapshots"]["last"])]
        for _ in range(2):
            site.shipped(cluster.write_wal(30_000))
            labels.append(str(site.run("snapshot", "take", "frk")["label"]))
        assert site.kill_daemon(15) == 0
        policy(site, 'window = "0s"')
        pinned = site.run("snapshot", "pin", "frk", labels[0])
        assert pinned["stores"] == ["local", "offsite"]
        site.run("snapshot", "remove", "frk", labels[0], "--yes", code=8)
        told = site.run("prune", "frk", "--dry-run")["stores"]["local"]
        assert told["gone"] == [labels[1]]
        assert site.run("prune", "frk")["stores"]["offsite"]["gone"] == told["gone"]
        before = sizes(site.base)
        age_notes(site.base, 25)
        child = site.spawn("prune", "frk")
        time.sleep(0.4)
        child.kill()
        child.wait(30)
        done = site.run("prune", "frk")
        assert done["ok"]
        assert [kept["label"] for kept in done["stores"]["offsite"]["kept"]] == [labels[0], labels[2]]
        after = sizes(site.base)
        assert all(after[name] < before[name] for name in after)
        covered = site.run("wal", "coverage", "frk")
        assert [gap for store in covered.values() for gap in store["gaps"]] == []
        assert [window["snapshot"] for window in covered["local"]["windows"]] == [labels[0], labels[2]]
        restored = site.restore("--immediate", "--snapshot", labels[0], name="point")
        assert rows(restored["port"]) == 500
        site.stop_restored("point")
        site.run("snapshot", "unpin", "frk", labels[0])
        used = site.run("snapshot", "remove", "frk", labels[0], "--yes", code=8)
        assert "in use" in used["error"]["message"]
        age_notes(site.base, 25)
        assert site.run("snapshot", "remove", "frk", labels[0], "--yes")["stores"] == ["local", "offsite"]
        assert site.run("snapshot", "remove", "frk", labels[2], "--yes", code=8)["error"]["type"] == "Conflict"
        assert site.run("verify", "frk", "--objects", "--coverage", code=None)["ok"]
