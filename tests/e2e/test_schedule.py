"""The daemon takes snapshots by its schedule while the cluster is written and rebuilt: each restores, and is sound."""

import subprocess
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.clusters import cluster_base, make_cluster
from tests.e2e.site import Site, number, site_of
from tests.snapshot.test_generations import Churn, Writing

_EVERY_MINUTE = '[snapshot]\nschedule = "* * * * *"\n'


def count(site: Site) -> int:
    """Snapshots that status shows."""
    return int(site.status()["snapshots"]["count"] or 0)


def assert_sound(site: Site, row: dict[str, Any], store: str) -> None:
    """Recover one snapshot alone from one store; every index and heap is as PostgreSQL wants it."""
    name = f"{row['label']}-{store}"
    restored = site.restore("--immediate", "--snapshot", row["label"], "--store", store, name=name)
    place = f"host=127.0.0.1 port={restored['port']} user=postgres dbname=postgres"
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        rows = connection.execute("SELECT count(*), count(isi) FROM ramai").fetchone()
        assert rows is not None
        assert rows[0] == rows[1] > 0
    server = ["-h", "127.0.0.1", "-p", str(restored["port"]), "-U", "postgres"]
    check = [str(site.cluster.binaries.directory / "pg_amcheck"), "--heapallindexed", *server, "-d", "postgres"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site.stop_restored(name)


def has(site: Site, wanted: int) -> bool:
    """Whether there are so many snapshots."""
    return count(site) >= wanted


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_minute_under_load() -> None:
    """The first at once, then one a minute, each on the one before; nothing is missed, and nothing follows twice."""
    with cluster_base() as base, make_cluster(base) as cluster, site_of(base, cluster, stream=_EVERY_MINUTE) as site:
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        churn = Churn(cluster, 7)
        while not 5 <= time.time() % 60 < 45:  # the first is not to meet the second
            time.sleep(0.5)
        with Writing(cluster):
            site.start_daemon()
            for wanted in (1, 2, 3):
                site.wait(partial(has, site, wanted), 150)
                if wanted < 3:
                    churn.turn(6)
        rows = site.run("snapshot", "list", "frk")
        assert [row["parent"] for row in rows] == [None, *(row["label"] for row in rows[:-1])]
        minutes = [row["label"][:-3] for row in rows[1:]]
        assert len(set(minutes)) == len(minutes), rows
        assert all(int(row["label"][-3:-1]) < 20 for row in rows[1:]), rows
        end = cluster.lsn()
        site.shipped(end)
        site.wait(lambda: site.status()["problems"] == [])
        status = site.status()
        assert status["snapshots"]["last"] == rows[-1]["label"] or count(site) > len(rows)
        for store in status["stores"].values():
            (window,) = store["windows"]
            assert (window["from_lsn"], window["snapshot"]) == (rows[0]["stop_lsn"], rows[0]["label"])
            assert number(window["to_lsn"]) >= number(end)
        site.kill_daemon(15)
        for position, row in enumerate(rows):
            assert_sound(site, row, ("local", "offsite")[position % 2])
