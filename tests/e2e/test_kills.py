"""The daemon is killed again and again under load: nothing acknowledged is lost, and no hole is left."""

import random
import threading
import time

import psycopg
import pytest

from tests.clusters import TestCluster, cluster_base, make_cluster
from tests.e2e.site import number, site_of

KILLS = 50


class Load(threading.Thread):
    """Commits rows without pause, and keeps a ledger of what was acknowledged."""

    def __init__(self, cluster: TestCluster) -> None:
        super().__init__(name="load")
        self._cluster, self._ending = cluster, threading.Event()
        self.acknowledged: list[int] = []

    def run(self) -> None:
        """Until `end`."""
        with psycopg.connect(self._cluster.conninfo(), autocommit=True) as connection:
            while not self._ending.wait(0.002):
                query = b"INSERT INTO kegiatan (isi) VALUES (repeat(md5(random()::text), 60)) RETURNING id"
                row = connection.execute(query).fetchone()
                assert row is not None
                self.acknowledged.append(row[0])

    def end(self) -> None:
        """Stop and wait."""
        self._ending.set()
        self.join(30)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_fifty_times_under_load() -> None:
    """After every kill -9 the next start repairs itself; at the end every row is in a restore from each store."""
    chance = random.Random(20261122)
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as site:
        cluster.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        load = Load(cluster)
        load.start()
        try:
            site.run("snapshot", "take", "frk")
            for life in range(KILLS):
                if life % 5 == 0:  # however slow this machine is, not every life ends before it has begun
                    site.wait(lambda: site.answers("/readyz"))
                time.sleep(chance.uniform(0.1, 1.1))
                site.kill_daemon()
                site.start_daemon(wait=False)
        finally:
            load.end()
        end = cluster.lsn()
        site.wait(lambda: site.answers("/readyz"))
        site.shipped(end)
        coverage = site.run("wal", "coverage", "frk")
        for store in ("local", "offsite"):
            assert len(coverage[store]["ranges"]) == 1, coverage
            assert coverage[store]["gaps"] == []
            assert number(coverage[store]["ranges"][0]["to_lsn"]) >= number(end)
        for store in ("local", "offsite"):
            assert_rows(site.restore("--latest", "--store", store, name=f"from-{store}")["port"], load.acknowledged)
            site.stop_restored(f"from-{store}")


def assert_rows(port: int, acknowledged: list[int]) -> None:
    """Every acknowledged row is there."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM kegiatan")}
    lost = set(acknowledged) - found
    assert not lost, f"{len(lost)} of {len(acknowledged)} rows are lost"
    assert len(acknowledged) > KILLS
