"""The databases that snapshots are measured on, and what changes in them. Owns no measurement.

A: pgbench, few large files, compresses well. B: forms, attachments and many small tables, compresses 2:1. At scale 1
each is about 1.7 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.clusters import TestCluster, run_as_owner

_FORMS = Path(__file__).with_name("loads") / "forms.sql"
_DEADLINE = 1800.0
#: Both loads: nothing but what we ask for writes while a snapshot is taken.
SERVER = {
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_locks_per_transaction": "1024",
    "archive_mode": "on",
    "archive_command": "true",
}


@dataclass(frozen=True)
class Load:
    """One of them. `table` is the one that changes."""

    name: str
    scale: float
    table: str
    change: str

    def fill(self, cluster: TestCluster) -> None:
        """Make the tables in an empty cluster."""
        if self.name == "A":
            pgbench(cluster, "-i", "-q", "-s", max(1, round(100 * self.scale)))
            pgbench(cluster, "-n", "-c", 4, "-j", 2, "-T", max(1, round(60 * self.scale)))
        else:
            counts = {"forms": 1_500_000, "attachments": 10_000, "tables": 2_000}
            given = [f"-v{name}={max(1, round(count * self.scale))}" for name, count in counts.items()]
            _program(cluster, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", *given, "-d", "postgres",
                     stdin=_FORMS.read_text())  # fmt: skip
        cluster.sql("CHECKPOINT")

    def local(self, cluster: TestCluster, turn: int) -> None:
        """Change a contiguous hundredth of the rows, another one each turn."""
        pages = int(cluster.value(f"SELECT pg_relation_size('{self.table}') / 8192"))
        begin, end = (pages * step // 100 for step in (turn % 50, turn % 50 + 1))
        self._update(cluster, f"ctid >= '({begin},0)' AND ctid < '({max(end, begin + 1)},0)'")

    def scatter(self, cluster: TestCluster) -> None:
        """Change every hundredth row, drawn at random."""
        self._update(cluster, "random() < 0.01")

    def _update(self, cluster: TestCluster, where: str) -> None:
        cluster.sql(f"UPDATE {self.table} SET {self.change} WHERE {where}")
        cluster.sql("CHECKPOINT")


def load(name: str, scale: float) -> Load:
    """A or B."""
    if name == "A":
        return Load(name, scale, "pgbench_accounts", "abalance = abalance + 1")
    return Load(name, scale, "forms", "state = 'paid', modified = now()")


def pgbench(cluster: TestCluster, *arguments: object) -> None:
    """Run pgbench on the cluster."""
    _program(cluster, "pgbench", *arguments, "postgres")


def _program(cluster: TestCluster, name: str, *arguments: object, stdin: str = "") -> None:
    place = ["-h", "127.0.0.1", "-p", cluster.port, "-U", "postgres"]
    run_as_owner([cluster.binaries.program(name), *place, *arguments], stdin=stdin, timeout=_DEADLINE)
