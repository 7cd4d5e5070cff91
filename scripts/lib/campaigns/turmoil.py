"""The campaign of turmoil: snapshots, by turns beside the server and over the network, of a cluster that works hard:
pgbench, VACUUM FULL, databases and tablespaces made and dropped, files that vanish, shrink and grow, a relation that
passes 1 GB meanwhile. Then each is restored to one quiet moment after it: the server starts, every relation of every
database passes pg_amcheck, and pg_dumpall is the source's at the same LSN.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replicator.postgres.sqlbackup import functions
from scripts.lib.campaigns.turmoil_load import GIGABYTE, Load
from scripts.lib.campaigns.verdict import arguments, conclude
from tests.clusters import MAJOR, OWNER, TestCluster, cluster_base, make_cluster, own, run_as_owner
from tests.e2e import shapes
from tests.e2e.site import COMMAND, Site, number, site_of

KINDS = ("local", "network")
CONF = {
    "max_wal_size": "2GB",
    "autovacuum_naptime": "1s",
    "max_connections": "40",
    "shared_buffers": "64MB",
    "wal_keep_size": "256MB",
}
#: So slow that all kinds of work go on while files are read.
_RATE = "100MB"
_DEADLINE = 900.0


class Campaign:
    """One cluster, many snapshots."""

    def __init__(self, cluster: TestCluster, site: Site, seed: int) -> None:
        self.cluster, self.site, self.chance = cluster, site, random.Random(seed)
        self.by_kind: Counter[str] = Counter()
        self.lost = self.missed = self.unrepaired = 0
        self.told: list[dict[str, Any]] = []
        self.load = Load(cluster, self.chance)
        self._when = ""
        self._amcheck = (cluster.binaries.directory / "pg_amcheck").exists() and bool(
            cluster.sql("SELECT FROM pg_available_extensions WHERE name = 'amcheck'")
        )

    def run(self, runs: int) -> None:
        """All runs."""
        names = ", ".join(functions(self.cluster.binaries.major * 10000))
        self.cluster.sql(f"GRANT EXECUTE ON FUNCTION {names} TO replicator")
        self.load.fill()
        self.site.run("init", "frk", "--sheet", str(self.site.base / "sheet"))
        self.site.start_daemon()
        for turn in range(1, runs + 1):
            kind = KINDS[(turn - 1) % 2]
            self.by_kind[kind] += 1
            self._when = f"run {turn} ({kind})"
            self._one(kind, f"tenang_{turn}")

    def _one(self, kind: str, point: str) -> None:
        self.load.prepare()
        self._policy(beside=kind == "local")
        if kind == "network" and MAJOR < 16:  # such a server leaves them out, and a snapshot is refused
            self.load.forget_in_place()
        self.load.begin(in_place=MAJOR >= 15 and (kind == "local" or MAJOR >= 16))
        try:
            taken = self._take(beside=kind == "local")
        finally:
            self.load.end()
        self._provoked(kind)
        if taken is None:
            return
        self.cluster.sql("SELECT pg_create_restore_point(%s)", (point,))
        expected = shapes.dump(self.cluster, self.cluster.port)
        end = number(self.cluster.lsn())
        self.site.wait(
            lambda: all(number(store["durable_lsn"]) >= end for store in self.site.status()["stores"].values()),
            _DEADLINE,
        )
        with self._away():
            found = self._restored(taken["label"], point, expected)
        if found:
            self.lost += 1
            self._find(found)
        facts = {"kind": kind, "parent": taken["parent"], "added_bytes": taken["added_bytes"], "lines": len(expected)}
        self.told.append({**facts, **self.load.done})
        print(f"{self._when}: {self.told[-1]}, disturbed {dict(self.load.disturbed)}", file=sys.stderr, flush=True)

    def _take(self, *, beside: bool) -> dict[str, Any] | None:
        """A snapshot, in which the large relation grows as soon as files are read; None when it failed."""
        full = ["--full"] if self.chance.random() < 0.3 else []
        line = [*COMMAND, "snapshot", "take", "frk", *full, "--progress", "json", "--policies", str(self.site.policies)]
        growing, read = threading.Thread(target=self.load.grow), ""
        result: dict[str, Any] | None = None
        heard = []
        with subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            for text in child.stdout:
                heard.append(text)
                event = json.loads(text)
                if event["event"] == "result":
                    result = event["result"]
                elif event.get("phase") == "source":
                    read = str(event["facts"]["data_directory"])
                elif event.get("phase") == "read" and growing.ident is None:
                    growing.start()
            errors = child.stderr.read()
            code = child.wait(_DEADLINE)
        if growing.ident is not None:
            growing.join(_DEADLINE)
        if code != 0 or result is None or errors:
            self.unrepaired += 1
            self._find(f"snapshot take ended with {code}: {''.join(heard[-3:])} {errors[-2000:]}")
        if bool(read) != beside:
            self._miss(f"the snapshot was read {'beside the server' if read else 'over the network'}")
        return result

    def _provoked(self, kind: str) -> None:
        """Whether the snapshot met what it was to meet."""
        if self.load.large <= GIGABYTE:
            self._miss(f"the large relation has {self.load.large} pages only")
        expected = {"rewritten", "databases", "shrunk", "vanished", "tablespaces"}
        if kind == "local" and MAJOR >= 15:
            expected |= {"in_place"}
        if absent := sorted(expected - {name for name, count in self.load.done.items() if count}):
            self._miss(f"nothing of this went on: {', '.join(absent)}")

    @contextmanager
    def _away(self) -> Iterator[None]:
        """The source is stopped and its tablespaces lie elsewhere: the WAL makes those of later at the same places."""
        self.cluster.stop()
        moved = []
        for directory in self.load.directories:
            aside = directory.with_name(f"{directory.name}.aside")
            directory.rename(aside)
            directory.mkdir()
            own(directory)
            moved.append((directory, aside))
        try:
            yield
        finally:
            for directory, aside in moved:
                shutil.rmtree(directory)
                aside.rename(directory)
            self.cluster.start()
        self.site.wait(lambda: self.site.status()["source"]["state"] == "streaming", 120)

    def _restored(self, label: str, point: str, expected: list[str]) -> str:
        """What is wrong with what is restored; empty when nothing is."""
        into = self.site.base / "restored"
        shown = self.site.run("snapshot", "show", "frk", label)
        places: list[Path] = []
        line = ["restore", "frk", "--into", str(into), "--to-name", point, "--snapshot", label, "--start"]
        line += ["--owner", OWNER] if OWNER else []
        for space in shown["facts"]["tablespaces"]:
            if not space["in_place"]:
                places.append(self.site.base / f"ruang-{space['oid']}")
                line += ["--tablespace", f"{space['oid']}={places[-1]}"]
        done = self.site.command(*line, "--json", timeout=_DEADLINE)
        try:
            if done.returncode != 0:
                log = into / "replicator-start.log"
                return f"restore ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}{log}"
            port = json.loads(done.stdout)["port"]
            found = shapes.first_difference(expected, shapes.dump(self.cluster, port))
            return f"the dumps differ: {found[:1000]}" if found else self._checked(port)
        finally:
            self.site.stop_restored(into.name)
            for place in (into, into.with_name("restored.replicator"), *places):
                shutil.rmtree(place, ignore_errors=True)

    def _checked(self, port: int) -> str:
        """PostgreSQL's own word on every relation of every database."""
        if not self._amcheck:
            return ""
        line = [self.cluster.binaries.program("pg_amcheck"), "--all", "--install-missing", "--heapallindexed"]
        try:
            run_as_owner([*line, "-h", "127.0.0.1", "-p", port, "-U", "postgres"], timeout=_DEADLINE)
        except RuntimeError as error:
            return f"{error}"[:2000]
        return ""

    def _policy(self, *, beside: bool) -> None:
        conninfo = f'conninfo = "{self.cluster.conninfo("replicator")}"'
        directory = f'\ndata_directory = "{self.cluster.directory}"' if beside else ""
        self.site.write_policy(source=conninfo + directory)
        with (self.site.policies / "frk.toml").open("a") as policy:
            policy.write(f'[snapshot]\nrate_limit = "{_RATE}"\n')

    def _miss(self, text: str) -> None:
        self.missed += 1
        self._find(text)

    def _find(self, text: str) -> None:
        print(f"{self._when}: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run the campaign; 1 if a restored server differs, a snapshot failed, or did not meet what it was to meet."""
    options = arguments("turmoil", __doc__, runs=10, what="snapshots").parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped and files removed on the way out
    began = time.monotonic()
    with (
        cluster_base() as base,
        make_cluster(base, conf=CONF) as cluster,
        site_of(base, cluster) as site,
    ):
        campaign = Campaign(cluster, site, options.seed)
        try:
            campaign.run(options.runs)
        finally:
            campaign.load.end()
    return conclude(options, campaign, began, snapshots=campaign.told)


if __name__ == "__main__":
    sys.exit(main())
