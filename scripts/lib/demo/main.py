"""The demo: two clusters written without pause, streamed and backed up, damaged by mistake, and recovered.

Runs `replicator` as an operator does, through its command line, and checks every restored row against a ledger kept
outside the databases.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any

import psycopg
import replicas
import schemas
import servers
import writers

NAMES = ("frk", "fed")
WORK = {"frk": writers.frk_transaction, "fed": writers.fed_transaction}
SCHEMAS = {"frk": schemas.FRK, "fed": schemas.FED}
STORES = ("local", "offsite")


class Story:
    """What happened, as short readable lines; on standard error when standard output is for JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._to = sys.stderr if as_json else sys.stdout
        self._start = time.monotonic()

    def tell(self, text: str) -> None:
        """One line with the time since the beginning."""
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", file=self._to, flush=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start


class Demo:
    """The whole play. `close` ends everything it started."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.base = Path(tempfile.mkdtemp(prefix="replicator-demo-"))
        self.base.chmod(0o711)
        self.policies = self.base / "policies"
        self.primaries = {name: servers.Primary(self.base, name, os.urandom(12).hex()) for name in NAMES}
        self.ledgers = {name: writers.Ledger() for name in NAMES}
        self.writers: list[writers.Writer] = []
        self.figures: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
        self.restored: list[Path] = []
        self.daemon: servers.Daemon | None = None
        self.s3: servers.S3 | None = None
        self.replica_port = servers.free_port()

    def run(self) -> None:
        """Every act in order."""
        self.set_up()
        self.snapshots("--full")
        time.sleep(3)
        self.snapshots()
        self.replica()
        self.mistakes()
        self.cut_off()

    def set_up(self) -> None:
        """Clusters, store, policies, repositories, writers, daemon."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: self.primaries[name].make(SCHEMAS[name]), NAMES))
        sizes = ", ".join(f"{name} {self.primaries[name].size() / 2**20:.0f} MB" for name in NAMES)
        self.story.tell(f"two PostgreSQL clusters are running: {sizes}")
        self.s3 = servers.S3(self.base)
        port = servers.free_port()
        self.write_policies(port)
        for name in NAMES:
            made = servers.replicator(self.policies, "init", name, "--sheet", str(self.base / f"{name}.sheet"))
            self.story.tell(
                f"{name}: a repository in two stores (a directory and S3 over HTTP), root {made['root'][:16]}…"
            )
        for number, name in enumerate(NAMES * 2):
            writer = writers.Writer(self.primaries[name].conninfo(), WORK[name], self.ledgers[name], number, 0.01)
            writer.start()
            self.writers.append(writer)
        self.daemon = servers.Daemon(self.policies, self.base / "daemon.log", port)
        self.story.tell("four writers write without pause; the daemon streams every change to both stores")

    def write_policies(self, port: int) -> None:
        """One policy a cluster, and the daemon's own."""
        self.policies.mkdir(mode=0o700)
        for name, primary in self.primaries.items():
            for kind, text in (("password", primary.password), ("passphrase", os.urandom(16).hex())):
                secret = self.policies / f"{name}.{kind}"
                secret.write_text(text)
                secret.chmod(0o600)
            (self.policies / f"{name}.toml").write_text(f"""
cluster = "{name}"
[source]
conninfo = "host=127.0.0.1 port={primary.port} user=replicator dbname=postgres"
password = {{ file = "{self.policies}/{name}.password" }}
binaries = "{servers.BINARIES}"
[[store]]
name = "local"
url = "file://{self.base}/repository"
[[store]]
name = "offsite"
url = "s3://spt-backup"
endpoint = "http://127.0.0.1:{self.s3.port if self.s3 else 0}"
region = "us-east-1"
access_key = {{ env = "DEMO_ACCESS_KEY" }}
secret_key = {{ env = "DEMO_SECRET_KEY" }}
[encryption]
passphrase = {{ file = "{self.policies}/{name}.passphrase" }}
[stream]
spool = "{self.base}/spool"
spool_limit = "2GB"
{replicas.policy(self.base, self.replica_port) if name == "frk" else ""}""")
            (self.policies / f"{name}.toml").chmod(0o600)
        (self.policies / "daemon.toml").write_text(f"""
[api]
listen = "127.0.0.1:{port}"
[log]
format = "json"
[state]
directory = "{self.base}/state"
""")
        (self.policies / "daemon.toml").chmod(0o600)

    def snapshots(self, *options: str) -> None:
        """A snapshot of each cluster while it is written."""
        for name in NAMES:
            row = servers.replicator(self.policies, "snapshot", "take", name, *options)
            if options:
                self.figures[name]["snapshot_s"] = round(row["elapsed_s"], 2)
            kind = "full" if row["parent"] is None else f"on top of {row['parent']}"
            self.story.tell(
                f"{name}: snapshot {row['label']} ({kind}) in {row['elapsed_s']:.1f} s:"
                f" {row['bytes'] / 2**20:.1f} MB, {row['added_bytes'] / 2**20:.1f} MB stored"
            )

    def replica(self) -> None:
        """A standby of frk from the newest snapshot, while the writers go on."""
        self.restored.append(self.base / replicas.NAME)  # ended like a restored server
        frk = self.primaries["frk"]
        found = replicas.make(self.policies, frk.conninfo(), frk.conninfo(port=self.replica_port))
        self.figures["frk"]["replica"] = found
        self.story.tell(
            f"frk: replica {replicas.NAME} made in {found['create_s']:.1f} s from snapshot {found['snapshot']} of"
            f" {found['store']}, without reading the primary's data; it is {found['state']}, {found['lag_bytes']:,}"
            f" bytes behind, {found['rows']:,} rows of kegiatan"
        )

    def mistakes(self) -> None:
        """A DELETE without WHERE, a DROP TABLE; writers go on; both clusters come back as they were just before."""
        with psycopg.connect(self.primaries["frk"].conninfo(), autocommit=True) as connection:
            moment = fetch(connection, "SELECT clock_timestamp()")
            connection.execute("DELETE FROM persetujuan")
            deleted = connection.execute("DELETE FROM kegiatan").rowcount
        self.story.tell(f"frk: somebody ran DELETE FROM kegiatan without WHERE: {deleted:,} rows are gone")
        with psycopg.connect(self.primaries["fed"].conninfo(), autocommit=True) as connection:
            seen = time.time()
            lsn = fetch(connection, "SELECT pg_current_wal_insert_lsn()")
            connection.execute("DROP TABLE penilaian")
        self.story.tell("fed: somebody ran DROP TABLE penilaian; the writers go on")
        time.sleep(2)
        self.wait_shipped()
        target = moment.astimezone(UTC)
        self.check("frk", ["--to-time", target.isoformat()], "before the DELETE", target.timestamp())
        self.check("fed", ["--to-lsn", str(lsn), "--exclusive"], "before the DROP", seen)

    def check(self, name: str, target: list[str], words: str, moment: float) -> None:
        """Restore to a target and hold every row against the ledger."""
        result, lost, rows = self.restore(name, target, "target", moment)
        self.figures[name] |= {
            "rows_before": len(rows),
            "rows_restored": len(rows) - len(lost),
            "rows_lost": len(lost),
            "restore_s": round(result["elapsed_s"], 2),
        }
        self.story.tell(
            f"{name}: restored to just {words} in {result['elapsed_s']:.1f} s:"
            f" {len(rows) - len(lost):,} of {len(rows):,} ledger rows are there"
        )

    def restore(
        self, name: str, target: list[str], label: str, moment: float
    ) -> tuple[dict[str, Any], set[tuple[str, int]], list[writers.Row]]:
        """Run `restore --start`, compare, stop the restored server."""
        into = self.base / f"{name}-{label}"
        self.restored.append(into)
        owner = ["--owner", servers.OWNER] if servers.OWNER else []
        result = servers.replicator(self.policies, "restore", name, "--into", str(into), *target, "--start", *owner)
        rows = self.ledgers[name].until(moment)
        lost = writers.missing(self.primaries[name].conninfo(port=result["port"]), rows)
        servers.as_owner([servers.BINARIES / "pg_ctl", "-D", into, "-m", "fast", "-w", "stop"])
        return result, lost, rows

    def wait_shipped(self, seconds: float = 20) -> None:
        """Wait until both stores hold what the daemon has flushed by now."""
        assert self.daemon is not None
        goal = {
            name: position(cluster["stream"]["flushed_lsn"])
            for name, cluster in self.daemon.status()["clusters"].items()
        }
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            clusters = self.daemon.status()["clusters"]
            if all(
                position(store["durable_lsn"]) >= goal[name]
                for name in NAMES
                for store in clusters[name]["stores"].values()
            ):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the stores did not catch up within {seconds:.0f} s: {json.dumps(self.daemon.status())}")

    def cut_off(self) -> None:
        """Both primaries vanish while they are written; the last shipped moment comes back from each store."""
        for name in NAMES:
            self.primaries[name].stop("immediate")
        cut = time.time()
        for writer in self.writers:
            writer.join(30)
        self.story.tell("both primaries were cut off while they were written")
        self.wait_shipped()
        for name in NAMES:
            worst = 0.0
            for store in STORES:
                result, lost, rows = self.restore(name, ["--latest", "--store", store], store, cut)
                # What the mistakes took away is not lost by the restore: only rows written after them count here.
                gone = {row.time for row in rows if (row.table, row.id) in lost and not self.by_mistake(name, row)}
                kept = [row.time for row in rows if row.time not in gone]
                behind = max(0.0, rows[-1].time - max(kept)) if gone else 0.0
                worst = max(worst, behind)
                self.story.tell(
                    f"{name}: restored from {store} alone to the last shipped moment in {result['elapsed_s']:.1f} s,"
                    f" {behind:.2f} s behind the primary's last commit"
                )
            self.figures[name]["rpo_s"] = round(worst, 3)

    def by_mistake(self, name: str, row: writers.Row) -> bool:
        """Whether the mistakes removed this table's rows on the primary too."""
        return row.table in ({"kegiatan", "persetujuan"} if name == "frk" else {"penilaian"})

    def finish(self) -> dict[str, Any]:
        """The figures."""
        for name, figures in self.figures.items():
            stored = servers.bytes_below(self.base / "repository" / name)
            figures |= {"stored_bytes": stored, "source_bytes": self.primaries[name].size()}
        ok = all(figures["rows_lost"] == 0 and figures["rows_before"] > 0 for figures in self.figures.values())
        return {"ok": ok, "elapsed_s": round(self.story.elapsed, 1), "clusters": self.figures}

    def keep(self) -> None:
        """Start the primaries again, leave everything running, and say how to look around."""
        for name in NAMES:
            self.primaries[name].start()
        if self.daemon is not None:
            servers.wait_http(f"http://127.0.0.1:{self.daemon.port}/readyz", self.daemon.process, ready=True)
        command = f"{servers.PROGRAM} status --policies {self.policies}"
        lines = ["", "Everything is left running. Look around:", f"  {command}"]
        lines += [f"  {servers.PROGRAM} snapshot list {name} --policies {self.policies}" for name in NAMES]
        lines += [
            f"  psql -h 127.0.0.1 -p {p.port} -U postgres {name}      (password {p.password})"
            for name, p in self.primaries.items()
        ]
        lines += [
            "  The S3 store's keys: export DEMO_ACCESS_KEY="
            + servers.ACCESS_KEY
            + " DEMO_SECRET_KEY="
            + servers.SECRET_KEY,
            f"  The daemon's log: {self.base}/daemon.log",
            f"End it: kill {self.daemon.process.pid if self.daemon else ''} {self.s3.process.pid if self.s3 else ''};"
            f" stop the servers in {self.base}/frk and {self.base}/fed with pg_ctl; remove {self.base}",
        ]
        print("\n".join(lines), file=sys.stderr)

    def close(self) -> None:
        """End everything that was started, and remove the files. Not to be interrupted."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for writer in self.writers:
            writer.stop()
        if self.daemon is not None:
            self.daemon.stop()
        for name in NAMES:
            if self.primaries[name].directory.exists():
                self.primaries[name].stop("immediate")
        for writer in self.writers:
            writer.join(10)
        for directory in self.restored:
            if (directory / "postmaster.pid").exists():
                servers.as_owner(
                    [servers.BINARIES / "pg_ctl", "-D", directory, "-m", "immediate", "-w", "stop"], check=False
                )
        if self.s3 is not None:
            self.s3.stop()
        shutil.rmtree(self.base, ignore_errors=True)


def fetch(connection: psycopg.Connection, sql: str) -> Any:
    """The one value of a query."""
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def position(lsn: str | None) -> int:
    """An LSN's text as a number; 0 when unknown."""
    if not lsn:
        return 0
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def main() -> int:
    """Parse, run, clean up, report."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", action="store_true", help="one object on standard output; the story goes to standard error"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running and say how to look around")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    story = Story(as_json=options.json)
    demo = Demo(story)
    kept = False
    try:
        demo.run()
        result = demo.finish()
        if options.keep:
            demo.keep()
            kept = True
    except KeyboardInterrupt:
        story.tell("interrupted: cleaning up")
        return 130
    except RuntimeError as error:
        story.tell(f"failed: {error}")
        log = demo.base / "daemon.log"
        if log.exists():
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        if options.json:
            print(json.dumps({"ok": False, "elapsed_s": round(story.elapsed, 1), "clusters": demo.figures}))
        return 1
    finally:
        if not kept:
            demo.close()
    story.tell(summary(result))
    if options.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


def summary(result: dict[str, Any]) -> str:
    """The last line of the story."""
    parts = [
        f"{name}: {figures['rows_restored']:,} of {figures['rows_before']:,} rows back, {figures['rows_lost']} lost,"
        f" {figures['rpo_s']:.2f} s behind when cut off,"
        f" {figures['source_bytes'] / 2**20:.0f} MB kept in {figures['stored_bytes'] / 2**20:.0f} MB"
        for name, figures in result["clusters"].items()
    ]
    word = "well" if result["ok"] else "NOT WELL"
    return f"{word} · " + " · ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
