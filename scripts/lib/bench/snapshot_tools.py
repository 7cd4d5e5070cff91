"""How each tool takes and restores a snapshot: ours, pgBackRest, pg_basebackup, and a pipeline as the physical limit.

Owns the commands and their settings, not the order in which they run. All seal with zstd 3 and encrypt (pg_basebackup
can't encrypt); all end with everything fsynced.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import backrest
from measure import Spent, cpu_of, spent

from tests.clusters import OWNER, TestCluster, own
from tests.e2e.site import COMMAND, Site

WORKERS = 2
#: How long the sessions of a tool that ended may take to be gone from the server.
_REAPED_S = 0.5
_DEADLINE = 600.0


class Ours:
    """replicator with one directory store; its daemon streams the WAL."""

    def __init__(self, site: Site) -> None:
        self.site, self.peak_mb = site, 0.0
        self.store = site.base / "local"
        self.source(beside=True)
        functions = "pg_backup_start(text, boolean), pg_backup_stop(boolean)"
        site.cluster.sql(f"GRANT EXECUTE ON FUNCTION {functions} TO replicator")
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))

    def source(self, *, beside: bool) -> None:
        """Read the data directory, or only the replication connection."""
        conninfo = f'conninfo = "{self.site.cluster.conninfo("replicator")}"'
        directory = f'\ndata_directory = "{self.site.cluster.directory}"' if beside else ""
        stores = f'[[store]]\nname = "local"\nurl = "file://{self.store}"\n[snapshot]\nworkers = {WORKERS}\n'
        self.site.write_policy(source=conninfo + directory, stores=stores)

    def take(self, *options: str) -> tuple[str, Spent, int]:
        """Take a snapshot: its label, what it took, the bytes it added to the store."""
        before = self.stored()
        used, row = self._verb("snapshot", "take", "frk", "--workers", str(WORKERS), *options)
        return str(row["label"]), used, self.stored() - before

    def restore(self, label: str, into: Path, *options: str) -> Spent:
        """Restore a snapshot's own moment, without a start."""
        owner = ["--owner", OWNER] if OWNER else []
        where = ["--into", str(into), "--immediate", "--snapshot", label, "--workers", str(WORKERS)]
        return self._verb("restore", "frk", *where, *owner, *options)[0]

    def stored(self) -> int:
        """Bytes of everything in the store but WAL, which belongs to the stream."""
        return size_of(self.store, but=("wal", "pieces"))

    def _verb(self, *arguments: str) -> tuple[Spent, dict[str, Any]]:
        used = spent([*COMMAND, *arguments, "--progress", "json", "--policies", str(self.site.policies)])
        self.peak_mb = max(self.peak_mb, used.memory_mb)
        *told, end = map(json.loads, used.said.splitlines())
        warnings = [line["facts"]["warning"] for line in told if "warning" in line["facts"]]
        if warnings:  # such as a take over the network that was to read the data directory
            raise RuntimeError(f"{arguments[:2]}: {warnings}")
        return used, dict(end["result"])


class Theirs:
    """pgBackRest with a directory repository; the server's archive_command pushes the WAL."""

    def __init__(self, path: str, home: Path, cluster: TestCluster) -> None:
        blocks = {"repo1_block": "y"} if backrest.has_blocks(path) else {}
        self._options = {
            "start_fast": "y",
            "repo1_bundle": "y",
            **blocks,
            "repo1_cipher_type": "aes-256-cbc",
            "repo1_cipher_pass": "rahasia",
            "repo1_retention_full": "99",
        }
        self.tool = backrest.install(
            path, home, data=cluster.directory, port=cluster.port, sockets=cluster.socket_directory, **self._options
        )
        self.tool.run("stanza-create")
        told = ", ".join(f"{name} {value}" for name, value in self._options.items() if "pass" not in name)
        self.settings = (
            f"pgBackRest {'.'.join(map(str, backrest.version(path)))}: compress-type zst, compress-level 3,"
            f" process-max {WORKERS}, archive-async y, {told}"
        ).replace("_", "-")

    def take(self, kind: str) -> tuple[str, Spent, int]:
        """Take a backup (full or incr): its label, what it took, the bytes it added to the repository."""
        before = self._stored()
        used = spent(self.tool.command("--type", kind, "backup"), as_owner=True)
        found = json.loads(self.tool.run("info", "--output=json"))[0]["backup"][-1]
        return str(found["label"]), used, self._stored() - before

    def restore(self, label: str, into: Path, *options: str) -> Spent:
        """Restore a backup up to its own end."""
        into.mkdir(mode=0o700, exist_ok=True)
        own(into)
        line = self.tool.command(f"--set={label}", "--type=immediate", f"--pg1-path={into}", *options, "restore")
        return spent(line, as_owner=True)

    def _stored(self) -> int:
        return size_of(self.tool.repository / "backup")


def base_backup(cluster: TestCluster, out: Path) -> Spent:
    """pg_basebackup as tar, compressed by the client; it does not encrypt."""
    program = cluster.binaries.program("pg_basebackup")
    used = spent([program, "-d", cluster.conninfo(), "-D", out, "-Ft", "--compress=client-zstd:3", "-c", "fast"])
    shutil.rmtree(out)
    return used


def pipeline(data: Path, out: Path) -> Spent | None:
    """tar | zstd | openssl into a file, synced. None where a program is missing."""
    if not all(shutil.which(name) for name in ("tar", "zstd", "openssl")):
        return None
    left_out = ["--exclude=./pg_wal/*", "--exclude=./postmaster.*", "--exclude=./pg_dynshmem/*"]
    lines = [
        ["tar", "-C", str(data), *left_out, "--warning=none", "-c", "."],
        ["zstd", f"-T{WORKERS}", "-3", "-q", "-c"],
        ["openssl", "enc", "-aes-256-ctr", "-K", "00" * 32, "-iv", "00" * 16, "-out", str(out)],
    ]
    began, cpu, children = time.monotonic(), 0.0, []
    given: Any = subprocess.DEVNULL
    for line in lines:
        child = subprocess.Popen(line, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if given is not subprocess.DEVNULL:
            given.close()
        given = child.stdout
        children.append(child)
    given.close()
    for child in children:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu += used.ru_utime + used.ru_stime
    bad = [child.args for child in children if child.returncode not in (0, *((1,) if child is children[0] else ()))]
    if bad:  # tar's 1: a file changed or went while it was read, as it may
        raise RuntimeError(f"{bad} failed")
    with out.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    out.unlink()
    return Spent(seconds, cpu, 0.0, "")


class ServerCpu:
    """CPU seconds of the server's sessions that end within the block: `seconds`."""

    def __init__(self, cluster: TestCluster) -> None:
        self._postmaster = int((cluster.directory / "postmaster.pid").read_text().split()[0])
        self.seconds = 0.0

    def __enter__(self) -> ServerCpu:
        self._before = cpu_of(self._postmaster)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(_REAPED_S)
        self.seconds = cpu_of(self._postmaster) - self._before


def quiet(site: Site, cluster: TestCluster) -> None:
    """Wait until the daemon's store and the server's archive have all WAL; then nothing is left to be written."""
    site.wait(lambda: not site.status()["tasks"], _DEADLINE)
    lsn = cluster.lsn()
    site.wait(lambda: _lsn(site.status()["stores"]["local"]["durable_lsn"]) >= _lsn(lsn), _DEADLINE)
    status = cluster.directory / "pg_wal/archive_status"
    site.wait(lambda: not any(path.name.endswith(".ready") for path in status.iterdir()), _DEADLINE)
    os.sync()


def _lsn(text: str | None) -> int:
    high, _, low = (text or "0/0").partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def warm(*directories: Path) -> None:
    """Read everything once, so that each run finds it in the page cache."""
    buffer = bytearray(4 * 2**20)
    for directory in directories:
        for path in directory.rglob("*"):
            try:
                if path.is_file():
                    with path.open("rb", buffering=0) as file:
                        while file.readinto(buffer):
                            pass
            except OSError as error:
                print(f"not warmed: {error}", file=sys.stderr)


def size_of(directory: Path, *, but: tuple[str, ...] = ()) -> int:
    """Bytes of all files below, but of those in a directory of one of these names."""
    if not directory.exists():
        return 0
    files = (path for path in directory.rglob("*") if not set(but) & set(path.relative_to(directory).parts[:-1]))
    return sum(path.stat().st_size for path in files if path.is_file())
