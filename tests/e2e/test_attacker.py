"""Somebody who can only put objects: what is not signed counts for nothing, and takes nothing away."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from replicator.core.lsn import Segment
from tests.clusters import cluster_base, make_cluster
from tests.e2e.site import Site, number, site_of

SIZE = 2**20


@contextmanager
def host() -> Iterator[Site]:
    """One that acknowledges what a store has; its daemon has ended after a snapshot."""
    stream = 'acknowledge = "store"'
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster, stream=stream) as site,
    ):
        cluster.write_wal(100)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        site.shipped(cluster.lsn())
        site.kill_daemon(15)
        yield site


@pytest.fixture
def site() -> Iterator[Site]:
    """A test's own host."""
    with host() as found:
        yield found


@pytest.fixture(scope="module")
def read_only() -> Iterator[Site]:
    """A host for tests that take away again what they put."""
    with host() as found:
        yield found


def home(site: Site, store: str) -> Path:
    """The repository's folder for the cluster's system id."""
    return site.base / store / "frk" / str(site.cluster.system_id)


def put(path: Path, data: bytes = b"") -> None:
    """Put an object as somebody else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def count(port: int) -> int:
    """Rows in a restored server."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        row = connection.execute("SELECT count(*) FROM kegiatan").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("reach", ["within the segment", "beyond everything"])
def test_forged_pieces_are_no_coverage(site: Site, reach: str) -> None:
    """A piece that nobody signed is not acknowledged, not coverage, and does not stop a restore."""
    segment = Segment.holding(1, number(site.cluster.lsn()), SIZE)
    end = segment.end - 1 if reach == "within the segment" else 2**60
    for store in ("local", "offsite"):
        name = f"{int(segment.start):016X}-{end:016X}-{'0' * 16}"
        put(home(site, store) / "pieces" / "00000001" / segment.name / name)
    site.start_daemon(wait=False)
    site.wait(lambda: site.answers("/livez"))
    written = site.cluster.write_wal(50)
    site.shipped(written)
    for store in ("local", "offsite"):
        held = site.status()["stores"][store]
        assert number(held["durable_lsn"]) <= number(site.cluster.lsn())
    site.wait(lambda: any("not what their names say" in problem["text"] for problem in site.status()["problems"]))
    restored = site.restore("--latest", "--store", "offsite")
    assert count(restored["port"]) == 150
    site.stop_restored()


def test_a_name_taken_in_advance_is_not_ours(site: Site) -> None:
    """Empty objects under the names that a store lacks: it is damaged, not up to date, and the spool keeps the WAL."""
    away = site.base / "away"
    (site.base / "offsite").rename(away)
    site.start_daemon()
    for _ in range(3):
        site.cluster.write_wal(3000)
        site.cluster.switch_wal()
    site.shipped(site.cluster.write_wal(1), ("local",))
    site.wait(lambda: bool(lacking(site, away)))  # a segment may be sealed later than its pieces are shipped
    fresh = lacking(site, away)
    for path in fresh:
        put(away / path.relative_to(site.base / "local"))
    away.rename(site.base / "offsite")
    site.wait(lambda: any("offsite" in problem["text"] for problem in site.status()["problems"]))
    site.wait(lambda: site.status()["stores"]["offsite"]["state"] not in ("away", "ok"))
    held = site.status()["stores"]["offsite"]
    assert number(held["durable_lsn"]) < min(Segment.parse(path.name[:24], SIZE).end for path in fresh)
    restored = site.restore("--latest", "--store", "local")
    assert count(restored["port"]) == 100 + 9001
    site.stop_restored()


def lacking(site: Site, away: Path) -> list[Path]:
    """The first store's segments that the other, which is at `away`, has not got."""
    segments = [path for path in (home(site, "local") / "wal").rglob("*-*") if path.is_file()]
    return [path for path in segments if not (away / path.relative_to(site.base / "local")).exists()]


@pytest.mark.parametrize(
    "name", ["writers/zz", "writers/0123456789abcdef", "keys/zz/public", "keys/zz/passphrase-x",
             "keys/0123456789abcdef/public", "history"],
)  # fmt: skip
def test_garbage_takes_nothing_away(read_only: Site, name: str) -> None:
    """Unsigned bytes under any name of the repository are ignored."""
    site = read_only
    path = home(site, "local") / "history" / "00000002.history" if name == "history" else site.base / "local/frk" / name
    put(path, b"x\n")
    try:
        assert len(site.run("snapshot", "list", "frk")) == 1
        assert site.run("wal", "coverage", "frk")["local"]["windows"]
        plan = site.run("restore", "frk", "--into", str(site.base / "r"), "--latest", "--dry-run")
        assert plan["missing"] == []
    finally:
        path.unlink()


def test_one_store_destroyed_leaves_the_other(site: Site) -> None:
    """`replicator.json` of the first store is garbage: the second serves."""
    path = site.base / "local/frk/replicator.json"
    path.chmod(0o600)
    path.write_bytes(b"x\n")
    assert len(site.run("snapshot", "list", "frk", "--store", "offsite")) == 1
    shutil.rmtree(site.base / "local/frk")
    restored = site.restore("--latest", "--store", "offsite")
    assert count(restored["port"]) == 100
    site.stop_restored()
