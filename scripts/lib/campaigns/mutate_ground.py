"""What the mutation campaign harms: one repository made by the real parts, and fresh copies of it.

Owns the making (a real cluster, its daemon, full and incremental snapshots, a promotion, two stores), a second
repository with the same writer key, an older state of the stores, and what the database held at some moments. Knows
nothing of harm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from replicator.compose import Cluster, compose
from replicator.core.lsn import Lsn
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.policy import load_cluster
from replicator.repository.notes import system_note
from replicator.restore.access import StoreAccess
from replicator.restore.job import RestoreJob
from replicator.restore.plan import PlanRequest
from replicator.restore.run import restore
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from replicator.store import Store
from tests.clusters import OWNER, TestCluster, cluster_base, make_cluster, run_as_owner
from tests.e2e.site import Site, number, site_of

STORES = ("local", "offsite")
CLUSTER = "frk"
#: Random words; and sequences, of which recovery skips up to 32 values.
_NOT_COMPARED = ("\\restrict", "\\unrestrict", "SELECT pg_catalog.setval")
Wrap = Callable[[Store], Store]


@dataclass(frozen=True)
class Moment:
    """A quiet moment of the source: where it was, and the digest of its dump."""

    timeline: int
    lsn: str
    dump: str


@dataclass
class Ground:
    """The repository under test. `template`, `older`, `foreign` hold one directory per store; the copy to be harmed
    lies where the policy says. `objects` are the names that every store holds, `recorded` the records' names.
    """

    site: Site
    template: Path
    older: Path
    foreign: Path
    moments: list[Moment] = field(default_factory=list)
    restored: int = 0

    def root(self, store: str) -> Path:
        """The repository's folder in the copy at hand."""
        return self.site.base / store / CLUSTER

    def original(self, store: str) -> Path:
        """The repository's folder as it was made."""
        return self.template / store / CLUSTER

    def renew(self) -> None:
        """A fresh copy: hard links, so that harm must replace files and never write into them."""
        for store in STORES:
            shutil.rmtree(self.site.base / store, ignore_errors=True)
            link_tree(self.template / store, self.site.base / store)

    def cluster(self, wrap: Wrap | None = None) -> Cluster:
        """The composed cluster over the copy, as a verb makes it."""
        daemon, policy = load_cluster(self.site.policies, CLUSTER)
        return compose(policy, daemon, wrap_store=wrap, budget_s=0.2)

    def restore(self, store: str, moment: Moment, wrap: Wrap | None = None) -> str:
        """Restore to a moment from this store alone, and start: the digest of its dump. Raises as `restore` does."""
        built = self.cluster(wrap)
        target = RecoveryTarget(TargetKind.LSN, lsn=Lsn.parse(moment.lsn), inclusive=False, timeline=moment.timeline)
        self.restored += 1
        into = self.site.base / f"restored-{self.restored}"
        access = {one.name: StoreAccess.resolved(one, built.policy.tolerance) for one in built.policy.stores}
        job = RestoreJob(
            repository=built.repository(only=(store,), cached=False), access=access,
            request=PlanRequest(CLUSTER, target), into=into, binaries=built.binaries, start=True, owner=OWNER,
        )  # fmt: skip
        try:
            started = restore(job).started
            assert started is not None
            return dump(self.site.cluster, started.port)
        finally:
            if (into / "postmaster.pid").exists():
                self.site.stop_restored(into.name)
            for left in self.site.base.glob(f"*{into.name}*"):
                shutil.rmtree(left, ignore_errors=True)


def names_in(root: Path) -> list[str]:
    """Every object below a repository's folder, ascending."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def link_tree(source: Path, target: Path) -> None:
    """A copy by hard links."""
    shutil.copytree(source, target, copy_function=os.link)


def dump(cluster: TestCluster, port: int) -> str:
    """The digest of everything pg_dump says, but what differs from run to run."""
    command = [cluster.binaries.program("pg_dump"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "postgres"]
    lines = run_as_owner(command).splitlines()
    kept = "\n".join(line for line in lines if not line.startswith(_NOT_COMPARED))
    return hashlib.sha256(kept.encode()).hexdigest()


@contextmanager
def ground() -> Iterator[Ground]:
    """Make it, in about 15 seconds; the source is gone when it is handed out."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1, conf={"wal_keep_size": "64MB"}) as first:
        second = first.standby()
        try:
            with site_of(base, first) as site:
                yield _made(site, first, second)
        finally:
            second.destroy()


def _made(site: Site, first: TestCluster, second: TestCluster) -> Ground:
    made = Ground(site, site.base / "template", site.base / "older", site.base / "foreign")
    identity = _encrypted(site)
    site.run("init", CLUSTER, "--sheet", str(site.base / "sheet"))
    site.start_daemon()
    _fill(site, first, made)
    for store in STORES:
        shutil.copytree(site.base / store, made.older / store)
    _foreign(site, first, identity, made.foreign)
    _promoted(site, first, second, made)
    site.kill_daemon(15)
    second.crash()
    made.template.mkdir()
    for store in STORES:
        (site.base / store).rename(made.template / store)
    _age(made.template)
    return made


def _encrypted(site: Site) -> bytes:
    """Recipients instead of a passphrase: nothing slow to derive in each run."""
    identity = new_x25519()
    secret = site.policies / "identity"
    secret.touch(mode=0o600)
    secret.write_text(key_text(SEALING_SECRET, identity))
    site.write_policy(encryption=_keys(site, identity), source=_source(site.cluster))
    return identity


def _keys(site: Site, identity: bytes) -> str:
    recipients = ", ".join(f'"{key_text(SEALING, x25519_public(key))}"' for key in (identity, new_x25519()))
    return f'recipients = [{recipients}]\nidentity = {{ file = "{site.policies}/identity" }}'


def _source(*clusters: TestCluster, slot: str = "replicator_frk") -> str:
    hosts, ports = ",".join("127.0.0.1" for _ in clusters), ",".join(str(cluster.port) for cluster in clusters)
    return f'conninfo = "host={hosts} port={ports} user=replicator dbname=postgres"\nslot = "{slot}"'


def _moment(site: Site, cluster: TestCluster, made: Ground, timeline: int, rows: int) -> None:
    """Write, wait until both stores have it, and remember."""
    lsn = cluster.write_wal(rows)
    made.moments.append(Moment(timeline, lsn, dump(cluster, cluster.port)))
    site.shipped(lsn)


def _fill(site: Site, cluster: TestCluster, made: Ground) -> None:
    """Timeline 1: two snapshots, WAL before, between and after."""
    cluster.write_wal(2000)
    site.run("snapshot", "take", CLUSTER)
    _moment(site, cluster, made, 1, 8000)


def _foreign(site: Site, cluster: TestCluster, identity: bytes, target: Path) -> None:
    """Another repository of the same cluster by the same writer, somewhere else."""
    with site_of(site.base, cluster) as other:
        for name in ("identity", "writer.key"):
            shutil.copy(site.policies / name, other.policies / name)
        other.write_policy(encryption=_keys(other, identity), source=_source(cluster, slot="lain"))
        other.run("init", CLUSTER, "--sheet", str(other.base / "sheet"))
        other.start_daemon()
        cluster.write_wal(4000)
        other.run("snapshot", "take", CLUSTER)
        other.shipped(cluster.write_wal(4000))
        other.kill_daemon(15)
        cluster.sql("SELECT pg_drop_replication_slot('lain')")
        shutil.copytree(other.base / STORES[0], target)


def _promoted(site: Site, first: TestCluster, second: TestCluster, made: Ground) -> None:
    """Timeline 2: a snapshot that the last verification saw, and one, and WAL, that it did not."""
    site.run("snapshot", "take", CLUSTER)
    _moment(site, first, made, 1, 3000)
    _moment(site, first, made, 1, 100)
    end = first.lsn()
    site.wait(lambda: number(second.value("SELECT pg_last_wal_replay_lsn()::text")) >= number(end))
    site.kill_daemon(15)
    first.crash()
    second.promote()
    identity = (site.policies / f"{CLUSTER}.toml").read_text()
    _rewrite(site.policies / f"{CLUSTER}.toml", identity.replace(_source(first), _source(second)))
    site.start_daemon()
    _moment(site, second, made, 2, 6000)
    site.run("snapshot", "take", CLUSTER)
    _moment(site, second, made, 2, 6000)
    _note(made, second.system_id)
    site.run("verify", CLUSTER, "--objects", "--coverage")
    site.run("snapshot", "take", CLUSTER)
    _moment(site, second, made, 2, 3000)
    _moment(site, second, made, 2, 100)


def _rewrite(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def _note(made: Ground, system_id: int) -> None:
    """A note that changes nothing: this cluster is the one that is followed."""
    repository = made.cluster().repository(write=True)
    name, data = system_note(repository.keyring, system_id, datetime.now(UTC))
    for store in repository.stores.values():
        store.put(name, data)


def _age(template: Path) -> None:
    """Everything was put long ago, in the order in which it was."""
    now = time.time()
    for path in template.rglob("*"):
        if path.is_file():
            put = path.stat().st_mtime - 86400
            os.utime(path, (min(put, now), min(put, now)))
