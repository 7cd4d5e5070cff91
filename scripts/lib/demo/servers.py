"""What the demo starts: two PostgreSQL clusters, an S3 server, the daemon. Each ends only what it started."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / ".venv" / "bin" / "replicator"
BINARIES = Path(os.environ["REPLICATOR_PG_BIN"])
OWNER = "postgres" if os.geteuid() == 0 else None
ACCESS_KEY = "replicatordemoaccesskey"
SECRET_KEY = "replicator-demo-secret-key"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def give(path: Path) -> None:
    """Give a path to the servers' user."""
    if OWNER:
        entry = pwd.getpwnam(OWNER)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def as_owner(command: list[str | Path], *, check: bool = True) -> str:
    """Run one of PostgreSQL's programs as the servers' user."""
    extra: dict[str, Any] = {}
    if OWNER:
        entry = pwd.getpwnam(OWNER)
        extra = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}
    environment = {"PATH": f"{BINARIES}:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, check=False, **extra
    )
    if check and done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr or done.stdout}")
    return str(done.stdout)


class Primary:
    """One cluster of the institute."""

    def __init__(self, base: Path, name: str, password: str) -> None:
        self.name, self.port, self.password = name, free_port(), password
        self.directory = base / name
        self._log = base / f"{name}.log"
        self._log.touch(mode=0o600)
        give(self._log)

    def make(self, schema: str) -> None:
        """initdb, start, schema, replication role."""
        self.directory.mkdir(mode=0o700)
        give(self.directory)
        secret = self.directory.parent / f".{self.name}.pw"
        secret.write_text(self.password)
        secret.chmod(0o600)
        give(secret)
        as_owner(
            [
                BINARIES / "initdb",
                "-D",
                self.directory,
                "-U",
                "postgres",
                "-k",
                "-E",
                "UTF8",
                "--locale=C",
                "-A",
                "scram-sha-256",
                f"--pwfile={secret}",
            ]
        )
        secret.unlink()
        settings = {
            "port": self.port,
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": "''",
            "wal_level": "replica",
            "max_wal_senders": 10,
            "max_replication_slots": 10,
            "shared_buffers": "'64MB'",
            "max_wal_size": "'1GB'",
        }
        with (self.directory / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = {value}\n" for key, value in settings.items())
        self.start()
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE replicator LOGIN REPLICATION PASSWORD '{self.password}'".encode())
            connection.execute("GRANT pg_monitor TO replicator")
            connection.execute(f"CREATE DATABASE {self.name}".encode())
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute(schema.encode())

    def conninfo(self, database: str = "", port: int = 0) -> str:
        """How writers connect; with `port`, how the same users connect to a restored cluster."""
        place = f"host=127.0.0.1 port={port or self.port} dbname={database or self.name}"
        return f"{place} user=postgres password={self.password}"

    def start(self) -> None:
        """Start the server."""
        as_owner([BINARIES / "pg_ctl", "-D", self.directory, "-l", self._log, "-w", "-t", "60", "start"])

    def stop(self, mode: str) -> None:
        """Stop it: `immediate` is a crash."""
        as_owner([BINARIES / "pg_ctl", "-D", self.directory, "-m", mode, "-w", "stop"], check=False)

    def size(self) -> int:
        """Bytes of its data directory without WAL."""
        return bytes_below(self.directory, but="pg_wal")


def bytes_below(directory: Path, but: str = "") -> int:
    """Bytes of all files below a directory without those below `but`. What goes meanwhile counts as nothing."""
    size = 0
    for place, _, names in os.walk(directory):
        for name in names if but not in Path(place).parts else ():
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(Path(place, name)).st_size
    return size


class S3:
    """A local S3 server over HTTP (rclone serve s3)."""

    def __init__(self, base: Path) -> None:
        self.directory, self.port = base / "s3", free_port()
        (self.directory / "spt-backup").mkdir(parents=True)
        beside = PROGRAM.parent / "rclone"
        command = [
            str(beside if beside.exists() else shutil.which("rclone")),
            "serve",
            "s3",
            "--addr",
            f"127.0.0.1:{self.port}",
            "--config",
            os.devnull,
            str(self.directory),
        ]
        environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_http(f"http://127.0.0.1:{self.port}/", self.process)

    def stop(self) -> None:
        """End it."""
        end(self.process)


class Daemon:
    """`replicator daemon`."""

    def __init__(self, policies: Path, log: Path, port: int) -> None:
        self.port = port
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [str(PROGRAM), "daemon", "--policies", str(policies)],
                stdout=file,
                stderr=file,
                env=environment(),
                start_new_session=True,
            )
        wait_http(f"http://127.0.0.1:{port}/readyz", self.process, ready=True)

    def status(self) -> dict[str, Any]:
        """GET /status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=10) as answer:
            return dict(json.load(answer))

    def stop(self) -> None:
        """SIGTERM, and wait for the flush."""
        end(self.process, 30)


def environment() -> dict[str, str]:
    """The environment of every `replicator` that the demo runs: where the secrets are."""
    return {**os.environ, "DEMO_ACCESS_KEY": ACCESS_KEY, "DEMO_SECRET_KEY": SECRET_KEY, "NO_COLOR": "1"}


def replicator(policies: Path, *arguments: str) -> Any:
    """Run a verb as an operator would; its JSON."""
    command = [str(PROGRAM), *arguments, "--policies", str(policies), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    try:
        out, err = process.communicate()
    except BaseException:
        end(process, 30)  # a verb that is asked to end cleans up after itself
        raise
    if process.returncode:
        said = f"{out.strip()} {err.strip()[-2000:]}"
        raise RuntimeError(f"replicator {' '.join(arguments)} ended with {process.returncode}: {said}")
    return json.loads(out)


def end(process: subprocess.Popen[Any], seconds: float = 10) -> None:
    """Ask a process that we started to end, then make it."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_http(url: str, process: subprocess.Popen[bytes], *, ready: bool = False, seconds: float = 60) -> None:
    """Wait until a server that we started answers (`ready`: with 200)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{Path(str(process.args[0])).name} ended with {process.returncode}")  # type: ignore[index]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            if not ready:
                return
        except OSError:
            pass
        else:
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer")
