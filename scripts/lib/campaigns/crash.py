"""The crash campaign: the daemon is killed at random moments and at named steps of receive, write, fsync, acknowledge,
seal, put and remove; in between the primary crashes, restarts and is replaced by its standby, and the spool is
deleted. A ledger of committed rows grows meanwhile. At random moments and at the end both stores are restored and held
against it.
"""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import psycopg

from scripts.lib.campaigns.verdict import arguments, conclude
from tests.clusters import TestCluster, cluster_base, make_cluster
from tests.doomed import STEPS
from tests.e2e.site import Site, number, site_of

STORES = ("local", "offsite")
#: What happens in a run, and how often of a hundred.
KINDS = {
    "kill": 40,
    "kill_at_step": 40,
    "primary_crash": 6,
    "primary_restart": 4,
    "promote": 2,
    "spool_deleted": 4,
    "kill_snapshot": 4,
}
CHECK_EVERY = 40


class Load(threading.Thread):
    """Commits rows on whichever server is primary; notes each that was acknowledged."""

    def __init__(self, campaign: Campaign) -> None:
        super().__init__(name="load")
        self._campaign, self._ending, self._free = campaign, threading.Event(), threading.Event()
        self._free.set()
        self._idle = threading.Event()
        self.acknowledged: list[int] = []

    def run(self) -> None:
        """Until `end`."""
        while not self._ending.is_set():
            try:
                with psycopg.connect(
                    self._campaign.primary.conninfo(), autocommit=True, connect_timeout=5
                ) as connection:
                    self._write(connection)
            except psycopg.OperationalError:
                self._ending.wait(0.1)

    def _write(self, connection: psycopg.Connection[Any]) -> None:
        query = b"INSERT INTO kegiatan (isi) VALUES (repeat(md5(random()::text), 80)) RETURNING id"
        while not self._ending.wait(0.002):
            if not self._free.is_set():
                self._idle.set()
                self._free.wait(60)
                self._idle.clear()
                return
            row = connection.execute(query).fetchone()
            assert row is not None
            self.acknowledged.append(row[0])

    def pause(self) -> None:
        """Stop after the row at hand, and wait for that."""
        self._free.clear()
        self._idle.wait(30)

    def go_on(self) -> None:
        """Write again."""
        self._free.set()

    def end(self) -> None:
        """Stop and wait."""
        self._ending.set()
        self._free.set()
        self.join(30)


class Campaign:
    """One cluster, one standby, one site, many runs."""

    def __init__(self, base: Any, seed: int) -> None:
        self.chance = random.Random(seed)
        conf = {"wal_keep_size": "256MB", "fsync": "on"}
        self.primary: TestCluster = make_cluster(base, wal_segsize_mb=1, conf=conf)
        self.primary.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
        self.standby = self.primary.standby()
        self.by_kind: Counter[str] = Counter()
        self.lost = self.missed = self.unrepaired = 0
        self.findings: list[str] = []
        self.load = Load(self)

    def source(self) -> str:
        """conninfo with both servers."""
        ports = f"{self.primary.port},{self.standby.port}"
        return f'conninfo = "host=127.0.0.1,127.0.0.1 port={ports} user=replicator dbname=postgres"'

    def run(self, site: Site, runs: int) -> None:
        """All runs, then the last check."""
        site.write_policy(source=self.source())
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        self.load.start()
        try:
            site.run("snapshot", "take", "frk")
            for turn in range(1, runs + 1):
                kind = self.chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
                self.by_kind[kind] += 1
                getattr(self, kind)(site)
                if turn % CHECK_EVERY == 0:
                    self.check(site, f"run {turn}")
        finally:
            self.load.end()
        self.check(site, "the end")

    def again(self, site: Site) -> None:
        """The next start must repair itself."""
        site.start_daemon(wait=False)

    def kill(self, site: Site) -> None:
        """SIGKILL at a random moment."""
        time.sleep(self.chance.uniform(0.2, 1.8))
        site.kill_daemon()
        self.again(site)

    def kill_at_step(self, site: Site) -> None:
        """SIGKILL at a named step, some way into the run."""
        site.kill_daemon()
        step = f"{self.chance.choice(('before', 'after'))} {self.chance.choice(STEPS)}"
        site.start_daemon(wait=False, doom=(step, self.chance.randint(1, 60)))
        assert site.daemon is not None
        try:
            site.daemon.wait(self.chance.uniform(2, 4))
        except Exception:  # noqa: BLE001 — the step was not reached in that time: killed anyway
            site.kill_daemon()
        site.daemon = None
        self.again(site)

    def kill_snapshot(self, site: Site) -> None:
        """The daemon dies while a snapshot is taken by hand; the next one must work."""
        site.wait(lambda: site.answers("/readyz"))
        child = site.spawn("snapshot", "take", "frk")
        time.sleep(self.chance.uniform(0.1, 1.5))
        child.kill()
        child.wait()
        site.kill_daemon()
        self.again(site)

    def primary_crash(self, _: Site) -> None:
        """The primary stops as in a crash, and comes back."""
        time.sleep(self.chance.uniform(0.1, 0.6))
        self.primary.crash()
        self.primary.start()

    def primary_restart(self, _: Site) -> None:
        """The primary is restarted: a fast shutdown waits until the daemon has everything."""
        self.primary.restart()

    def promote(self, site: Site) -> None:
        """The standby takes over after it has everything; the old primary is thrown away, a new standby is made."""
        self.load.pause()
        end = self.primary.lsn()
        site.wait(lambda: number(self.standby.value("SELECT pg_last_wal_replay_lsn()::text")) >= number(end))
        old, self.primary = self.primary, self.standby
        old.crash()
        self.primary.promote()
        old.destroy()
        self.standby = self.primary.standby()
        site.write_policy(source=self.source())
        site.kill_daemon()
        self.load.go_on()
        self.again(site)

    def spool_deleted(self, site: Site) -> None:
        """The daemon's host loses its spool."""
        site.kill_daemon()
        shutil.rmtree(site.base / "spool", ignore_errors=True)
        self.again(site)

    def check(self, site: Site, when: str) -> None:
        """Restore from each store, hold against the ledger; coverage against the primary's LSN."""
        try:
            site.wait(lambda: site.answers("/readyz"))
            rows = list(self.load.acknowledged)
            end = self.primary.lsn()
            site.shipped(end)
        except AssertionError as error:
            self.unrepaired += 1
            self.findings.append(f"{when}: not repaired: {error}")
            site.kill_daemon()
            site.start_daemon(wait=False)
            return
        coverage = site.run("wal", "coverage", "frk")
        for store in STORES:
            held = list(coverage[store]["ranges"])
            holes = [pair for pair in pairwise(held) if pair[0]["timeline"] == pair[1]["timeline"]]
            if len(holes) > len(coverage[store]["gaps"]) or number(held[-1]["to_lsn"]) < number(end):
                self.missed += 1
                self.findings.append(f"{when}: {store} has a hole that no gap tells: {coverage[store]}")
            lost = self.restored(site, store, rows)
            if lost:
                self.lost += len(lost)
                self.findings.append(f"{when}: {store} lacks {len(lost)} of {len(rows)} rows, for example {min(lost)}")

    def restored(self, site: Site, store: str, rows: list[int]) -> set[int]:
        """The rows of the ledger that a restore from `store` alone lacks."""
        name = f"{store}-{self.chance.getrandbits(32):08x}"
        result = site.restore("--latest", "--store", store, name=name)
        try:
            with psycopg.connect(f"host=127.0.0.1 port={result['port']} user=postgres dbname=postgres") as connection:
                found = {row[0] for row in connection.execute("SELECT id FROM kegiatan")}
        finally:
            site.stop_restored(name)
            shutil.rmtree(site.base / name, ignore_errors=True)
        return set(rows) - found


def main() -> int:
    """Run the campaign; 1 if anything was lost, missed or not repaired."""
    options = arguments("crash", __doc__, runs=50, what="crashes").parse_args()
    began = time.monotonic()
    with cluster_base() as base:
        campaign = Campaign(base, options.seed)
        try:
            with site_of(base, campaign.primary) as site:
                campaign.run(site, options.runs)
        finally:
            campaign.primary.destroy()
            campaign.standby.destroy()
    for finding in campaign.findings:
        print(finding, file=sys.stderr)
    return conclude(options, campaign, began, rows=len(campaign.load.acknowledged))


if __name__ == "__main__":
    sys.exit(main())
