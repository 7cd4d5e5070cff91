"""Point-in-time recovery: two gigabytes of WAL replayed from our repository, and by `cp` from a local directory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from measure import Row, against
from snapshot_loads import pgbench
from snapshot_tools import WORKERS, Ours, quiet, warm

from replicator.postgres.localserver import free_port
from tests.clusters import OWNER, TestCluster, make_cluster, own, run_as_owner
from tests.e2e.site import Site, number, site_of

_BYTES = 2 * 10**9
_DEADLINE = 1800.0
_COUNT = b"SELECT count(*) FROM pgbench_history"
_CONF = {
    "fsync": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "512MB",
    "autovacuum": "off",
    "archive_mode": "on",
}


class Replay:
    """A small snapshot and much WAL after it."""

    def __init__(self, base: Path, scale: float, say: Callable[[str], None]) -> None:
        self._base, self._scale, self._say = base, scale, say
        self._rows = 0

    def rows(self, pairs: int) -> list[Row]:
        """Restores to the WAL's end. The restore of the snapshot alone is timed in each pair and taken off ours."""
        archive = self._base / "archive"
        archive.mkdir()
        own(archive)
        conf = {**_CONF, "archive_command": f"cp %p {archive}/%f"}
        ours: list[float] = []
        peer: list[float] = []
        with make_cluster(self._base, conf=conf) as cluster, site_of(self._base, cluster) as site:
            tool = Ours(site)
            size = self._history(site, cluster)
            for turn in range(pairs):
                warm(tool.store, archive)
                if turn % 2 == 0:
                    whole = self._whole(site)
                    base, replay = self._by_cp(tool, site, archive)
                else:
                    base, replay = self._by_cp(tool, site, archive)
                    whole = self._whole(site)
                ours.append(whole - base)
                peer.append(replay)
                self._say(f"replay {turn + 1}: ours {ours[-1]:.2f} s ({whole:.2f} less {base:.2f}), cp {replay:.2f} s")
        work = f"PITR replay of {size / 1e6:.0f} MB of WAL, wall s; cp from a local directory"
        return [against(work, ours, peer, target=1.1, better="lower")]

    def _history(self, site: Site, cluster: TestCluster) -> int:
        """A snapshot, then WAL in both places: its bytes."""
        self._say("replay: making the history")
        pgbench(cluster, "-i", "-q", "-s", max(1, round(20 * self._scale)))
        site.start_daemon()
        site.run("snapshot", "take", "frk", timeout=600)
        begin = number(cluster.lsn())
        wanted, until = begin + int(_BYTES * self._scale), time.monotonic() + _DEADLINE
        while number(cluster.lsn()) < wanted and time.monotonic() < until:
            pgbench(cluster, "-n", "-c", 4, "-j", 2, "-T", 3)
        cluster.switch_wal()
        cluster.sql("CHECKPOINT")
        quiet(site, cluster)
        size = number(cluster.lsn()) - begin
        self._rows = int(cluster.value(_COUNT.decode()))
        site.kill_daemon(15)
        cluster.stop()
        return size

    def _whole(self, site: Site) -> float:
        """Our restore to the end, started and recovered."""
        place = site.base / "whole"
        owner = ("--owner", OWNER) if OWNER else ()
        began = time.monotonic()
        line = ["restore", "frk", "--into", str(place), "--latest", "--start", "--workers", str(WORKERS), *owner]
        told = site.run(*line, timeout=_DEADLINE)
        self._check(told["port"])
        seconds = time.monotonic() - began
        site.stop_restored("whole")
        _clear(place)
        return seconds

    def _check(self, port: int) -> None:
        """Wait until the server has recovered. A recovery that lost something is not worth its time."""
        until = time.monotonic() + _DEADLINE
        while True:
            try:
                with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
                    row = connection.execute(_COUNT).fetchone()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < until, "the recovery does not end"
                time.sleep(0.05)
        assert row is not None
        assert row[0] == self._rows, f"{row[0]} rows instead of {self._rows}"

    def _by_cp(self, tool: Ours, site: Site, archive: Path) -> tuple[float, float]:
        """Seconds of our restore of the snapshot alone, and of a recovery from there whose WAL comes from `cp`."""
        place = site.base / "by-cp"
        label = str(site.run("snapshot", "list", "frk")[0]["label"])
        base = tool.restore(label, place).seconds
        with (place / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"restore_command = 'cp {archive}/%f %p'\nrecovery_end_command = ''\nrecovery_target = ''\n")
            conf.write("recovery_target_action = 'promote'\nrecovery_target_timeline = 'latest'\n")
        program = site.cluster.binaries.program("pg_ctl")
        port = free_port()
        options = f"-p {port} -k {place}"
        began = time.monotonic()
        line = [program, "start", "-s", "-w", "-t", int(_DEADLINE), "-D", place, "-l", site.base / "by-cp.log"]
        run_as_owner([*line, "-o", options], timeout=_DEADLINE)
        self._check(port)
        replay = time.monotonic() - began
        site.stop_restored("by-cp")
        _clear(place)
        return base, replay


def _clear(place: Path) -> None:
    for path in (place, place.with_name(place.name + ".replicator")):
        shutil.rmtree(path, ignore_errors=True)
