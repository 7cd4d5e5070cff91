"""The campaign of kills: `snapshot take`, `restore`, `restore --delta` and `prune` get SIGKILL, with their children, at
a random moment, while rows are committed. Afterwards every manifest has its packs, a half-restored directory refuses
to start, the same verb run again completes, and what is restored equals the source.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from kills_ledger import BULK, SCATTER, Writer, facts_of

from replicator.postgres.localserver import free_port
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.layout import pack_name
from replicator.repository.manifests import read_summary
from tests.clusters import OWNER, TestCluster, cluster_base, make_cluster, run_as_owner
from tests.composed import composed
from tests.e2e.site import COMMAND, Site, site_of

STORES = ("local", "offsite")
#: What is killed, and how often of a hundred.
KINDS = {"take": 35, "take_full": 15, "restore": 15, "delta": 20, "prune": 15}
CHECK_EVERY = 10
_DEADLINE = 300.0


class Campaign:
    """One cluster, one site, many kills."""

    def __init__(self, cluster: TestCluster, site: Site, seed: int) -> None:
        self.cluster, self.site, self.chance = cluster, site, random.Random(seed)
        self.by_kind: Counter[str] = Counter()
        self.lost = self.missed = self.unrepaired = self.killed = 0
        self.findings: list[str] = []
        self._took = {"take": 3.0, "take_full": 3.0, "restore": 4.0, "delta": 4.0, "prune": 2.0}
        self._when = ""
        self._writer = Writer(cluster)
        self._restored = site.base / "restored"
        self._standing: list[str] = []

    def run(self, runs: int) -> None:
        """All runs, then the last check."""
        self.cluster.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
        self.cluster.sql(BULK)
        self._policy()
        self.site.run("init", "frk", "--sheet", str(self.site.base / "sheet"))
        self.site.start_daemon()
        self._writer.start()
        try:
            self.site.run("snapshot", "take", "frk")
            for turn in range(1, runs + 1):
                kind = self.chance.choices(list(KINDS), weights=list(KINDS.values()))[0]
                self.by_kind[kind] += 1
                self._when = f"run {turn} ({kind})"
                getattr(self, kind)()
                self._whole()
                if turn % CHECK_EVERY == 0:
                    self._check()
        finally:
            self._writer.end()
        self._when = "the end"
        self._check()
        told = self.site.run("verify", "frk", "--objects", "--coverage", code=None, timeout=_DEADLINE)
        if not told["ok"]:
            self._miss(f"verify: {json.dumps(told)[:2000]}")

    def take(self, *options: str) -> None:
        """A snapshot of what changed here and there, read beside the server or over the network."""
        self.cluster.sql(SCATTER)
        self._policy(beside=self.chance.random() < 0.5)
        name = "take_full" if options else "take"
        self._kill(name, "snapshot", "take", "frk", *options)
        self._whole()
        self._again(name, "snapshot", "take", "frk", *options)

    def take_full(self) -> None:
        """The same without a parent."""
        self.take("--full")

    def restore(self) -> None:
        """A restore into an empty directory."""
        self._clear()
        with self._peace() as facts:
            line = self._line(self.chance.choice(STORES))
            self._kill("restore", *line)
            self._refuses([facts])
            left = self._restored.is_dir() and any(self._restored.iterdir())
            self._restore_again("restore", [*line, *(["--delta"] if left else [])], facts)

    def delta(self) -> None:
        """A restore over a cluster that ran on after its own restore."""
        if not (self._restored / "global/pg_control").exists():
            with self._peace() as facts:
                self._clear()
                self._restore_again("restore", self._line("local"), facts)
        self.cluster.sql(SCATTER)
        with self._peace() as facts:
            line = [*self._line(self.chance.choice(STORES)), "--delta"]
            self._kill("delta", *line)
            self._refuses([facts, self._standing])
            self._restore_again("delta", line, facts)

    def prune(self) -> None:
        """What an earlier snapshot alone needed goes, or has gone for a day."""
        self._again("take", "snapshot", "take", "frk", *self.chance.choice(((), ("--full",))))
        if self.chance.random() < 0.6:
            self.site.run("prune", "frk", timeout=_DEADLINE)
            self._age_notes()
        self._kill("prune", "prune", "frk")
        self._whole()
        self._again("prune", "prune", "frk")

    def _line(self, store: str) -> list[str]:
        owner = ["--owner", OWNER] if OWNER else []
        return ["restore", "frk", "--into", str(self._restored), "--latest", "--store", store, *owner]

    def _kill(self, name: str, *arguments: str) -> None:
        """Start a verb, and kill it and its children some way into what it took the last time."""
        line = [*COMMAND, *arguments, "--policies", str(self.site.policies)]
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            child.wait(self._took[name] * self.chance.uniform(0.15, 1.05))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(30)
            self.killed += 1

    def _again(self, name: str, *arguments: str) -> Any:
        """The verb must complete now."""
        began = time.monotonic()
        line = [*arguments, "--json"]
        done = self.site.command(*line, timeout=_DEADLINE)
        self._took[name] = time.monotonic() - began
        if done.returncode != 0 or "Traceback" in done.stderr:
            self.unrepaired += 1
            self._find(
                f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}"
            )
            return None
        return json.loads(done.stdout)

    def _restore_again(self, name: str, line: list[str], facts: list[str]) -> None:
        """The restore must complete, start, and equal the source."""
        told = self._again(name, *line, "--start")
        if told is None:
            self._clear()
            return
        found = facts_of(f"host=127.0.0.1 port={told['port']} user=postgres dbname=postgres")
        self._standing = found
        self.site.stop_restored(self._restored.name)
        if found != facts:
            self.lost += 1
            self._find(f"restored {found} instead of {facts}")

    def _refuses(self, allowed: list[list[str]]) -> None:
        """What a killed restore left does not start, unless it is whole: then it holds one of these states."""
        if not (self._restored / "PG_VERSION").exists():
            return
        port = free_port()
        log = self.site.base / "refused.log"
        line = [self.cluster.binaries.program("pg_ctl"), "start", "-s", "-w", "-t", 60, "-D", self._restored, "-l", log]
        run_as_owner([*line, "-o", f"-p {port} -k {self._restored}"], check=False)
        found = self._started(port)
        self.site.stop_restored(self._restored.name)
        if found is not None and found not in allowed:
            self._miss(f"a killed restore started with {found}, allowed are {allowed}")

    def _started(self, port: int) -> list[str] | None:
        """The facts of a server once it has recovered; None when it ended."""
        until = time.monotonic() + _DEADLINE
        while time.monotonic() < until:
            try:
                return facts_of(f"host=127.0.0.1 port={port} user=postgres dbname=postgres")
            except psycopg.Error:
                if not (self._restored / "postmaster.pid").exists():
                    return None
                time.sleep(0.1)
        return [f"neither started nor ended within {_DEADLINE:.0f} s"]

    @contextmanager
    def _peace(self) -> Iterator[list[str]]:
        """Nothing is written within the block: facts of the source, all of which both stores have."""
        with self._writer.turn:
            facts = facts_of(self.cluster.conninfo())
            self.site.shipped(self.cluster.lsn(), STORES)
            yield facts

    def _clear(self) -> None:
        for path in (self._restored, self._restored.with_name("restored.replicator")):
            shutil.rmtree(path, ignore_errors=True)

    def _whole(self) -> None:
        """No store has a manifest without its packs."""
        repository = composed(self.site.policies).repository(secrets=False)
        for name in STORES:
            store = repository.store(name)
            for system in system_ids(store):
                for snapshot in list_snapshots(store, system):
                    packs = [
                        pack_name(system, pack) for pack in read_summary(store, snapshot, repository.keyring).packs
                    ]
                    lacking = [pack for pack in packs if not self._has(name, pack)]
                    if lacking:
                        self._miss(f"{name}: {snapshot.label} lacks {lacking}")

    def _has(self, store: str, name: str) -> bool:
        return (self.site.base / store / "frk" / name).is_file()

    def _check(self) -> None:
        """Each store alone gives everything back."""
        for store in STORES:
            self._clear()
            with self._peace() as facts:
                self._restore_again("restore", self._line(store), facts)
        self._clear()

    def _age_notes(self) -> None:
        """Let a day pass for every note."""
        for store in STORES:
            for path in (self.site.base / store).rglob("*"):
                if "/notes/" in str(path) and path.is_file():
                    at = path.stat().st_mtime - 25 * 3600
                    os.utime(path, (at, at))

    def _policy(self, *, beside: bool = False) -> None:
        conninfo = f'conninfo = "{self.cluster.conninfo("replicator")}"'
        directory = f'\ndata_directory = "{self.cluster.directory}"' if beside else ""
        self.site.write_policy(source=conninfo + directory)
        with (self.site.policies / "frk.toml").open("a") as policy:
            policy.write('[retention]\nwindow = "0s"\nprune = "elsewhere"\n')

    def _miss(self, text: str) -> None:
        self.missed += 1
        self._find(text)

    def _find(self, text: str) -> None:
        self.findings.append(f"{self._when}: {text}")
        print(self.findings[-1], file=sys.stderr, flush=True)


def main() -> int:
    """Run the campaign; 1 if anything was lost, missed or not repaired."""
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="how many kills (default 50)")
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed draws the same kinds and moments (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped and files removed on the way out
    began = time.monotonic()
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1, conf={"max_wal_size": "256MB"}) as cluster,
        site_of(base, cluster) as site,
    ):
        campaign = Campaign(cluster, site, options.seed)
        campaign.run(options.runs)
    clean = not (campaign.lost or campaign.missed or campaign.unrepaired)
    result = {
        "ok": clean,
        "seed": options.seed,
        "runs": options.runs,
        "lost": campaign.lost,
        "missed": campaign.missed,
        "unrepaired": campaign.unrepaired,
        "by_kind": dict(sorted(campaign.by_kind.items())),
        "elapsed_s": round(time.monotonic() - began, 1),
        "killed": campaign.killed,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(", ".join(f"{key} {value}" for key, value in result.items()))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
