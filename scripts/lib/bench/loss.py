"""What a lost host costs: the age of the newest row restored from S3 alone; and what an idle daemon costs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil
import psycopg
from measure import Row, alone, cpu_of

from replicator.postgres.binaries import environment
from tests.clusters import TestCluster, make_cluster, run_as_owner
from tests.e2e.site import Site, site_of
from tests.servers import S3Server, rclone_server

_IDLE_SECONDS = 20.0
_SCALE = 10


def idle_row(base: Path, say: Callable[[str], None]) -> Row:
    """Two clusters that nobody writes to, two directory stores each, one daemon."""
    with make_cluster(base) as frk, make_cluster(base) as fed, site_of(base, frk) as site:
        other = site.neighbour(fed, "fed")
        for one in (site, other):
            one.run("init", one.name, "--sheet", str(site.base / f"sheet-{one.name}"))
        site.start_daemon()
        for one in (site, other):
            one.shipped(one.cluster.lsn())
        time.sleep(3)
        assert site.daemon is not None
        before = cpu_of(site.daemon.pid)
        time.sleep(_IDLE_SECONDS)
        percent = (cpu_of(site.daemon.pid) - before) / _IDLE_SECONDS * 100
    say(f"idle: {percent:.2f} % of a core")
    return alone("idle daemon, two clusters with two directory stores, % of a core", percent, target=1.0, runs=1)


class Loss:
    """A primary under pgbench and its daemon, killed together at a random moment; S3 is what is left."""

    def __init__(self, base: Path, seed: int, say: Callable[[str], None]) -> None:
        self._base, self._say, self._chance = base, say, random.Random(seed)

    def rows(self, runs: int) -> list[Row]:
        """Median and worst of `runs`."""
        conf = {"fsync": "on", "shared_buffers": "128MB", "max_wal_size": "1GB"}
        with (
            rclone_server(self._base / "s3") as s3,
            make_cluster(self._base, conf=conf) as cluster,
            site_of(self._base, cluster) as site,
        ):
            run_as_owner([*_pgbench(cluster), "-i", "-q", "-s", _SCALE, "postgres"])
            s3_stores(site, s3)
            site.run("init", "frk", "--sheet", str(site.base / "sheet"))
            ages = [self._once(site, turn) for turn in range(runs)]
        work = "age of the newest row in a restore from S3 alone, primary and daemon killed under pgbench -c 4, s"
        return [
            alone(f"{work}: median", median(ages), target=1.0, runs=runs),
            alone(f"{work}: worst", max(ages), target=2.0, runs=runs),
        ]

    def _once(self, site: Site, turn: int) -> float:
        cluster = site.cluster
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        site.shipped(cluster.lsn())
        load = subprocess.Popen(
            [str(part) for part in (*_pgbench(cluster), "-n", "-c", "4", "-j", "2", "-T", "60", "postgres")],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            time.sleep(self._chance.uniform(2.0, 6.0))
            vanished = self._vanish(site)
        finally:
            load.kill()
            load.wait()
        with _away(site.base / "spool", site.base / "local"):
            rows, newest = self._restored(site, f"restored-{turn}")
        cluster.start()
        had = cluster.value("SELECT count(*) FROM pgbench_history")
        self._say(f"loss {turn + 1}: newest row {vanished - newest:.2f} s old, {had - rows} of {had} rows not in S3")
        return vanished - newest

    def _restored(self, site: Site, name: str) -> tuple[int, float]:
        """Restore from S3: how many rows, and when the newest was written."""
        result = site.restore("--latest", "--store", "offsite", name=name)
        place = f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres"
        with psycopg.connect(place) as connection:
            row = connection.execute(
                "SELECT count(*), extract(epoch FROM max(mtime))::float8 FROM pgbench_history"
            ).fetchone()
        site.stop_restored(name)
        shutil.rmtree(site.base / name, ignore_errors=True)
        assert row is not None
        return int(row[0]), float(row[1])

    def _vanish(self, site: Site) -> float:
        """SIGKILL to the daemon and every process of the primary; when that was."""
        assert site.daemon is not None
        postmaster = psutil.Process(int((site.cluster.directory / "postmaster.pid").read_text().split()[0]))
        doomed = [postmaster, *postmaster.children(recursive=True)]
        moment = time.time()
        os.kill(site.daemon.pid, signal.SIGKILL)
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:  # a client's process that ended by itself
                continue
        psutil.wait_procs(doomed, timeout=10)
        site.kill_daemon()
        return moment


def s3_stores(site: Site, s3: S3Server) -> None:
    """A policy with a directory and an S3 store."""
    for kind, text in (("access", s3.access_key), ("secret", s3.secret_key)):
        path = site.policies / kind
        path.write_text(text)
        path.chmod(0o600)
    site.write_policy(
        stores=f"""[[store]]
name = "local"
url = "file://{site.base}/local"
[[store]]
name = "offsite"
url = "s3://{s3.bucket}"
endpoint = "{s3.endpoint}"
region = "us-east-1"
access_key = {{ file = "{site.policies}/access" }}
secret_key = {{ file = "{site.policies}/secret" }}
"""
    )


@contextmanager
def _away(*directories: Path) -> Iterator[None]:
    """What lay on the lost host can't be read meanwhile."""
    moved = [(path, path.with_name(f"{path.name}-lost")) for path in directories]
    for path, aside in moved:
        path.rename(aside)
    try:
        yield
    finally:
        for path, aside in moved:
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)


def _pgbench(cluster: TestCluster) -> list[object]:
    return [cluster.binaries.program("pgbench"), "-h", "127.0.0.1", "-p", cluster.port, "-U", "postgres"]
