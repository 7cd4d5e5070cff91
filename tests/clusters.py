"""Real PostgreSQL clusters for tests: made in a moment, started, crashed, promoted, thrown away.

Servers listen on 127.0.0.1 only and run as the OS user `postgres` when the tests run as root. `initdb` runs once per
session and kind; every cluster is a copy with a system identifier of its own.
"""

from __future__ import annotations

import atexit
import os
import pwd
import random
import shlex
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pytest_postgresql.executors import PostgreSQLExecutor

from replicator.errors import BinariesMissing
from replicator.postgres.binaries import Binaries, environment, find_binaries
from tests.servers import free_port

MAJOR = int(os.environ.get("REPLICATOR_TEST_MAJOR", "15"))
#: The role for replication: REPLICATION, pg_monitor, and a password.
REPLICATION_USER = "replicator"
PASSWORD = "rahasia frk"
#: The OS user of the servers; None when the tests run as an ordinary user.
OWNER = "postgres" if os.geteuid() == 0 else None

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "shared_buffers": "16MB",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "log_line_prefix": "%m ",
    "timezone": "UTC",
}
_HBA = f"""local all all trust
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
host all {REPLICATION_USER} 127.0.0.1/32 scram-sha-256
host replication {REPLICATION_USER} 127.0.0.1/32 scram-sha-256
"""
#: Where a segment's first page holds the system identifier.
_XLP_SYSID = 24
_templates: dict[tuple[int, bool], Path] = {}
_lock = threading.Lock()


def binaries() -> Binaries:
    """The programs that the tests run against."""
    explicit = os.environ.get("REPLICATOR_TEST_BINARIES")
    return find_binaries(MAJOR, Path(explicit) if explicit else None)


def have_binaries() -> bool:
    """Whether this host has them."""
    try:
        binaries()
    except BinariesMissing:
        return False
    return True


def own(path: Path) -> None:
    """Give `path` and all in it to the servers' user."""
    if OWNER is not None:
        entry = pwd.getpwnam(OWNER)
        for found in [path, *path.rglob("*")]:
            os.chown(found, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def new_base() -> Path:
    """A new directory for clusters that the servers' user can reach (pytest's own is 0700 root's)."""
    base = Path(tempfile.mkdtemp(prefix="replicator-test-", dir="/tmp"))
    base.chmod(0o755)
    own(base)
    return base


@contextmanager
def cluster_base() -> Iterator[Path]:
    """`new_base`, removed at the end; stop the servers in it before."""
    base = new_base()
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run_as_owner(command: Sequence[object], *, stdin: str = "", timeout: float = 240, check: bool = True) -> str:
    """Run a program as the servers' user; its standard output. Fails with what it wrote to standard error."""
    extra: dict[str, Any] = {}
    if OWNER is not None:
        entry = pwd.getpwnam(OWNER)
        extra = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        check=False,
        **extra,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr or done.stdout}")
    return str(done.stdout)


class TestCluster:
    """One cluster. `directory` is its data directory; `socket_directory` and `log` lie beside it."""

    __test__ = False

    def __init__(self, home: Path) -> None:
        self.home = home
        self.directory = home / "data"
        self.socket_directory = home
        self.log = home / "log"
        self.port = free_port()
        self.binaries = binaries()

    def __enter__(self) -> TestCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def conninfo(self, user: str = "postgres", dbname: str = "postgres") -> str:
        """libpq's connection string, without a password (`postgres` needs none, `replicator` needs PASSWORD)."""
        return f"host=127.0.0.1 port={self.port} user={user} dbname={dbname}"

    @property
    def system_id(self) -> int:
        """From pg_control: also when the server is down."""
        return int(struct.unpack_from("<Q", (self.directory / "global/pg_control").read_bytes())[0])

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append settings; they count from the next start (or reload)."""
        with (self.directory / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _pg_ctl(self, *arguments: str, check: bool = True) -> str:
        return run_as_owner([self.binaries.program("pg_ctl"), *arguments, "-D", self.directory], check=check)

    def start(self, *, wait: bool = True) -> TestCluster:
        """Start the server on its port."""
        options = f"-p {self.port} -k {shlex.quote(str(self.socket_directory))}"
        try:
            self._pg_ctl("start", "-s", "-w" if wait else "-W", "-t", "120", "-l", str(self.log), "-o", options)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log.read_text(errors='replace')[-3000:]}") from None
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it; well when it does not run."""
        self._pg_ctl("stop", "-s", "-w", "-t", "60", "-m", mode, check=False)

    def stop_soon(self) -> None:
        """Ask it to stop fast, without waiting."""
        self._pg_ctl("stop", "-s", "-W", "-m", "fast")

    def crash(self) -> None:
        """Stop it as a crash would: no checkpoint, no last WAL."""
        self.stop("immediate")

    def restart(self) -> None:
        """Stop fast and start."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Read the configuration again: sessions that begin from now on have it."""
        before = self.value("SELECT pg_conf_load_time()")
        self._pg_ctl("reload", "-s")
        deadline = time.monotonic() + 60
        while self.value("SELECT pg_conf_load_time()") == before:
            assert time.monotonic() < deadline, "the server does not read its configuration again"
            time.sleep(0.01)

    def promote(self) -> None:
        """End recovery of a standby, and wait for it."""
        self._pg_ctl("promote", "-s", "-w", "-t", "120")

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return (self.directory / "postmaster.pid").exists()

    def destroy(self) -> None:
        """Stop it and remove everything of it."""
        if self.running:
            self.crash()
        shutil.rmtree(self.home, ignore_errors=True)

    @contextmanager
    def session(self, dbname: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A superuser's session, in autocommit."""
        with psycopg.connect(self.conninfo(dbname=dbname), autocommit=True, connect_timeout=60) as connection:
            yield connection

    def sql(self, statement: str, parameters: Sequence[Any] | None = None, *, dbname: str = "postgres") -> list[Any]:
        """Run one statement as superuser: its rows as tuples; none for a statement without rows."""
        with self.session(dbname) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def value(self, statement: str, parameters: Sequence[Any] | None = None, *, dbname: str = "postgres") -> Any:
        """The one value of a query."""
        return self.sql(statement, parameters, dbname=dbname)[0][0]

    def wal_kept(self) -> int:
        """Bytes in pg_wal. The server counts: it passes over a file that it removes meanwhile."""
        return int(self.value("SELECT sum(size) FROM pg_ls_waldir()"))

    def lsn(self) -> str:
        """The server's flushed WAL end."""
        return str(self.value("SELECT pg_current_wal_flush_lsn()::text"))

    def write_wal(self, rows: int = 1000, *, table: str = "kegiatan") -> str:
        """Commit some rows in `table` (made when it is not there): the flushed WAL end after."""
        with self.session() as connection:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (id bigserial, isi text)".encode())
            connection.execute(
                f"INSERT INTO {table} (isi) SELECT md5(g::text) FROM generate_series(1, %s) g".encode(), (rows,)
            )
        return self.lsn()

    def switch_wal(self) -> str:
        """End the current segment: the LSN where the server was."""
        return str(self.value("SELECT pg_switch_wal()::text"))

    def drop_slots(self, *names: str) -> None:
        """Drop these replication slots, all without names. Who streamed from one may have to notice its end first."""
        deadline = time.monotonic() + 60
        for name in names or [row[0] for row in self.sql("SELECT slot_name::text FROM pg_replication_slots")]:
            while True:
                try:
                    self.sql("SELECT pg_drop_replication_slot(%s)", (name,))
                    break
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    def standby(self, *, slot: str | None = None, settings: Mapping[str, str] | None = None) -> TestCluster:
        """A started standby of this running cluster, streaming from it."""
        standby = TestCluster(_new_home(self.home.parent))
        command = [self.binaries.program("pg_basebackup"), "-D", standby.directory, "-d", self.conninfo(), "-c", "fast"]
        run_as_owner([*command, "-X", "stream", "--no-sync", *(["-S", slot] if slot else [])])
        connect = f"{self.conninfo()} application_name=standby"
        standby.configure({"primary_conninfo": connect, **({"primary_slot_name": slot} if slot else {})})
        standby.configure(settings or {})
        (standby.directory / "standby.signal").touch()
        own(standby.directory / "standby.signal")
        return standby.start()


def make_cluster(
    base: Path,
    *,
    wal_segsize_mb: int = 16,
    checksums: bool = True,
    conf: Mapping[str, str] | None = None,
    start: bool = True,
) -> TestCluster:
    """A new cluster in a directory of its own under `base` (from `cluster_base` or `new_base`), started."""
    cluster = TestCluster(_new_home(base))
    if (cluster.binaries.directory / "pg_resetwal").exists():
        template = _template(wal_segsize_mb, checksums)
        subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(cluster.directory)], check=True)
        _new_system_id(cluster.directory)
    else:
        _initdb(cluster.directory, wal_segsize_mb, checksums)
    cluster.configure({**_SETTINGS, **(conf or {})})
    return cluster.start() if start else cluster


def _new_home(base: Path) -> Path:
    home = Path(tempfile.mkdtemp(prefix="cluster-", dir=base))
    home.chmod(0o755)
    own(home)
    return home


def _template(wal_segsize_mb: int, checksums: bool) -> Path:
    with _lock:
        found = _templates.get((wal_segsize_mb, checksums))
        if found is None:
            base = new_base()
            atexit.register(shutil.rmtree, base, ignore_errors=True)
            found = base / "data"
            _initdb(found, wal_segsize_mb, checksums)
            run_as_owner([binaries().program("pg_resetwal"), "-f", "-D", found])  # one segment, with nothing in it
            _templates[wal_segsize_mb, checksums] = found
        return found


def _initdb(directory: Path, wal_segsize_mb: int, checksums: bool) -> None:
    command: list[object] = [binaries().program("initdb"), "-D", directory, "-U", "postgres", "-A", "trust", "-N"]
    command += ["-E", "UTF8", "--locale=C.UTF-8", f"--wal-segsize={wal_segsize_mb}", *(["-k"] if checksums else [])]
    run_as_owner(command)
    roles = "SET password_encryption = 'scram-sha-256';\n"  # not the default before 14
    roles += f"CREATE ROLE {REPLICATION_USER} LOGIN REPLICATION PASSWORD '{PASSWORD}';\n"
    roles += f"GRANT pg_monitor TO {REPLICATION_USER};\n"
    run_as_owner([binaries().program("postgres"), "--single", "-D", directory, "postgres"], stdin=roles)
    (directory / "pg_hba.conf").write_text(_HBA)


def _new_system_id(directory: Path) -> None:
    """Write a random system identifier into pg_control and into the first page of the WAL."""
    control = directory / "global/pg_control"
    data = bytearray(control.read_bytes())
    place = next(at for at in range(200, 500, 4) if struct.unpack_from("<I", data, at)[0] == _crc32c(data[:at]))
    identifier = struct.pack("<Q", random.SystemRandom().getrandbits(62) | 2**62)
    data[:8] = identifier
    struct.pack_into("<I", data, place, _crc32c(data[:place]))
    with control.open("r+b") as file:
        file.write(data)
    for segment in (directory / "pg_wal").glob("0*"):
        with segment.open("r+b") as file:
            file.seek(_XLP_SYSID)
            file.write(identifier)


def _crc32c(data: bytes | bytearray) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@contextmanager
def plain_server(base: Path) -> Iterator[PostgreSQLExecutor]:
    """A server as pytest-postgresql makes it, for tests that need nothing but a server: `.host`, `.port`, `.user`."""
    pg_ctl = binaries().program("pg_ctl")
    home = _new_home(base)
    if OWNER is not None:  # the executor runs pg_ctl as we are: it gets one that changes the user first
        user = f"--reuid={OWNER} --regid={OWNER} --init-groups"
        switch = f'#!/bin/sh\ncd /\nexec setpriv {user} {shlex.quote(str(pg_ctl))} "$@"\n'
        pg_ctl = home / "pg_ctl"
        pg_ctl.write_text(switch)
        pg_ctl.chmod(0o755)
    executor = PostgreSQLExecutor(
        executable=str(pg_ctl),
        host="127.0.0.1",
        port=free_port(),
        datadir=str(home / "data"),
        unixsocketdir=str(home),
        logfile=str(home / "log"),
        startparams="-w",
        dbname="tests",
        postgres_options="-c listen_addresses=127.0.0.1 -c wal_level=replica -c max_wal_senders=5",
    )
    with executor:
        executor.wait_for_postgres()
        yield executor
