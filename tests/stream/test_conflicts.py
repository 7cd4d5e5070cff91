"""Two contents for one range of WAL: both are kept, loud; a torn tail is no conflict."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import HostLacks
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.header import Compression
from replicator.spool import Spool
from replicator.stream.naming import describer
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import RunningStream, catalog, settings, streaming
from tests.stream.test_trouble import assert_whole

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """A running cluster with segments of 1 MB that keeps WAL only for slots."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as made:
        yield made


def put_anothers(repository: Repository, system_id: int, segment: Segment) -> str:
    """Put a sound object of other bytes of this segment, as a second writer of the same timeline would: its name."""
    part = WalPart(system_id, segment, segment.start, segment.end, 1, 2, complete=True)
    body: list[bytes] = []
    name = seal_part(
        repository.keyring, Compression.ZSTD, 1, part, lambda _, length: b"another's"[:1] * length, body.append
    )
    repository.store("local").put(name, b"".join(body))
    return name


def test_other_bytes_below_what_was_acknowledged_are_a_conflict(cluster: TestCluster, tmp_path: Path) -> None:
    """A spool whose acknowledged bytes differ from the source's stops the receiver with exit code 8 and a note."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(100))
    spool = Spool(tmp_path / "spool", cluster.system_id, describer)
    newest = spool.held()[-1]
    path = next((tmp_path / "spool").rglob("*.partial"))
    assert newest.segment.name in path.name
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff\xff\xff")
    running = RunningStream(repository, tmp_path / "spool", lambda: cluster).start()
    try:
        running.wait(lambda now: now.state == "conflict", "conflict")
        running.wait(lambda _: bool(catalog(repository, cluster.system_id, size=MB).notes), "the note arrives")
    finally:
        running.stop()
    assert [problem.code for problem in running.stream.statistics().problems] == [8]
    assert running.failures["receiver"].exit_code == 8  # type: ignore[attr-defined]


def test_two_contents_of_one_segment_are_loud(cluster: TestCluster, tmp_path: Path) -> None:
    """Another object of a complete segment in a store is a problem with code 8 and a note; both objects stay."""
    repository = make_repository(tmp_path)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(20_000))
    segment, names = next(iter(catalog(repository, cluster.system_id, size=MB).wal.items()))
    other = put_anothers(repository, cluster.system_id, Segment.parse(segment, MB))
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait(lambda now: [problem.code for problem in now.problems] == [8], "loud")
        running.wait_durable(cluster.write_wal(10))
        running.wait(lambda _: bool(catalog(repository, cluster.system_id, size=MB).notes), "the note arrives")
    assert catalog(repository, cluster.system_id, size=MB).wal[segment] == tuple(sorted([*names, other]))


def test_a_torn_tail_is_received_again(cluster: TestCluster, tmp_path: Path) -> None:
    """Bytes in the spool that were never acknowledged nor sealed may be wrong after a crash: the source's win."""
    repository = make_repository(tmp_path)
    armed = threading.Event()
    died = threading.Event()

    def steps(name: str) -> None:
        if armed.is_set() and name == "before acknowledge":
            died.set()
            raise KeyboardInterrupt(name)

    patient = settings(piece_interval=600.0, status_interval=60.0)
    running = RunningStream(repository, tmp_path / "spool", lambda: cluster, patient, steps=steps).start()
    try:
        first = Lsn.parse(cluster.write_wal(10))
        running.wait(lambda now: (now.acknowledged_lsn or 0) >= first, "acknowledged")
        armed.set()
        cluster.write_wal(1000)
        assert died.wait(60)
    finally:
        running.stop()
    path = next((tmp_path / "spool").rglob("*.partial"))
    with path.open("r+b") as file:
        file.seek(-200, 2)
        file.write(b"\0" * 200)
    with streaming(repository, tmp_path / "spool", cluster, settings(piece_interval=600.0)) as running:
        end = cluster.write_wal(2000)
        running.stream.cut(Lsn.parse(end))
        running.wait_durable(end)
        assert not running.stream.statistics().problems
    assert_whole(repository, cluster, end)


def test_anothers_object_does_not_stand_for_ours(cluster: TestCluster, tmp_path: Path) -> None:
    """Where a store holds another content of a segment before ours is sealed, ours is sealed, stored and the spool's
    bytes kept until then; the conflict is loud.
    """
    repository = make_repository(tmp_path)
    failing = threading.Event()

    def steps(name: str) -> None:
        if failing.is_set() and name == "before seal":
            raise HostLacks("for the test")

    with streaming(repository, tmp_path / "spool", cluster, steps=steps) as running:
        running.wait_durable(cluster.write_wal(20_000))
        failing.set()
        time.sleep(0.1)
        end = Lsn.parse(cluster.write_wal(20_000))
        running.wait(lambda now: (now.flushed_lsn or 0) >= end, "received")
    spooled = Spool(tmp_path / "spool", cluster.system_id, describer).held()
    waiting = [held.segment for held in spooled if held.complete][-1]
    put_anothers(repository, cluster.system_id, waiting)
    with streaming(repository, tmp_path / "spool", cluster) as running:
        running.wait_durable(cluster.write_wal(10))
        running.wait(lambda now: 8 in [problem.code for problem in now.problems], "loud")
    names = catalog(repository, cluster.system_id, size=MB).wal[waiting.name]
    assert len(names) == 2
