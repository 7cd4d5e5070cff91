"""Full spools, stores that are away, crashes, lost slots: nothing acknowledged is lost, no gap is silent."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.errors import HostLacks, ReplicatorError, SpoolFull, StoreUnavailable
from replicator.repository.repository import Repository
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, catalog, settings, streaming
from tests.stream.test_acknowledge import Taps

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB that keeps WAL only for slots."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


def assert_whole(repository: Repository, cluster: TestCluster, end: str, store: str = "local") -> None:
    """One gapless run up to `end`, and no conflict."""
    held = catalog(repository, cluster.system_id, store, MB)
    assert len(held.coverage.ranges()) == 1, held.coverage.ranges()
    assert held.coverage.ranges()[0].end >= Lsn.parse(end)
    assert held.conflicts == ()


def test_a_full_spool_pushes_back_and_goes_on(cluster: TestCluster, tmp_path: Path) -> None:
    """With every store away the receiver stops at the limit, the slot holds, the connection lives; then all arrives."""
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    with streaming(repository, tmp_path / "spool", cluster, settings(spool_limit=4 * MB)) as running:
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["local"].closed = True
        for _ in range(8):
            end = cluster.write_wal(20_000)
        now = running.wait(
            lambda now: now.back_pressure and any(problem.code == 9 for problem in now.problems), "back pressure"
        )
        assert now.received_lsn < Lsn.parse(end)
        assert now.spool_bytes < 4 * MB + 5 * MB
        assert cluster.value("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
        taps.by_name["local"].closed = False
        now = running.wait_durable(end)
        running.wait(lambda now: not now.back_pressure and not now.problems, "well again")
    assert_whole(repository, cluster, end)


def test_at_the_limit_what_one_store_has_is_let_go(cluster: TestCluster, tmp_path: Path) -> None:
    """One store away: the spool stays at its limit and the stream flows; back again, that store gets all of it, from
    the spool and from the other store.
    """
    taps = Taps()
    repository = make_repository(tmp_path, names=("near", "far"), wrap=taps)
    with streaming(repository, tmp_path / "spool", cluster, settings(spool_limit=4 * MB)) as running:
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["far"].closed = True
        for _ in range(8):
            end = cluster.write_wal(20_000)
            running.wait_near(end)
        running.wait(lambda now: now.spool_bytes < 8 * MB and now.stores["far"].state == "away", "at the limit")
    taps.by_name["far"].closed = False
    with streaming(repository, tmp_path / "spool", cluster, settings(spool_limit=4 * MB)) as running:
        running.wait_durable(end)
    assert_whole(repository, cluster, end, "near")
    assert_whole(repository, cluster, end, "far")


def test_a_store_that_was_away_catches_up(cluster: TestCluster, tmp_path: Path) -> None:
    """A store that comes back gets what it missed; the other one was never held up."""
    taps = Taps()
    repository = make_repository(tmp_path, names=("near", "far"), wrap=taps)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["far"].closed = True
        end = cluster.write_wal(50_000)
        running.wait_near(end)
        running.wait(
            lambda now: now.stores["far"].state == "away" and any(problem.code == 6 for problem in now.problems), "away"
        )
        running.wait(lambda now: now.stores["far"].lag_bytes > 0, "behind")
        taps.by_name["far"].closed = False
        running.wait_durable(end)
        running.wait(lambda now: not now.problems, "no problem left")
    assert_whole(repository, cluster, end, "far")


def test_pieces_go_when_their_segment_is_there(cluster: TestCluster, tmp_path: Path) -> None:
    """Nothing but the segment that is being written has pieces; the spool keeps only the newest segment."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        for _ in range(4):
            end = cluster.write_wal(5000)
            running.wait_durable(end)
        running.wait(lambda now: now.spool_bytes < 3 * MB, "the spool is small")

        def given_way(_: object) -> bool:
            held = catalog(repository, cluster.system_id, size=MB)
            return len(held.wal) >= 2 and not set(held.pieces) & set(held.wal)

        running.wait(given_way, "pieces went")


def test_many_pieces_become_one(cluster: TestCluster, tmp_path: Path) -> None:
    """After the most pieces of a segment one from its start replaces them, in the store too."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster, settings(piece_interval=0.01, most_pieces=3)) as running:
        for _ in range(8):
            end = cluster.write_wal(1)
            running.wait_durable(end)

        def few(_: object) -> bool:
            return all(len(found) <= 3 for found in catalog(repository, cluster.system_id, size=MB).pieces.values())

        running.wait(few, "few pieces")
    assert_whole(repository, cluster, end)


def test_a_store_that_refuses_deletes_still_works(cluster: TestCluster, tmp_path: Path) -> None:
    """Credentials without delete are enough: pieces stay, nothing else changes."""
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    taps.by_name["local"].denied = {"delete"}
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
        end = cluster.write_wal(30_000)
        running.wait_durable(end)
        assert not running.stream.statistics().problems
    assert_whole(repository, cluster, end)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("before write", SpoolFull),
        ("before seal", SpoolFull),
        ("before fsync", HostLacks),
        ("before put", StoreUnavailable),
    ],
)
def test_what_passes_is_survived(cluster: TestCluster, tmp_path: Path, step: str, error: type[ReplicatorError]) -> None:
    """A full disk, a failed fsync, a store that fails: said while it lasts, then the stream is whole again."""
    repository = make_repository(tmp_path)
    failing = threading.Event()

    def steps(name: str) -> None:
        if failing.is_set() and name == step:
            raise error("for the test")

    with streaming(repository, tmp_path / "spool", cluster, steps=steps) as running:
        running.wait_durable(cluster.write_wal(10))
        failing.set()
        end = cluster.write_wal(20_000)
        now = running.wait(lambda now: bool(now.problems), "said")
        assert (now.stores["local"].durable_lsn or 0) < Lsn.parse(end)
        failing.clear()
        running.wait_durable(end)
        running.wait(lambda now: not now.problems and not now.back_pressure, "well again")
    assert_whole(repository, cluster, end)


def test_a_primary_that_crashes_is_followed(cluster: TestCluster, tmp_path: Path) -> None:
    """Crashes of the source under load, without a clean end of WAL, leave no hole and no conflict."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        for _ in range(3):
            with cluster.session() as session:
                session.execute("SET synchronous_commit = off")
                for _ in range(30):
                    session.execute("INSERT INTO kegiatan (isi) SELECT md5(g::text) FROM generate_series(1, 300) g")
            cluster.crash()
            cluster.start()
            running.wait(lambda now: now.state == "streaming", "streaming again")
        end = cluster.write_wal(10)
        running.wait_durable(end)
        running.wait(lambda now: not now.problems, "no problem left")
    assert_whole(repository, cluster, end)


def test_a_lost_spool_is_derived_from_the_store(cluster: TestCluster, tmp_path: Path) -> None:
    """The store is the truth: without a spool the stream goes on from the store's end."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(5000))
    shutil.rmtree(tmp_path / "spool")
    cluster.write_wal(5000)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        end = cluster.write_wal(5000)
        running.wait_durable(end)
        assert not running.stream.statistics().gaps
    assert_whole(repository, cluster, end)
