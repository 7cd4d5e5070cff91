"""The campaign of kills: `snapshot take` (beside the server and over the network), `restore`, `restore --delta` and
`prune` get SIGKILL, with their children, at a random moment, while rows are committed. Afterwards every manifest has
its packs, a half-restored directory refuses to start, the same verb run again completes, a take goes on from the packs
that a killed one left, and what is restored equals the source.
"""

from __future__ import annotations

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

from kills_ledger import BULK, SCATTER, Writer, facts_of, facts_of_recovered
from kills_takes import files_of, lacking, left_over, packs_of, take_line, told_by

from replicator.postgres.localserver import free_port
from replicator.postgres.sqlbackup import functions
from scripts.lib.campaigns.verdict import arguments, conclude
from tests.clusters import OWNER, TestCluster, cluster_base, make_cluster, run_as_owner
from tests.composed import composed
from tests.e2e.site import COMMAND, Site, site_of

STORES = ("local", "offsite")
#: What is killed, and how often of a hundred.
KINDS = {"beside": 25, "network": 15, "full_beside": 10, "full_network": 8, "restore": 13, "delta": 16, "prune": 13}
CHECK_EVERY = 10
#: Of so many runs one at least must have left packs behind.
_ENOUGH = 30
_DEADLINE = 300.0


class Campaign:
    """One cluster, one site, many kills."""

    def __init__(self, cluster: TestCluster, site: Site, seed: int) -> None:
        self.cluster, self.site, self.chance = cluster, site, random.Random(seed)
        self.by_kind: Counter[str] = Counter()
        self.lost = self.missed = self.unrepaired = self.killed = self.resumed = 0
        self.findings: list[str] = []
        self._took = dict.fromkeys(KINDS, 3.0)
        self._whole_bytes = 0
        self._when = ""
        self._writer = Writer(cluster)
        self._restored = site.base / "restored"
        self._standing: list[str] = []

    def run(self, runs: int) -> None:
        """All runs, then the last check."""
        self.cluster.sql("CREATE TABLE kegiatan (id bigserial PRIMARY KEY, isi text)")
        self.cluster.sql(BULK)
        self.cluster.sql(
            f"GRANT EXECUTE ON FUNCTION {', '.join(functions(self.cluster.binaries.major * 10000))} TO replicator"
        )
        self._policy()
        self.site.run("init", "frk", "--sheet", str(self.site.base / "sheet"))
        self.site.start_daemon()
        self._writer.start()
        try:
            self._whole_bytes = self.site.run("snapshot", "take", "frk")["added_bytes"]
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
        if runs >= _ENOUGH and not self.resumed:
            self._miss("no take that was killed left packs behind")
        self._check()
        told = self.site.run("verify", "frk", "--objects", "--coverage", code=None, timeout=_DEADLINE)
        if not told["ok"]:
            self._miss(f"verify: {json.dumps(told)[:2000]}")

    def beside(self) -> None:
        """A snapshot of what changed here and there, read beside the server."""
        self._take("beside", beside=True)

    def network(self) -> None:
        """The same over the network."""
        self._take("network", beside=False)

    def full_beside(self) -> None:
        """A snapshot without a parent, beside the server."""
        self._take("full_beside", beside=True, full=True)

    def full_network(self) -> None:
        """The same over the network."""
        self._take("full_network", beside=False, full=True)

    def _take(self, kind: str, *, beside: bool, full: bool = False) -> None:
        """A take, and after its end another: what the first left is the second's."""
        self.cluster.sql(SCATTER)
        self._policy(beside=beside)
        many = self.chance.random() < 0.7
        line = take_line(self.site.policies, full=full, many=many)
        repository = composed(self.site.policies).repository(secrets=False)
        before = left_over(repository, STORES)
        self._kill(kind, line, packs=self.chance.randint(3, 12 if full else 5) if many else 0)
        self._whole()
        left = {pack: size for pack, size in left_over(repository, STORES).items() if pack not in before}
        began = time.monotonic()
        told = told_by(line, _DEADLINE)
        self._took[kind] = time.monotonic() - began
        if told.result is None:
            self.unrepaired += 1
            self._find(f"the take ended with {told.text}")
            return
        if told.beside != beside:
            self._miss(f"the take was read {'beside the server' if told.beside else 'over the network'}")
        if full and not left:
            self._whole_bytes = told.result["added_bytes"]
        if len(left) < 2:
            return
        self.resumed += 1
        over = packs_of(repository, STORES[0], told.result["label"]) & left.keys()
        spared = sum(left[pack] for pack in over)
        if 2 * spared < sum(left.values()):
            self._miss(f"of {len(left)} packs that were left {len(over)} were taken over")
        if full and told.result["added_bytes"] + spared > 1.2 * self._whole_bytes:  # the ledger grows
            self._miss(f"{told.result['added_bytes']} bytes were put, though {spared} were there")
        with self._peace() as facts:
            self._clear()
            self._restore_again("restore", self._line(self.chance.choice(STORES)), facts)

    def restore(self) -> None:
        """A restore into an empty directory."""
        self._clear()
        with self._peace() as facts:
            line = self._line(self.chance.choice(STORES))
            self._kill("restore", self._verb(*line))
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
            self._kill("delta", self._verb(*line))
            self._refuses([facts, self._standing])
            self._restore_again("delta", line, facts)

    def prune(self) -> None:
        """What an earlier snapshot alone needed goes, or has gone for a day."""
        self.site.run("snapshot", "take", "frk", *self.chance.choice(((), ("--full",))), timeout=_DEADLINE)
        if self.chance.random() < 0.6:
            self.site.run("prune", "frk", timeout=_DEADLINE)
            self._age_notes()
        self._kill("prune", self._verb("prune", "frk"))
        self._whole()
        self._again("prune", "prune", "frk")

    def _line(self, store: str) -> list[str]:
        owner = ["--owner", OWNER] if OWNER else []
        return ["restore", "frk", "--into", str(self._restored), "--latest", "--store", store, *owner]

    def _verb(self, *arguments: str) -> list[str]:
        return [*COMMAND, *arguments, "--policies", str(self.site.policies)]

    def _kill(self, name: str, line: list[str], *, packs: int = 0) -> None:
        """Start a process, and kill it and its children some way into what it took the last time; with `packs` as soon
        as it has put so many.
        """
        quiet, store = subprocess.DEVNULL, self.site.base / STORES[-1] / "frk"
        enough = files_of(store) + packs
        child = subprocess.Popen(line, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        until = time.monotonic() + (_DEADLINE if packs else self._took[name] * self.chance.uniform(0.15, 1.05))
        while child.poll() is None and time.monotonic() < until and not (packs and files_of(store) >= enough):
            time.sleep(0.01)
        if child.poll() is None:
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
        found = facts_of_recovered(self._restored, port, _DEADLINE)
        self.site.stop_restored(self._restored.name)
        if found is not None and found not in allowed:
            self._miss(f"a killed restore started with {found}, allowed are {allowed}")

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
        for text in lacking(repository, STORES):
            self._miss(text)

    def _check(self) -> None:
        """Each store alone gives everything back."""
        self.cluster.sql("VACUUM bukti")
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
    options = arguments("kills", __doc__, runs=50, what="kills").parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped and files removed on the way out
    began = time.monotonic()
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1, conf={"max_wal_size": "256MB", "autovacuum": "off"}) as cluster,
        site_of(base, cluster) as site,
    ):
        campaign = Campaign(cluster, site, options.seed)
        campaign.run(options.runs)
    return conclude(options, campaign, began, killed=campaign.killed, resumed=campaign.resumed)


if __name__ == "__main__":
    sys.exit(main())
