"""Commits, transaction ends and restore points through pg_waldump."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import DeadlineExceeded, IntegrityError, NotFound
from replicator.postgres.waldump import RestorePoint, TransactionEnd, Waldump, parse_line
from tests.clusters import TestCluster, binaries, make_cluster

MIB = 2**20


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/015588F0, prev 0/015588B8,"
            " desc: COMMIT 2026-11-22 13:01:01.123456 UTC\n",
            TransactionEnd(Lsn(0x15588F0), 735, datetime(2026, 11, 22, 13, 1, 1, 123456, tzinfo=UTC), committed=True),
        ),
        (
            "rmgr: Transaction len (rec/tot):     54/    54, tx:          0, lsn: 1/0, prev 0/015588B8,"
            " desc: COMMIT_PREPARED 740: 2026-11-22 13:01:01.000000 UTC; inval msgs: catcache 7",
            TransactionEnd(Lsn(2**32), 740, datetime(2026, 11, 22, 13, 1, 1, tzinfo=UTC), committed=True),
        ),
        (
            "rmgr: Transaction len (rec/tot):     34/    34, tx:         99, lsn: 0/10, prev 0/8,"
            " desc: ABORT 2026-11-22 13:01:01.000000 UTC",
            TransactionEnd(Lsn(16), 99, datetime(2026, 11, 22, 13, 1, 1, tzinfo=UTC), committed=False),
        ),
        (
            "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/20, prev 0/8,"
            " desc: RESTORE_POINT sebelum hapus; COMMIT",
            RestorePoint(Lsn(32), "sebelum hapus; COMMIT"),
        ),
        ("rmgr: Heap        len (rec/tot):     54/  54, tx: 1, lsn: 0/20, prev 0/8, desc: INSERT off 1", None),
        ("first record is after 0/2000000, at 0/2000028, skipping over 40 bytes", None),
        ("", None),
    ],
)
def test_lines(line: str, found: object) -> None:
    """Every kind of line that says something, and those that do not."""
    assert parse_line(line) == found


@pytest.fixture(scope="module")
def wal(base: Path) -> Iterator[tuple[TestCluster, Path, dict[str, Lsn]]]:
    """A stopped cluster's segments, with LSNs around what happened."""
    with make_cluster(
        base, wal_segsize_mb=1, conf={"max_prepared_transactions": "5", "wal_keep_size": "64MB", "autovacuum": "off"}
    ) as cluster:
        marks = {"start": Lsn.parse(cluster.lsn())}
        cluster.sql("CREATE TABLE dosen (nama text)")
        with cluster.session() as session:
            session.execute("BEGIN")
            session.execute("INSERT INTO dosen VALUES ('batal')")
            row = session.execute("SELECT pg_current_xact_id()::text::int").fetchone()
            assert row is not None
            marks["aborted"] = Lsn(row[0])
            session.execute("ROLLBACK")
            session.execute("BEGIN")
            session.execute("INSERT INTO dosen VALUES ('dua fase')")
            row = session.execute("SELECT pg_current_xact_id()::text::int").fetchone()
            assert row is not None
            marks["prepared"] = Lsn(row[0])
            session.execute("PREPARE TRANSACTION 'p'")
            session.execute("COMMIT PREPARED 'p'")
        marks["point"] = Lsn.parse(cluster.value("SELECT pg_create_restore_point('titik')::text"))
        cluster.write_wal(20_000)
        marks["middle"] = Lsn.parse(cluster.lsn())
        cluster.write_wal(10)
        marks["end"] = Lsn.parse(cluster.lsn())
        cluster.stop()
        yield cluster, cluster.directory / "pg_wal", marks


@pytest.mark.server
def test_a_range_tells_its_transactions(wal: tuple[TestCluster, Path, dict[str, Lsn]]) -> None:
    """First, last and number; times are now, in UTC; a shorter range ends earlier."""
    _, directory, marks = wal
    dump = Waldump(binaries())
    found = dump.commits(directory, 1, marks["start"], marks["end"])
    assert found.first is not None
    assert found.last is not None
    assert found.first.lsn < marks["point"] < found.last.lsn < marks["end"]
    assert abs(datetime.now(UTC) - found.last.time) < timedelta(minutes=5)
    shorter = dump.commits(directory, 1, marks["start"], marks["middle"])
    assert shorter.count == found.count - 1
    assert dump.commits(directory, 1, marks["end"], marks["end"]).count == 0


@pytest.mark.server
def test_transactions_and_restore_points_are_found(wal: tuple[TestCluster, Path, dict[str, Lsn]]) -> None:
    """By number, two-phase ones too, and by name; what is not there is None."""
    _, directory, marks = wal
    dump = Waldump(binaries())
    where = (directory, 1, marks["start"], marks["end"])
    aborted = dump.find_xid(*where, int(marks["aborted"]))
    prepared = dump.find_xid(*where, int(marks["prepared"]))
    assert aborted is not None
    assert not aborted.committed
    assert prepared is not None
    assert prepared.committed
    assert dump.find_xid(*where, 4_000_000) is None
    point = dump.find_restore_point(*where, "titik")
    assert point is not None
    assert point.lsn < marks["point"]
    assert dump.find_restore_point(*where, "tit") is None
    assert dump.find_restore_point(directory, 1, marks["point"], marks["end"], "titik") is None


@pytest.mark.server
def test_a_record_across_a_ranges_end_belongs_to_it(wal: tuple[TestCluster, Path, dict[str, Lsn]]) -> None:
    """Segment by segment, or cut anywhere, every record is told once: also those that go on after the end."""
    _, directory, marks = wal
    dump = Waldump(binaries())
    every = [lsn for lsn in dump.records(directory, 1, marks["start"], None) if lsn < marks["end"]]
    cuts = [
        marks["start"],
        *(Lsn(number * MIB) for number in range(marks["start"] // MIB + 1, marks["end"] // MIB + 1)),
    ]
    cuts += [Lsn(every[len(every) // 2] + 8), marks["end"]]
    told = [lsn for low, high in pairwise(sorted(cuts)) for lsn in dump.records(directory, 1, low, high)]
    assert told == every


@pytest.mark.server
def test_some_segments_with_a_zero_tail_suffice(wal: tuple[TestCluster, Path, dict[str, Lsn]], tmp_path: Path) -> None:
    """Only the last segments, the last one padded with zeros: what is whole is told, nothing fails."""
    _, directory, marks = wal
    last = Segment.holding(1, marks["end"], MIB)
    first = Segment(1, last.number - 1, MIB)
    shutil.copy(directory / first.name, tmp_path)
    cut = marks["end"] - last.start - 20
    content = (directory / last.name).read_bytes()[:cut]
    (tmp_path / last.name).write_bytes(content + bytes(MIB - cut))
    found = Waldump(binaries()).commits(tmp_path, 1, first.start, None)
    assert found.last is not None
    assert found.last.lsn < marks["end"]
    with pytest.raises(NotFound):
        Waldump(binaries()).commits(tmp_path, 1, marks["start"].floor(MIB), None)
    (tmp_path / first.name).write_bytes(bytes(MIB))
    with pytest.raises(IntegrityError):
        Waldump(binaries()).commits(tmp_path, 1, first.start, None)


@pytest.mark.server
def test_reading_has_a_deadline(tmp_path: Path, wal: tuple[TestCluster, Path, dict[str, Lsn]]) -> None:
    """A program that hangs is ended, and that is an error, not the end of WAL."""
    _, directory, marks = wal
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "pg_waldump").write_text("#!/bin/sh\nexec sleep 30\n")
    (fake / "pg_waldump").chmod(0o755)
    (fake / "postgres").symlink_to(binaries().program("postgres"))
    slow = type(binaries())(fake, binaries().version)
    with pytest.raises(DeadlineExceeded):
        Waldump(slow, time_limit=0.3).commits(directory, 1, marks["start"], None)
