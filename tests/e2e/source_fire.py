"""What sources under fire are tested with: a load, the network to the primary, and the proof that nothing was lost."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import psutil
import psycopg

from tests.clusters import TestCluster
from tests.e2e.site import Site, number
from tests.proxy import Proxy

MB = 2**20
MEMORY = 200 * MB
STORES = ("local", "offsite")
SLOT = "replicator_frk"
#: The receiver asks for a sign of life after two thirds of it, and gives a silent source up after twice of it.
REQUEST_S = 2.0
SILENCE_S = 2 * REQUEST_S
#: The longest pause between two tries, a connection that does not stand, and this host's slowness.
FOLLOWED_S = 60.0


class Load(threading.Thread):
    """Commits rows on whichever server is the primary, and notes which were acknowledged."""

    def __init__(self, cluster: TestCluster) -> None:
        super().__init__(name="load", daemon=True)
        self.cluster = cluster
        self.acknowledged: list[int] = []
        self._ending, self._free, self._idle = threading.Event(), threading.Event(), threading.Event()
        self._free.set()

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.is_set():
            try:
                with psycopg.connect(self.cluster.conninfo(), autocommit=True, connect_timeout=5) as connection:
                    self._write(connection)
            except psycopg.OperationalError:
                self._ending.wait(0.05)
            if not self._free.is_set():
                self._idle.set()
                self._free.wait(120)
                self._idle.clear()

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        query = b"INSERT INTO kegiatan (isi) VALUES (repeat(md5(random()::text), 20)) RETURNING id"
        while self._free.is_set() and not self._ending.wait(0.01):
            row = connection.execute(query).fetchone()
            assert row is not None
            self.acknowledged.append(row[0])

    def pause(self) -> None:
        """Stop after the row at hand, and wait for that."""
        self._free.clear()
        assert self._idle.wait(60)

    def go_on(self) -> None:
        """Write again."""
        self._free.set()

    def end(self) -> None:
        """Stop and wait."""
        self._ending.set()
        self._free.set()
        self.join(30)


class Line(Proxy):
    """The network between daemon and primary."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._forgotten: list[threading.Event] = []

    def reroute(self) -> None:
        """New connections work again; what was open stays silent for ever, at both ends."""
        self._forgotten.append(self._hearing)
        self._hearing = threading.Event()
        self.resume()

    def stop(self) -> None:
        """End everything."""
        for hearing in self._forgotten:
            hearing.set()
        super().stop()


@contextmanager
def line_to(cluster: TestCluster) -> Iterator[Line]:
    """A running line to a cluster."""
    line = Line(cluster.port)
    line.start()
    try:
        yield line
    finally:
        line.stop()


class Fire:
    """A site that reaches its primary through a line, and a load that never ends."""

    def __init__(self, site: Site, line: Line) -> None:
        self.site, self.line = site, line
        self.load = Load(site.cluster)
        self._stores = cycle(STORES)
        self._restored = 0

    @property
    def cluster(self) -> TestCluster:
        """The primary."""
        return self.load.cluster

    def state(self) -> str:
        """What the daemon says of the source."""
        return str(self.site.status()["source"]["state"])

    def problems(self) -> list[str]:
        """What the daemon finds wrong, and what it says to do about it."""
        return [f"{problem['text']}. {problem['hint']}" for problem in self.site.status()["problems"]]

    def walsender(self) -> tuple[int, str]:
        """The process that serves us, and up to where it was told that all is safe; (0, "") when there is none."""
        rows = self.cluster.sql(
            "SELECT pid, flush_lsn::text FROM pg_stat_replication WHERE application_name = %s", (SLOT,)
        )
        return rows[0] if rows else (0, "")

    def heard(self) -> None:
        """Wait until the daemon has said that a row which was just committed arrived."""
        self.cluster.sql("INSERT INTO kegiatan (isi) VALUES ('heard')")
        end = number(self.cluster.lsn())
        self.site.wait(lambda: number(self.walsender()[1]) >= end, FOLLOWED_S)

    def well(self) -> None:
        """Wait until everything committed so far is in both stores, and nothing is wrong."""
        end = number(self.cluster.lsn())

        def reached() -> bool:
            status = self.site.status()
            durable = [number(status["stores"][store]["durable_lsn"]) for store in STORES]
            return bool(min(durable) >= end and status["source"]["state"] == "streaming" and status["ok"])

        self.site.wait(reached, 60)

    def said(self, *words: str) -> None:
        """Wait until the daemon says one of these of something that is wrong."""
        self.wait(lambda: any(word in problem for word in words for problem in self.problems()))

    def wait(self, true: Callable[[], bool], seconds: float = FOLLOWED_S) -> None:
        """Wait for something."""
        self.site.wait(true, seconds)

    def nothing_lost(self) -> None:
        """Everything up to the primary's end is in both stores, without a gap; a restore from one of them, in turn,
        has every acknowledged row. The daemon stays small.
        """
        self.load.pause()
        end = number(self.cluster.lsn())  # before `well`: an idle server goes on writing a little
        self.well()
        coverage = self.site.run("wal", "coverage", "frk")
        for store in STORES:
            ranges, gaps = coverage[store]["ranges"], coverage[store]["gaps"]
            assert gaps == [], coverage
            assert len({held["timeline"] for held in ranges}) == len(ranges), coverage
            assert number(ranges[-1]["to_lsn"]) >= end, coverage
        self._restore_has(set(self.load.acknowledged), next(self._stores))
        assert self.memory() < MEMORY, f"{self.memory() >> 20} MB"
        self.load.go_on()

    def _restore_has(self, rows: set[int], store: str) -> None:
        self._restored += 1
        name = f"restored-{self._restored}"
        restored = self.site.restore("--latest", "--store", store, name=name)
        try:
            with psycopg.connect(f"host=127.0.0.1 port={restored['port']} user=postgres dbname=postgres") as connection:
                found = {row[0] for row in connection.execute("SELECT id FROM kegiatan")}
        finally:
            self.site.stop_restored(name)
            shutil.rmtree(self.site.base / name)
        assert rows
        assert not rows - found, f"{len(rows - found)} of {len(rows)} rows are lost"

    def memory(self) -> int:
        """The daemon's resident bytes."""
        assert self.site.daemon is not None
        return int(psutil.Process(self.site.daemon.pid).memory_info().rss)


def add_patience(site: Site, text: str = "") -> None:
    """Short patience, so that silence is noticed in seconds; [tolerance] is the policy's last table."""
    with (site.policies / "frk.toml").open("a") as policy:
        policy.write(f'request_timeout = "{REQUEST_S:g}s"\nbreaker_reset = "1s"\n{text}')


def through(*lines: Line, also: str = "") -> str:
    """The source's conninfo, through these lines."""
    hosts, ports = ",".join("127.0.0.1" for _ in lines), ",".join(str(line.port) for line in lines)
    return f'conninfo = "host={hosts} port={ports} user=replicator dbname=postgres {also}"'


@contextmanager
def burning(fire: Fire) -> Iterator[Fire]:
    """A site with a repository, a daemon, a snapshot and a load."""
    site = fire.site
    site.cluster.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
    site.run("init", "frk", "--sheet", str(site.base / "sheet"))
    site.start_daemon()
    fire.load.start()
    try:
        site.run("snapshot", "take", "frk")
        yield fire
    finally:
        fire.load.end()
        site.close()
