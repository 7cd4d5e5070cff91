"""Snapshots over the network and beside the server, while the server is worked hard: both give the same cluster."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster, run_as_owner
from tests.e2e.site import Site, site_of

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]


class Unrest:
    """pgbench, and files that vanish, appear, shrink and are written anew, until left."""

    def __init__(self, cluster: TestCluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self.rounds = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        server = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres"]
        self._pgbench = subprocess.Popen(
            [str(cluster.binaries.directory / "pgbench"), *server, "-n", "-c", "2", "-T", "300", "postgres"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Unrest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pgbench.terminate()
        self._thread.join(120)
        self._pgbench.wait(60)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  # told where it is left
            self.error = error

    def _work(self) -> None:
        with self._cluster.session() as session:
            while not self._stop.is_set():
                self.rounds += 1
                name = f"sementara_{self.rounds}"
                for statement in (
                    f"CREATE DATABASE {name}", "VACUUM FULL pgbench_tellers", "VACUUM FULL pgbench_accounts",
                    f"CREATE TABLE {name} AS SELECT g FROM generate_series(1, 20000) g", f"TRUNCATE {name}",
                    f"INSERT INTO {name} VALUES ({self.rounds})",
                    f"DROP DATABASE IF EXISTS sementara_{max(0, self.rounds - 2)}",
                    f"DROP TABLE IF EXISTS sementara_{max(0, self.rounds - 2)}",
                ):  # fmt: skip
                    if self._stop.is_set():
                        return
                    with suppress(psycopg.errors.DeadlockDetected):
                        session.execute(statement.encode())


@contextmanager
def unrest(cluster: TestCluster) -> Iterator[Unrest]:
    """A running `Unrest` that has gone round once."""
    with Unrest(cluster) as found:
        while found.rounds < 2 and found.error is None:
            time.sleep(0.05)
        yield found


def take(site: Site, *, beside: bool) -> dict[str, Any]:
    """A full snapshot by that way, which its progress must tell."""
    conninfo = f'conninfo = "{site.cluster.conninfo("replicator")}"'
    site.write_policy(source=f'{conninfo}\ndata_directory = "{site.cluster.directory}"' if beside else conninfo)
    done = site.command("snapshot", "take", "frk", "--full", "--progress", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any('"data_directory"' in line for line in lines) == beside
    label = next(row["label"] for row in site.run("snapshot", "list", "frk")[::-1])
    return {"label": label}


def sums(cluster: TestCluster, port: int) -> list[Any]:
    """Every database, every table, and what is in them."""
    found: list[Any] = []
    line = f"host=127.0.0.1 port={port} user=postgres dbname="
    with psycopg.connect(f"{line}postgres", autocommit=True) as session:
        names = session.execute("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1").fetchall()
        tables = session.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        ).fetchall()
        for (table,) in tables:
            query = f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"
            found.append((table, session.execute(query.encode()).fetchall()))
    return [names, *found]


@pytest.mark.timeout(600)
def test_both_ways_give_the_same_cluster() -> None:
    """Each restored cluster is sound in every database, and equal to the source at the same LSN; tablespaces inside the
    data directory are where they were, whether the snapshot or the WAL brings them.
    """
    conf = {"max_wal_size": "1GB"}
    with cluster_base() as base, make_cluster(base, conf=conf) as cluster, site_of(base, cluster) as site:
        server = ["-h", "127.0.0.1", "-p", str(cluster.port), "-U", "postgres"]
        run_as_owner([cluster.binaries.directory / "pgbench", "-i", "-q", "-s", "1", *server, "postgres"])
        cluster.sql("CREATE EXTENSION amcheck")
        cluster.sql("CREATE UNLOGGED TABLE lepas AS SELECT 1 AS id")
        cluster.sql(
            "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO replicator"
            if cluster.binaries.major >= 15
            else "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
            " TO replicator"
        )
        site.run("init", "frk", "--sheet", str(base / "sheet"))
        site.start_daemon()
        with unrest(cluster):
            labels = [take(site, beside=False)["label"]]
            if cluster.binaries.major >= 15:
                in_place(cluster)
            labels.append(take(site, beside=True)["label"])
        # pgbench is gone; its last transaction may not be.
        others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename = 'postgres'"
        site.wait(lambda: cluster.value(others) == 1)
        cluster.sql("TRUNCATE lepas")
        expected = sums(cluster, cluster.port)
        site.shipped(cluster.lsn())
        for name in labels:
            restored = site.restore("--latest", "--snapshot", name, name=name)
            assert sums(cluster, restored["port"]) == expected
            amcheck(cluster, restored["port"])
            site.stop_restored(name)


def in_place(cluster: TestCluster) -> None:
    """A table in a tablespace inside the data directory."""
    with cluster.session() as session:
        session.execute("SET allow_in_place_tablespaces = on")
        session.execute("CREATE TABLESPACE setempat LOCATION ''")
        session.execute("CREATE TABLE di_tempat TABLESPACE setempat AS SELECT g AS id FROM generate_series(1, 5000) g")


def amcheck(cluster: TestCluster, port: int) -> None:
    """PostgreSQL's own word on every database that has the extension."""
    program = cluster.binaries.directory / "pg_amcheck"
    if program.exists():
        run_as_owner([program, "--all", "--heapallindexed", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"])
