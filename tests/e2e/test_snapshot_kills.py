"""The daemon and its snapshot child are killed in the middle of a take: the next take is right, and nothing is left."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.clusters import cluster_base, make_cluster
from tests.e2e.site import Site, site_of

_SLOW = 'rate_limit = "4MB"\n'
_SLOWLY = f'[snapshot]\nschedule = "0 2 * * *"\n{_SLOW}'


def events(site: Site, name: str) -> list[dict[str, Any]]:
    """The lines of one kind in the daemon's log, of all its lives."""
    return [line for line in site.lines() if line["event"] == name]


def taking(site: Site) -> int:
    """Wait until a child reads the base backup; its process id."""

    def reads() -> bool:
        return any(task["kind"] == "snapshot" and 0 < task["done"] < task["total"] for task in site.status()["tasks"])

    site.wait(reads)
    return int([event for event in events(site, "task_started") if event["kind"] == "snapshot"][-1]["pid"])


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        if stat.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def hurry(site: Site) -> None:
    """Children that start from now on read as fast as they can."""
    path = site.policies / "frk.toml"
    text = path.read_text()
    assert _SLOW in text
    path.write_text(text.replace(_SLOW, ""))


def manifests(site: Site) -> list[Path]:
    """Every manifest of the first store."""
    return [path for path in (site.base / "local/frk").glob("*/snapshots/*/*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_take_killed_and_its_daemon_killed() -> None:
    """A child ends with its daemon, though that was killed; a killed child is tried again; what they left behind stops
    no take and is in no snapshot, and the restore has every row.
    """
    with cluster_base() as base, make_cluster(base) as cluster, site_of(base, cluster, stream=_SLOWLY) as site:
        cluster.sql("CREATE TABLE kegiatan AS SELECT n AS id, md5(n::text) AS isi FROM generate_series(1, 20000) AS n")
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        orphan = taking(site)
        site.kill_daemon()
        assert gone(orphan, 60), subprocess.run(["ps", "-p", str(orphan), "-f"], capture_output=True, text=True).stdout
        assert manifests(site) == []

        site.start_daemon()
        child = taking(site)
        hurry(site)
        os.kill(child, signal.SIGKILL)
        site.wait(lambda: any(problem["code"] == "task_failed" for problem in site.status()["problems"]))
        site.wait(lambda: site.status()["snapshots"]["count"] == 1, 120)
        site.wait(lambda: site.status()["problems"] == [])
        assert len(manifests(site)) == 1
        (row,) = site.run("snapshot", "list", "frk")
        assert row["stores"] == ["local", "offsite"]
        incremental = site.run("snapshot", "take", "frk")
        assert incremental["parent"] == row["label"]
        assert incremental["added_bytes"] < row["added_bytes"] / 5
        restored = site.restore("--latest")
        with psycopg.connect(f"host=127.0.0.1 port={restored['port']} user=postgres dbname=postgres") as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT isi) FROM kegiatan").fetchone() == (20000, 20000)
        site.stop_restored()
        assert site.kill_daemon(signal.SIGTERM) == 0
        left = [path.name for path in (site.base / "state/frk/snapshot").iterdir()]
        assert "parent.sqlite" in left
