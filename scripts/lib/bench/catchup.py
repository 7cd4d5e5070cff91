"""The stream's throughput: a backlog of real WAL caught up by the daemon, and by its peers over the same bytes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import backrest
from measure import Row, against, alone, cpu_of, peak_memory, timed

from tests.clusters import MAJOR, TestCluster, make_cluster, run_as_owner
from tests.e2e.site import Site, number, site_of

_SEGMENT = 16 * 2**20
_DEADLINE = 600.0
_BACKGREST_LOOP = 'for seg; do "$PGBR" --config="$CONF" --stanza=frk archive-push "$seg" && mv "$READY/${seg##*/}.ready" "$READY/${seg##*/}.done" || exit 1; done'  # noqa: E501


@dataclass
class _Figures:
    """The nth of each list comes from the nth turn."""

    spool_mbs: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    segments_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    receivewal_mbs: list[float] = field(default_factory=list)
    receivewal_cpu_s: list[float] = field(default_factory=list)
    zstd_cpu_s: list[float] = field(default_factory=list)
    pgbackrest_segments_s: list[float] = field(default_factory=list)


class CatchUp:
    """One primary with a backlog that a slot keeps; every run gets a copy of that slot."""

    def __init__(self, base: Path, megabytes: int, say: Callable[[str], None]) -> None:
        self._base, self._megabytes, self._say = base, megabytes, say
        conf = {"max_wal_size": "256MB", "shared_buffers": "128MB", "checkpoint_timeout": "1h"}
        self.cluster: TestCluster = make_cluster(base, conf=conf)
        self._figures = _Figures()
        self._end, self._segments = "", 0
        self._received = base / "received"

    def rows(self, runs: int) -> list[Row]:
        """Make the backlog, run everything `runs` times in turn."""
        self._backlog()
        for turn in range(runs):
            steps = [self._ours, self._peers]
            for step in steps if turn % 2 == 0 else reversed(steps):
                step(turn)
        found = self._figures
        size = f"{self._segments * _SEGMENT / 1e6:.0f} MB of pgbench WAL"
        both = [zstd + receive for zstd, receive in zip(found.zstd_cpu_s, found.receivewal_cpu_s, strict=False)]
        return [
            against(
                f"{size} caught up into the spool, while sealing and shipping, MB/s; peer: pg_receivewal",
                found.spool_mbs, found.receivewal_mbs, target=1.5, better="higher",
            ),
            against(
                f"receive + seal + ship {size} to a directory, CPU s; peer: zstd -3 + pg_receivewal; limit: zstd -3",
                found.cpu_s, both, target=1.0, better="lower", limit=found.zstd_cpu_s,
            ),
            against(
                f"{self._segments} segments received, sealed and shipped, segments/s; peer: pgBackRest archive-push"
                " async, zst 3, not encrypted",
                found.segments_s, found.pgbackrest_segments_s, target=0.9, better="higher",
            ),
            alone(f"daemon's peak memory while it catches up {size}, MB", max(found.memory_mb), target=200, runs=runs),
        ]  # fmt: skip

    def _backlog(self) -> None:
        """WAL of pgbench's TPC-B with frequent checkpoints, ending at a segment's end."""
        self._say(f"making {self._megabytes} MB of WAL with pgbench -c 4")
        pgbench = [
            self.cluster.binaries.program("pgbench"),
            "-h",
            "127.0.0.1",
            "-p",
            self.cluster.port,
            "-U",
            "postgres",
        ]
        run_as_owner([*pgbench, "-i", "-q", "-s", "20", "postgres"])
        self.cluster.switch_wal()
        self.cluster.write_wal(1)
        self.cluster.sql("SELECT pg_create_physical_replication_slot('backlog', true)")
        begin = number(self.cluster.lsn()) // _SEGMENT * _SEGMENT
        wanted = begin + self._megabytes * 10**6
        until = time.monotonic() + _DEADLINE
        while number(self.cluster.lsn()) < wanted and time.monotonic() < until:
            run_as_owner([*pgbench, "-n", "-c", "4", "-j", "2", "-T", "3", "postgres"])
        self.cluster.switch_wal()
        end = number(self.cluster.write_wal(10)) // _SEGMENT * _SEGMENT
        self._end = f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"
        self._segments = (end - begin) // _SEGMENT
        os.sync()

    def _slot(self, name: str) -> None:
        """A slot at the backlog's begin."""
        self.cluster.sql("SELECT pg_drop_replication_slot(%s) WHERE EXISTS (SELECT FROM pg_replication_slots"
                         " WHERE slot_name = %s)", (name, name))  # fmt: skip
        self.cluster.sql("SELECT pg_copy_physical_replication_slot('backlog', %s)", (name,))

    def _ours(self, turn: int) -> None:
        """The daemon as deployed, with one directory store, from its start until the store has everything."""
        with site_of(self._base, self.cluster) as site:
            site.write_policy(stores=f'[[store]]\nname = "local"\nurl = "file://{site.base}/local"\n')
            site.run("init", "frk", "--sheet", str(site.base / "sheet"))
            self._slot("replicator_frk")
            site.start_daemon(wait=False)
            assert site.daemon is not None
            spool_s = self._flushed(site)
            seconds = spool_s + self._shipped(site)
            cpu, memory = cpu_of(site.daemon.pid), peak_memory(site.daemon.pid)
            site.kill_daemon()
            shutil.rmtree(site.base, ignore_errors=True)
            site.base.mkdir()
        self.cluster.sql("SELECT pg_drop_replication_slot('replicator_frk')")
        found = self._figures
        found.spool_mbs.append(self._segments * _SEGMENT / 1e6 / spool_s)
        found.cpu_s.append(cpu)
        found.segments_s.append(self._segments / seconds)
        found.memory_mb.append(memory)
        self._say(f"run {turn + 1}: spool {spool_s:.2f} s, shipped {seconds:.2f} s, CPU {cpu:.2f} s, {memory:.0f} MB")

    def _flushed(self, site: Site) -> float:
        """Seconds from the connection to the acknowledgement of the whole backlog, by the primary's clock."""
        query = (
            b"SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8, flush_lsn >= %s::pg_lsn"
            b" FROM pg_stat_replication WHERE application_name = 'replicator_frk'"
        )
        until = time.monotonic() + _DEADLINE
        with self.cluster.session() as connection:
            while time.monotonic() < until:
                row = connection.execute(query, (self._end,)).fetchone()
                if row is not None and row[1]:
                    return float(row[0])
                time.sleep(0.01)
        raise AssertionError(f"not caught up: {site.log()}")

    def _shipped(self, site: Site) -> float:
        """Seconds from now until the store has the backlog."""
        began = time.monotonic()
        while number(site.status()["stores"]["local"]["durable_lsn"]) < number(self._end):
            if time.monotonic() - began > _DEADLINE:
                raise AssertionError(f"not shipped: {site.log()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def _peers(self, turn: int) -> None:
        self._receivewal(turn)
        self._zstd(turn)
        self._pgbackrest(turn)
        shutil.rmtree(self._received, ignore_errors=True)

    def _receivewal(self, turn: int) -> None:
        """pg_receivewal; before 15 it does not begin at its slot."""
        if MAJOR < 15:
            return
        self._received.mkdir()
        self._slot("peer")
        program = self.cluster.binaries.program("pg_receivewal")
        seconds, cpu = timed([program, "-D", self._received, "-d", self.cluster.conninfo(), "-S", "peer", "--no-loop",
                              "-E", self._end])  # fmt: skip
        self.cluster.sql("SELECT pg_drop_replication_slot('peer')")
        self._figures.receivewal_mbs.append(self._segments * _SEGMENT / 1e6 / seconds)
        self._figures.receivewal_cpu_s.append(cpu)
        self._say(f"run {turn + 1}: pg_receivewal {seconds:.2f} s, CPU {cpu:.2f} s")

    def _segment_files(self) -> list[Path]:
        files = sorted(path for path in self._received.iterdir() if len(path.name) == 24)
        return files[: self._segments]

    def _zstd(self, turn: int) -> None:
        zstd = shutil.which("zstd")
        if zstd is None or not self._received.exists():
            return
        out = self._base / "zstd"
        out.mkdir()
        seconds, cpu = timed([zstd, "-3", "-q", "-f", "--output-dir-flat", out, *self._segment_files()])
        shutil.rmtree(out)
        self._figures.zstd_cpu_s.append(cpu)
        self._say(f"run {turn + 1}: zstd -3 {seconds:.2f} s, CPU {cpu:.2f} s")

    def _pgbackrest(self, turn: int) -> None:
        """pgBackRest as an archive_command would call it, a segment after the other, all of them ready."""
        program = backrest.program()
        if program is None or not self._received.exists():
            return
        home = self._base / "pgbackrest"
        wal = home / "data/pg_wal"
        ready = wal / "archive_status"
        for directory in (home / "data/global", ready):
            directory.mkdir(parents=True)
        for name in ("PG_VERSION", "global/pg_control"):
            shutil.copy(self.cluster.directory / name, home / "data" / name)
        names = []
        for path in self._segment_files():
            path.rename(wal / path.name)
            (ready / f"{path.name}.ready").touch()
            names.append(wal / path.name)
        sockets = self.cluster.socket_directory
        peer = backrest.install(program, home, data=home / "data", port=self.cluster.port, sockets=sockets)
        peer.run("--no-online", "stanza-create")
        environment = [f"PGBR={program}", f"CONF={peer.config}", f"READY={ready}"]
        began = time.monotonic()
        run_as_owner(["env", *environment, "sh", "-c", _BACKGREST_LOOP, "sh", *names], timeout=_DEADLINE)
        seconds = time.monotonic() - began
        self._figures.pgbackrest_segments_s.append(len(names) / seconds)
        self._say(f"run {turn + 1}: pgBackRest {seconds:.2f} s for {len(names)} segments")
        peer.finish()
