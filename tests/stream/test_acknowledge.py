"""Promise 1 on the wire: what the source hears is durable where the policy says, byte-exact."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import SLOT, RunningStream, Tap, settings, streaming

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


class Taps:
    """A tap around each driver, by the store's name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tap] = {}

    def __call__(self, store: Any) -> Any:
        """As the `wrap` of make_repository."""
        return self.by_name.setdefault(store.name, Tap(store))


def obeyed(cluster: TestCluster) -> None:
    """Wait until commits heed the server's new synchronous_standby_names: it is the checkpointer that tells them, which
    reads the configuration again before it begins what is asked of it; the first checkpoint may have begun before.
    """
    for _ in range(2):
        cluster.sql("CHECKPOINT")


def flush_lsn(cluster: TestCluster) -> Lsn:
    """What the server believes we have flushed."""
    text = cluster.value(
        "SELECT coalesce(flush_lsn, '0/0')::text FROM pg_stat_replication WHERE application_name = %s", (SLOT,)
    )
    return Lsn.parse(text)


@pytest.mark.parametrize("mode", ["store", "stores"])
def test_nothing_is_acknowledged_that_the_stores_lack(cluster: TestCluster, tmp_path: Path, mode: str) -> None:
    """With "stores" a store that is away holds the flush position; with "store" one that is well suffices."""
    taps = Taps()
    repository = make_repository(tmp_path, names=("near", "far"), wrap=taps)
    with streaming(repository, tmp_path / "spool", cluster, settings(acknowledge=mode)) as running:
        before = Lsn.parse(cluster.write_wal(10))
        running.wait(lambda now: (now.acknowledged_lsn or 0) >= before, "acknowledged")
        taps.by_name["far"].closed = True
        time.sleep(0.1)
        end = Lsn.parse(cluster.write_wal(10))
        running.wait(lambda now: (now.stores["near"].durable_lsn or 0) >= end, "durable near")
        if mode == "store":
            running.wait(lambda now: (now.acknowledged_lsn or 0) >= end, "acknowledged")
            heard = flush_lsn(cluster)
            assert heard <= (running.stream.statistics().flushed_lsn or 0)
        else:
            time.sleep(0.3)
            now = running.wait(lambda now: now.acknowledged_lsn is not None, "known")
            assert now.acknowledged_lsn <= now.stores["far"].durable_lsn < end
            assert flush_lsn(cluster) <= now.stores["far"].durable_lsn
            taps.by_name["far"].closed = False
            running.wait(lambda now: (now.acknowledged_lsn or 0) >= end, "acknowledged after the return")


@pytest.mark.parametrize("mode", ["spool", "store"])
def test_a_synchronous_commit_waits_for_us_and_returns(cluster: TestCluster, tmp_path: Path, mode: str) -> None:
    """As the synchronous standby we let commits return soon, and none returns while nobody streams."""
    repository = make_repository(tmp_path)
    cluster.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{SLOT}'")
    cluster.reload()
    obeyed(cluster)
    done = threading.Event()

    def commit() -> None:
        cluster.write_wal(10)
        done.set()

    waiting = threading.Thread(target=commit, daemon=True)
    waiting.start()
    assert not done.wait(0.5)
    with streaming(repository, tmp_path / "spool", cluster, settings(acknowledge=mode, piece_interval=20.0)) as running:
        assert done.wait(60), running.stream.statistics()
        waiting.join(60)
        took = []
        with cluster.session() as session:
            for _ in range(20):
                began = time.monotonic()
                session.execute("INSERT INTO kegiatan (isi) VALUES ('penelitian')")
                took.append(time.monotonic() - began)
        assert sorted(took)[10] < 2  # a status comes every 10 s without being asked for


def test_flush_never_passes_what_is_fsynced(cluster: TestCluster, tmp_path: Path) -> None:
    """While an fsync hangs, the source hears nothing of the bytes behind it."""
    held = threading.Event()
    reached = threading.Event()

    def steps(name: str) -> None:
        if name == "before fsync" and hold.is_set():
            reached.set()
            held.wait(60)

    hold = threading.Event()
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster, steps=steps) as running:
        first = Lsn.parse(cluster.write_wal(10))
        running.wait(lambda now: (now.acknowledged_lsn or 0) >= first, "acknowledged")
        hold.set()
        end = Lsn.parse(cluster.write_wal(1000))
        assert reached.wait(60)
        time.sleep(0.2)
        assert flush_lsn(cluster) < end
        hold.clear()
        held.set()
        running.wait(lambda now: (now.acknowledged_lsn or 0) >= end, "acknowledged")


def test_a_busy_source_pays_an_fsync_with_each_commit_only_where_it_waits_for_us(
    cluster: TestCluster, tmp_path: Path
) -> None:
    """Commits that don't wait are gathered; as soon as the source says that they wait, each has its own."""
    fsyncs = [0]

    def steps(name: str) -> None:
        fsyncs[0] += name == "before fsync"

    def commits(session: Any, count: int) -> int:
        before = fsyncs[0]
        for _ in range(count):
            session.execute("INSERT INTO kegiatan (isi) VALUES ('penelitian')")
            time.sleep(0.002)
        return fsyncs[0] - before

    cluster.write_wal(1)
    with (
        streaming(
            make_repository(tmp_path), tmp_path / "spool", cluster, settings(slot_look=0.1), steps=steps
        ) as running,
        cluster.session() as session,
    ):
        running.wait(lambda now: now.state == "streaming" and not now.awaited, "nobody waits for us")
        began = time.monotonic()
        gathered = commits(session, 100)
        assert gathered < max(50, 10 + 20 * (time.monotonic() - began)), "one in a tenth of a second is enough"
        cluster.configure({"synchronous_standby_names": SLOT})
        cluster.reload()
        running.wait(lambda now: now.awaited, "commits wait for us")
        obeyed(cluster)
        assert commits(session, 20) >= 20


def test_shutdown_flushes_everything(cluster: TestCluster, tmp_path: Path) -> None:
    """Flush ships the last byte received, although its second has not passed."""
    repository = make_repository(tmp_path)
    running = RunningStream(repository, tmp_path / "spool", lambda: cluster, settings(piece_interval=600.0)).start()
    try:
        end = Lsn.parse(cluster.write_wal(10))
        running.wait(lambda now: (now.received_lsn or 0) >= end, "received")
        assert (running.stream.statistics().stores["local"].durable_lsn or 0) < end
    finally:
        running.stop(flush=True)
    assert (running.stream.statistics().stores["local"].durable_lsn or 0) >= end
    assert not running.failures


def test_a_primary_shuts_down_without_waiting_for_us(cluster: TestCluster, tmp_path: Path) -> None:
    """A fast shutdown gets its replies at once, and its last record is in the store."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        began = time.monotonic()
        cluster.stop()
        assert time.monotonic() - began < 30
        running.wait(lambda now: now.state == "away", "away")
        running.wait_durable(running.wait(lambda now: now.received_lsn, "received").received_lsn)
        cluster.start()
        running.wait(lambda now: now.state == "streaming", "streaming again")
        running.wait_durable(cluster.write_wal(10))


def test_a_cut_is_made_at_once(cluster: TestCluster, tmp_path: Path) -> None:
    """Asked to cut at an LSN, the sealer doesn't wait for the second."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster, settings(piece_interval=600.0)) as running:
        end = Lsn.parse(cluster.write_wal(10))
        running.stream.cut(end)
        running.wait_durable(end)
