"""Clusters with all that is awkward to restore and compare, kept in repositories that drills and comparisons read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.finding import Finding
from replicator.core.progress import silent
from replicator.policy import Policy, StorePolicy, TolerancePolicy, load_cluster
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.snapshot.job import TakeJob
from replicator.snapshot.take import take
from replicator.tolerance import Deadline, SystemClock
from replicator.verify.model import Level, LevelResult, VerifyJob
from tests.clusters import OWNER, TestCluster
from tests.composed import write_policies
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, connector, settings

STORES = ("local", "offsite")
#: What a drill's server may not have of its source.
SAFE = {
    "listen_addresses": "",
    "archive_mode": "off",
    "primary_conninfo": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}
#: One statement for each kind of thing that a restore must bring back.
AWKWARD = (
    "CREATE TABLE kegiatan (id bigint PRIMARY KEY, isi text)",
    "INSERT INTO kegiatan SELECT g, repeat(md5(g::text), 3) FROM generate_series(1, 20000) g",
    "CREATE TABLE tanpa_hash (id int, dokumen json, tempat point, kotak box)",
    """INSERT INTO tanpa_hash
       SELECT g, '{"a": 1}', point(g, g), box(point(0, 0), point(g, g)) FROM generate_series(1, 50) g""",
    "CREATE TABLE tanpa_kolom ()",
    "INSERT INTO tanpa_kolom DEFAULT VALUES",
    'CREATE TABLE "nama ""aneh"" 100%s" (t int, "replicator: row" int)',
    'INSERT INTO "nama ""aneh"" 100%s" VALUES (1, 2)',
    "CREATE TABLE besar (id int, bukti bytea)",
    "ALTER TABLE besar ALTER bukti SET STORAGE EXTERNAL",
    "INSERT INTO besar SELECT g, decode(repeat(md5(g::text), 2000), 'hex') FROM generate_series(1, 20) g",
    "CREATE TABLE terbagi (id int, nilai int) PARTITION BY RANGE (id)",
    "CREATE TABLE terbagi_1 PARTITION OF terbagi FOR VALUES FROM (0) TO (100)",
    "INSERT INTO terbagi SELECT g, g FROM generate_series(1, 99) g",
    "CREATE UNLOGGED TABLE sementara (id int)",
    "INSERT INTO sementara VALUES (1)",
    "CREATE MATERIALIZED VIEW ringkasan AS SELECT count(*) FROM kegiatan",
    "CREATE SEQUENCE urutan START 100",
    "SELECT nextval('urutan') FROM generate_series(1, 5)",
    "SELECT lo_from_bytea(4711, 'bukti dosen')",
    "CREATE TABLE milik_dosen (id int)",
    "ALTER TABLE milik_dosen ENABLE ROW LEVEL SECURITY",
    "INSERT INTO milik_dosen VALUES (1)",
)


@dataclass
class Ground:
    """A repository, and the policy that drills stand on. `running`: the stream, while it runs."""

    base: Path
    repository: Repository
    cluster: TestCluster
    policy: Policy
    running: RunningStream
    labels: list[str] = field(default_factory=list)

    def job(self, **changes: Any) -> VerifyJob:
        """What a level is given. `verify` changes keys of the policy's [verify], `replicas` its replicas."""
        policy = self.policy
        assert policy.verify is not None
        changed = {"verify": policy.verify.model_copy(update=changes.pop("verify", {}))}
        policy = policy.model_copy(update={**changed, "replicas": tuple(changes.pop("replicas", ()))})
        given: dict[str, Any] = {
            "repository": self.repository, "chosen": STORES, "policy": policy, "clock": SystemClock(),
            "state_directory": self.base / "state", "access": self.access, "binaries": lambda _: self.cluster.binaries,
            "sql": lambda: SqlConnection(self.cluster.conninfo(), None), "replica_sql": _no_replica,
            "owner": OWNER, "seed": 1,
        }  # fmt: skip
        return VerifyJob(**{**given, **changes})

    def access(self) -> dict[str, StoreAccess]:
        """How each store is reached without a policy."""
        return {
            name: StoreAccess(StorePolicy(name=name, url=f"file://{self.base}/stores/{name}"), TolerancePolicy())
            for name in self.repository.stores
        }

    def snapshot(self) -> str:
        """Take one: its label."""
        self.running.wait(lambda seen: seen.state == "streaming", "streaming")
        job = TakeJob(
            repository=self.repository, connect=connector(lambda: self.cluster, ""),
            sql=lambda: SqlConnection(self.cluster.conninfo(), None), slot=SLOT, state_directory=self.base / "state",
            wal_deadline_s=60.0,
        )  # fmt: skip
        self.labels.append(take(job, silent, Event()).row.snapshot.label)
        return self.labels[-1]

    def scratch(self) -> list[str]:
        """What lies in scratch."""
        path = self.base / "scratch"
        return sorted(found.name for found in path.iterdir()) if path.exists() else []

    def processes(self) -> list[str]:
        """The processes that work in scratch."""
        return processes_below(self.base / "scratch")


def _no_replica(name: str) -> SqlConnection:
    raise AssertionError(f"nobody asked for {name}")


def processes_below(directory: Path) -> list[str]:
    """Those whose working directory lies there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            where = (entry / "cwd").readlink()
        except OSError:
            continue
        if where.is_relative_to(directory):
            found.append(f"{entry.name}: {where}")
    return found


@contextmanager
def ground(base: Path, cluster: TestCluster, fill: Callable[[Ground], None]) -> Iterator[Ground]:
    """A repository of a running cluster: `fill` writes and takes snapshots. The stream runs until left."""
    home = base / f"ground-{cluster.port}"
    home.mkdir(mode=0o755)
    extra = f'[verify]\nscratch = "{home}/scratch"'
    policies = write_policies(home, cluster.conninfo("replicator"), extra=extra)
    repository = make_repository(home, names=STORES)
    (home / "state").mkdir(mode=0o700)
    running = RunningStream(repository, home / "spool", lambda: cluster, settings()).start()
    made = Ground(home, repository, cluster, load_cluster(policies, "frk")[1], running)
    try:
        fill(made)
        yield made
    finally:
        running.stop()


def run(level: Level, job: VerifyJob, seconds: float = 240) -> LevelResult:
    """Run a level as `verify` does."""
    return level.run(job, silent, Deadline(job.clock, seconds))


def codes(findings: Sequence[Finding]) -> list[str]:
    """The codes of those that are no remarks."""
    return [found.code for found in findings if found.affects is not None]


def reopened(job: VerifyJob, **changes: Any) -> VerifyJob:
    """The same job with other things in it."""
    return replace(job, **changes)
