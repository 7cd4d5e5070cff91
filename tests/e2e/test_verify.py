"""Verification as an operator, cron and the daemon run it: real server, two stores, verbs as commands."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from pathlib import Path

from tests.clusters import cluster_base, make_cluster
from tests.e2e.site import Site, site_of

ROOT = Path(__file__).parents[2]


def cron(site: Site, textfile: Path) -> subprocess.CompletedProcess[str]:
    """The script that cron runs."""
    environment = {**os.environ, "REPLICATOR_POLICIES": str(site.policies), "REPLICATOR_TEXTFILE": str(textfile)}
    script = [str(ROOT / "scripts" / "verify-cron"), "frk", "--objects", "--coverage"]
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120, check=False)


def some_file(site: Site, store: str, kind: str) -> Path:
    """An object's file, the largest of its kind."""
    found = [path for path in (site.base / store).rglob("*") if path.is_file() and f"/{kind}/" in path.as_posix()]
    return max(found, key=lambda path: path.stat().st_size)


def test_by_hand_and_by_cron() -> None:
    """Well and quiet, then damaged and clear, repaired from the other store, and without the daemon."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as site:
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        cluster.write_wal(3000)
        taken = site.run("snapshot", "take", "frk")
        site.shipped(cluster.write_wal(3000))
        _well(site)
        _damaged(site, taken["label"])
        _without_daemon(site)


def _well(site: Site) -> None:
    found = site.run("verify", "frk", "--objects", "--coverage", "--report", str(site.base / "report.html"))
    assert found["ok"], found
    assert set(found["levels"]) == {"objects", "coverage"}
    assert found["levels"]["objects"]["checked"] > 20
    assert "<svg" in (site.base / "report.html").read_text()
    records = site.run("record", "list", "frk")
    assert [row["kind"] for row in records] == ["coverage", "objects"]
    assert all(row["ok"] and row["stores"] == ["local", "offsite"] for row in records)
    assert site.run("record", "show", "frk", records[0]["id"])["kind"] == "coverage"
    assert site.run("record", "show", "frk", "2001", code=3)["error"]["type"] == "NotFound"
    site.wait(lambda: site.status()["proofs"].get("objects", {}).get("ok", False))
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=60) as answer:
        assert 'replicator_proof_age_seconds{cluster="frk",kind="objects"}' in answer.read().decode()
    quiet = site.command("verify", "frk", "--objects", "--coverage", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def _damaged(site: Site, label: str) -> None:
    pack = some_file(site, "offsite", "packs")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(bytes(data))
    textfile = site.base / "frk.prom"
    told = cron(site, textfile)
    assert told.returncode == 4
    assert told.stdout == ""
    assert len(told.stderr.strip().splitlines()) == 1
    assert f"snapshot {label}" in told.stderr
    assert 'replicator_verify_ok{cluster="frk",level="objects"} 0.0' in textfile.read_text()
    nowhere = cron(site, site.base / "nowhere" / "frk.prom")
    assert nowhere.returncode == 4
    assert f"snapshot {label}" in nowhere.stderr
    site.wait(lambda: any(found["code"] == "verification_failed" for found in site.status()["problems"]))
    assert site.command("status", "frk").returncode == 4
    repaired = site.run("verify", "frk", "--objects", "--repair")
    assert [found["code"] for found in repaired["levels"]["objects"]["findings"]] == ["object_repaired"]
    well = cron(site, textfile)
    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")


def _without_daemon(site: Site) -> None:
    site.kill_daemon(15)
    found = site.run("verify", "frk", "--objects", "--coverage", "--time-limit", "10m")
    assert found["ok"], found
    assert site.run("status", "frk", code=None)["clusters"]["frk"]["proofs"]["coverage"]["ok"]
    away = site.base / "local"
    away.rename(site.base / "unmounted")
    alone = site.run("verify", "frk", "--objects", "--store", "local", code=6)
    assert alone["error"]["exit_code"] == 6
    assert not site.run("verify", "frk", "--objects", "--coverage", code=4)["ok"]
    (site.base / "unmounted").rename(away)
