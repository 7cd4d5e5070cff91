"""What the stream costs the primary: commits that wait for the daemon, throughput beside it, and what a lost primary
takes with it when commits wait.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import backrest
import psycopg
from measure import Row, against, alone

from replicator.postgres.binaries import environment
from tests.clusters import TestCluster, make_cluster, run_as_owner
from tests.e2e.site import Site, site_of

_COMMIT_S, _TPS_S = 6, 12
#: The daemon asks this often whether commits wait for it; both sides get the same pause.
_NOTICED_S = 11
_SCALE = 10
_CONF = {"fsync": "on", "shared_buffers": "256MB", "max_wal_size": "2GB", "archive_mode": "on",
         "archive_command": "true"}  # fmt: skip
_LATENCY = re.compile(r"latency average = ([0-9.]+) ms")
_TPS = re.compile(r"tps = ([0-9.]+) \(without initial")
_INSERT = "INSERT INTO bukti (isi) VALUES (md5(random()::text));\n"


class Cost:
    """One primary with fsync on; ours and the peer beside it in turn."""

    def __init__(self, base: Path, say: Callable[[str], None]) -> None:
        self._base, self._say = base, say

    def rows(self, pairs: int) -> list[Row]:
        """Commit latency, throughput, and rows lost."""
        with make_cluster(self._base, conf=_CONF) as cluster, site_of(self._base, cluster) as site:
            run_as_owner([*_pgbench(cluster), "-i", "-q", "-s", _SCALE, "postgres"])
            cluster.sql("CREATE TABLE bukti (id bigserial PRIMARY KEY, isi text)")
            cluster.sql("CHECKPOINT")
            site.write_policy(stores=f'[[store]]\nname = "local"\nurl = "file://{site.base}/local"\n')
            site.run("init", "frk", "--sheet", str(site.base / "sheet"))
            found = [self._latency(cluster, site, pairs), self._throughput(cluster, site, pairs)]
            return [*found, self._lost(cluster, site)]

    def _latency(self, cluster: TestCluster, site: Site, pairs: int) -> Row:
        """A synchronous commit that waits for the daemon's fsync, and one that waits for pg_receivewal's."""
        script = self._base / "insert.sql"
        script.write_text(_INSERT)
        ours: list[float] = []
        peer: list[float] = []
        for turn in range(pairs):
            steps: list[tuple[list[float], Callable[[TestCluster, Site], Iterator[None]]]] = [
                (ours, _with_daemon), (peer, _with_receivewal)
            ]  # fmt: skip
            for figures, beside in steps if turn % 2 == 0 else reversed(steps):
                with contextmanager(beside)(cluster, site), _synchronous(cluster):
                    time.sleep(_NOTICED_S)
                    said = run_as_owner(
                        [*_pgbench(cluster), "-n", "-c", 4, "-j", 2, "-T", _COMMIT_S, "-f", script, "postgres"]
                    )
                match = _LATENCY.search(said)
                assert match is not None, said
                figures.append(float(match[1]))
                self._say(f"commit latency {turn + 1}: {'ours' if figures is ours else 'pg_receivewal'} {match[1]} ms")
        work = "a synchronous commit's latency with the daemon as the standby, ms; peer: pg_receivewal --synchronous"
        return against(work, ours, peer, target=1.5, better="lower")

    def _throughput(self, cluster: TestCluster, site: Site, pairs: int) -> Row:
        """pgbench's TPC-B with the daemon beside it, and with pgBackRest's asynchronous archiving."""
        program = backrest.program()
        ours: list[float] = []
        peer: list[float] = []
        for turn in range(pairs):
            steps: list[tuple[list[float], Callable[[TestCluster, Site], Iterator[None]]]] = [(ours, _with_daemon)]
            if program is not None:
                steps.append((peer, lambda *given: _with_pgbackrest(self._base, program or "", *given)))
            for figures, beside in steps if turn % 2 == 0 else reversed(steps):
                cluster.sql("CHECKPOINT")
                with contextmanager(beside)(cluster, site):
                    said = run_as_owner([*_pgbench(cluster), "-n", "-c", 4, "-j", 2, "-T", _TPS_S, "postgres"])
                match = _TPS.search(said)
                assert match is not None, said
                figures.append(float(match[1]))
                self._say(f"throughput {turn + 1}: {'ours' if figures is ours else 'pgBackRest'} {match[1]} tps")
        work = "pgbench TPC-B with the daemon beside it, transactions/s; peer: pgBackRest asynchronous archiving"
        return against(work, ours, peer, target=0.97, better="higher")

    def _lost(self, cluster: TestCluster, site: Site) -> Row:
        """Only the primary vanishes while commits wait for the spool: confirmed rows that no restore has."""
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        confirmed = 0
        with _synchronous(cluster):
            postmaster = int((cluster.directory / "postmaster.pid").read_text().split()[0])
            try:
                with cluster.session() as connection:
                    until = time.monotonic() + 3
                    while True:
                        row = connection.execute("INSERT INTO bukti (isi) VALUES ('x') RETURNING id").fetchone()
                        assert row is not None
                        confirmed = int(row[0])
                        if time.monotonic() > until:
                            until = float("inf")
                            os.kill(postmaster, signal.SIGQUIT)
            except psycopg.OperationalError:
                self._say(f"the primary vanished after row {confirmed} was confirmed")
            site.wait(lambda: site.status()["source"]["state"] != "streaming")
            site.kill_daemon(signal.SIGTERM)
            result = site.restore("--latest", name="after")
            try:
                with psycopg.connect(f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres") as restored:
                    restored.execute("SET default_transaction_read_only = on")
                    row = restored.execute("SELECT max(id) FROM bukti").fetchone()
            finally:
                site.stop_restored("after")
            assert row is not None
            cluster.start()
        lost = max(0, confirmed - int(row[0]))
        work = "confirmed rows lost when only the primary vanishes, commits waiting for the spool"
        return alone(work, float(lost), target=0, runs=1)


@contextmanager
def _synchronous(cluster: TestCluster) -> Iterator[None]:
    """Commits wait for whoever streams as our slot's name, fsynced."""
    _set(cluster, "synchronous_standby_names", '"replicator_frk"')
    try:
        yield
    finally:
        if cluster.running:
            _set(cluster, "synchronous_standby_names", "")


def _set(cluster: TestCluster, name: str, value: str) -> None:
    cluster.configure({name: value})
    cluster.reload()
    until = time.monotonic() + 10
    while cluster.value("SELECT setting FROM pg_settings WHERE name = %s", (name,)) != value:
        assert time.monotonic() < until, f"{name} was not set"
        time.sleep(0.02)


def _with_daemon(cluster: TestCluster, site: Site) -> Iterator[None]:
    site.start_daemon()
    site.shipped(cluster.lsn(), ("local",))
    try:
        yield
    finally:
        site.kill_daemon(signal.SIGTERM)


def _with_receivewal(cluster: TestCluster, site: Site) -> Iterator[None]:
    received = site.base / "received"
    received.mkdir()
    cluster.sql("SELECT pg_create_physical_replication_slot('peer', true)")
    place = f"{cluster.conninfo()} application_name=replicator_frk"
    line = [cluster.binaries.program("pg_receivewal"), "-D", received, "-d", place, "-S", "peer", "--synchronous"]
    child = subprocess.Popen([str(part) for part in line], env=environment(), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while not cluster.sql("SELECT FROM pg_stat_replication WHERE application_name = 'replicator_frk'"):
            assert time.monotonic() < until, "pg_receivewal does not stream"
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait(20)
        shutil.rmtree(received)
        until = time.monotonic() + 20
        while cluster.value("SELECT active FROM pg_replication_slots WHERE slot_name = 'peer'"):
            assert time.monotonic() < until, "pg_receivewal's slot stays in use"
            time.sleep(0.05)
        cluster.sql("SELECT pg_drop_replication_slot('peer')")


def _with_pgbackrest(base: Path, program: str, cluster: TestCluster, _site: Site) -> Iterator[None]:
    """Its asynchronous archiving as archive_command."""
    peer = backrest.install(
        program, base / "archive", data=cluster.directory, port=cluster.port, sockets=cluster.socket_directory
    )
    peer.run("stanza-create")
    _set(cluster, "archive_command", peer.archive_command)
    try:
        yield
    finally:
        _set(cluster, "archive_command", "true")
        peer.finish()


def _pgbench(cluster: TestCluster) -> list[object]:
    return [cluster.binaries.program("pgbench"), "-h", "127.0.0.1", "-p", cluster.port, "-U", "postgres"]
