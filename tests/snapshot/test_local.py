"""Snapshots read from the data directory beside a real server: the same promises, the same tree."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.core.progress import Progress, silent
from replicator.errors import Interrupted, SourceUnavailable
from replicator.postgres.beside import NotBeside, confirm_beside
from replicator.postgres.query import SqlConnection
from replicator.postgres.sqlbackup import functions
from replicator.repository.repository import Repository
from replicator.snapshot.index import ParentIndex
from replicator.snapshot.job import TakeJob, TakeResult
from replicator.snapshot.local import COMPARED, BesideServer
from replicator.snapshot.take import take
from replicator.snapshot.view import list_rows
from replicator.store.protocol import Store
from replicator.tolerance import SystemClock
from tests.clusters import MAJOR, PASSWORD, REPLICATION_USER, TestCluster, make_cluster, own
from tests.snapshot.support import TreeReader, shipping, take_job, verify_tree

pytestmark = pytest.mark.server
_SETTLED_S = 0.05


@pytest.fixture(scope="module", autouse=True)
def granted(primary: TestCluster) -> None:
    """What the role needs beside replication. Only checkpoints write, so that a test knows when."""
    grant(primary)
    primary.sql("ALTER SYSTEM SET bgwriter_lru_maxpages = 0")
    primary.reload()


def grant(cluster: TestCluster) -> None:
    """Let the role start and stop backups."""
    named = ", ".join(functions(cluster.binaries.major * 10000))
    cluster.sql(f"GRANT EXECUTE ON FUNCTION {named} TO {REPLICATION_USER}")


def local_job(cluster: TestCluster, repository: Repository, state: Path, **given: Any) -> TakeJob:
    """A job that reads the cluster's data directory, and trusts a file's stamp soon: files' times are a tick behind."""
    local = BesideServer(cluster.directory, settled_s=_SETTLED_S)
    return replace(take_job(cluster, repository, state), local=local, **given)


def taken(cluster: TestCluster, repository: Repository, state: Path, **given: Any) -> TakeResult:
    """One snapshot, which must have come from the data directory."""
    heard: list[Progress] = []
    result = take(local_job(cluster, repository, state, **given), heard.append, Event())
    assert {"data_directory": str(cluster.directory)} in [progress.facts for progress in heard]
    return result


def index_of(state: Path) -> ParentIndex:
    """What this host remembers of the last snapshot."""
    index = ParentIndex.open(state / "snapshot/parent.sqlite")
    assert index is not None
    return index


def test_it_is_what_the_server_would_have_sent(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Each store gives back a tree that pg_verifybackup accepts, pg_control its last entry; the same files come over
    the network; no page's checksum is found wrong; what is temporary, or unlogged, is left out as there.
    """
    primary.sql("CREATE UNLOGGED TABLE lepas AS SELECT g FROM generate_series(1, 1000) g")
    primary.sql("CREATE TABLE kosong (id int)")
    with shipping(primary, repository), primary.session() as session:
        session.execute("CREATE TEMPORARY TABLE sementara AS SELECT 1")
        session.execute("CHECKPOINT")
        result = taken(primary, repository, tmp_path / "state")
        session.execute("CHECKPOINT")
        over_network = take(take_job(primary, repository, tmp_path / "state"), silent, Event())
    assert (result.exit_code, result.findings, result.row.parent) == (0, (), None)
    for name, store in stores.items():
        paths = verify_tree(repository, store, result, tmp_path / f"tree-{name}")
        assert paths[-1] == "global/pg_control"
    theirs = verify_tree(repository, stores["local"], over_network, tmp_path / "network")
    assert set(paths) == set(theirs) - {"tablespace_map"}  # the server sends it empty
    assert over_network.row.parent == result.row.snapshot.label
    assert over_network.row.added_bytes < result.row.added_bytes / 5
    primary.sql("DROP TABLE lepas, kosong")


def test_unchanged_files_are_taken_over_unread(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """By their stamps, also in the manifest for pg_verifybackup; a changed one is read; after a week all are. A file
    written after the backup was asked for gets none: a write that waits for its disk has set the file's time already.
    """
    state = tmp_path / "state"

    class Later(SystemClock):
        def now(self) -> datetime:
            return super().now() + timedelta(days=8)

    relation = str(primary.value("SELECT pg_relation_filepath('dosen')"))
    compared, stamps = [], []
    with shipping(primary, repository):
        for number, given in enumerate(({}, {}, {"clock": Later()})):
            primary.sql("UPDATE dosen SET nama = 'diganti' WHERE id = 77")
            if number:  # else it is written by the checkpoint that begins the backup
                primary.sql("CHECKPOINT")
                time.sleep(2 * _SETTLED_S)
            result = taken(primary, repository, state, **given)
            index = index_of(state)
            assert index.checked
            compared.append(index.recall(COMPARED))
            file = index.file("PG_VERSION"), index.file(relation)
            stamps.append([one.stamp if one is not None else b"" for one in file])
            index.close()
    verify_tree(repository, stores["local"], result, tmp_path / "tree")
    assert compared[0] == compared[1] != compared[2]
    assert stamps[0][0] == stamps[1][0] != b""
    assert stamps[0][1] == b""
    assert len({one[1] for one in stamps}) == 3


def test_the_second_reads_little(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """Far fewer bytes are read from files than the cluster has, and next to nothing is added."""
    with shipping(primary, repository):
        first = taken(primary, repository, tmp_path / "state")
        before = _bytes_read()
        second = taken(primary, repository, tmp_path / "state")
        count = _bytes_read() - before
    assert second.row.parent == first.row.snapshot.label
    assert second.row.bytes > first.row.bytes * 0.9
    assert second.row.added_bytes < first.row.added_bytes / 20
    assert count < second.row.bytes / 2


def _bytes_read() -> int:
    """What this process has read from files until now."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tablespace_made_while_it_starts(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path, when: str
) -> None:
    """Made just before the backup starts it is in it; made just after, the WAL makes it anew and its files are not."""
    location = primary.home / f"ruang-{when}"
    location.mkdir(mode=0o700)
    own(location)

    class Making(SqlConnection):
        def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
            starts = "start" in sql and "backup" in sql
            if starts and when == "before":
                make()
            rows = super().execute(sql, parameters)
            if starts and when == "after":
                make()
            return rows

    def make() -> None:
        primary.sql(f"CREATE TABLESPACE ruang LOCATION '{location}'")
        primary.sql("CREATE TABLE penghuni TABLESPACE ruang AS SELECT g FROM generate_series(1, 1000) g")
        primary.sql("CHECKPOINT")

    def sql() -> SqlConnection:
        return Making(primary.conninfo(REPLICATION_USER), PASSWORD.encode())

    try:
        with shipping(primary, repository):
            result = taken(primary, repository, tmp_path / "state", sql=sql)
        oid = primary.value("SELECT oid::int FROM pg_tablespace WHERE spcname = 'ruang'")
        reader = TreeReader(repository, stores["local"], result.row.snapshot)
        paths = verify_tree(repository, stores["local"], result, tmp_path / "tree")
        inside = [path for path in paths if path.startswith(f"pg_tblspc/{oid}/PG_")]
        if when == "before":
            assert reader.reader.facts.tablespaces == ({"in_place": False, "location": str(location), "oid": oid},)
            assert (tmp_path / "tree/tablespace_map").read_text() == f"{oid} {location}\n"
            assert len(inside) >= 3
        else:
            assert reader.reader.facts.tablespaces == ()
            assert (inside, (tmp_path / "tree/tablespace_map").exists()) == ([], False)
    finally:
        primary.sql("DROP TABLE penghuni")
        primary.sql("DROP TABLESPACE ruang")


@pytest.mark.skipif(MAJOR < 15, reason="tablespaces inside the data directory came with PostgreSQL 15")
def test_a_tablespace_inside_the_data_directory(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """It is read where it lies, also from PostgreSQL 15, which leaves it out of its own base backups."""
    with primary.session() as session:
        session.execute("SET allow_in_place_tablespaces = on")
        session.execute("CREATE TABLESPACE dalam LOCATION ''")
        session.execute("CREATE TABLE isi TABLESPACE dalam AS SELECT 1 AS id")
        oid = primary.value("SELECT oid::int FROM pg_tablespace WHERE spcname = 'dalam'")
        with shipping(primary, repository):
            result = taken(primary, repository, tmp_path / "state")
        session.execute("DROP TABLE isi")
        session.execute("DROP TABLESPACE dalam")
    reader = TreeReader(repository, stores["local"], result.row.snapshot)
    assert reader.reader.facts.tablespaces == ({"in_place": True, "location": f"pg_tblspc/{oid}", "oid": oid},)
    paths = verify_tree(repository, stores["local"], result, tmp_path / "tree")
    assert any(path.startswith(f"pg_tblspc/{oid}/PG_") for path in paths)


def test_a_wrong_page_checksum_completes_and_marks(base: Path, repository: Repository, tmp_path: Path) -> None:
    """The snapshot exists, is damaged, names file and block, and exits with 4, also when pages that are as its parent
    has them are not looked at; it is no one's parent.
    """
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        grant(cluster)
        cluster.sql("CREATE TABLE rusak AS SELECT g FROM generate_series(1, 10000) g")
        relation = cluster.value("SELECT pg_relation_filepath('rusak')")
        cluster.restart()
        with shipping(cluster, repository):
            well = taken(cluster, repository, tmp_path / "state")
            with (cluster.directory / relation).open("r+b") as file:
                file.seek(3 * 8192 + 4000)
                file.write(b"bad bytes")
            result = taken(cluster, repository, tmp_path / "state")
            after = taken(cluster, repository, tmp_path / "state")
    assert (well.exit_code, well.row.damaged) == (0, False)
    assert (result.exit_code, result.row.damaged, result.row.parent) == (4, True, well.row.snapshot.label)
    assert [finding.text for finding in result.findings] == [f"page checksum is wrong in {relation}, block 3"]
    assert (after.exit_code, after.row.parent) == (4, well.row.snapshot.label)


def test_another_directory_is_not_read(
    base: Path, primary: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """Another cluster's, a standby's of the same cluster, none at all, and a role that may not: the snapshot comes over
    the network, and progress says why.
    """
    with SqlConnection(primary.conninfo(REPLICATION_USER), PASSWORD.encode()) as sql:
        assert confirm_beside(sql, primary.directory).version.startswith(f"PG_{primary.binaries.major}_")
        standby = primary.standby()
        try:
            with pytest.raises(NotBeside, match="is not the data directory of the server that answers"):
                confirm_beside(sql, standby.directory)
        finally:
            standby.destroy()
        with make_cluster(base, start=False) as other, pytest.raises(NotBeside, match="is of cluster"):
            confirm_beside(sql, other.directory)
        named = ", ".join(functions(primary.binaries.major * 10000))
        primary.sql(f"REVOKE EXECUTE ON FUNCTION {named} FROM {REPLICATION_USER}")
        with pytest.raises(NotBeside) as failure:
            confirm_beside(sql, primary.directory)
        grant(primary)
        assert f"GRANT EXECUTE ON FUNCTION {named} TO {REPLICATION_USER}" in failure.value.hint
    heard: list[Progress] = []
    job = replace(take_job(primary, repository, tmp_path / "state"), local=BesideServer(tmp_path / "nowhere"))
    with shipping(primary, repository):
        result = take(job, heard.append, Event())
    assert result.exit_code == 0
    (warning,) = [progress.facts["warning"] for progress in heard if "warning" in progress.facts]
    assert "nowhere can not be read as a data directory" in warning
    assert "over the network" in warning


@pytest.mark.parametrize("at", ["backup", "file", "read"])
def test_stopped_then_again(primary: TestCluster, repository: Repository, tmp_path: Path, at: str) -> None:
    """Stopped while it reads it leaves no snapshot, no backup on the server, and nothing in the way of the next."""
    stop = Event()
    job = local_job(primary, repository, tmp_path / "state", steps=lambda step: stop.set() if step == at else None)
    with shipping(primary, repository):
        with pytest.raises(Interrupted):
            take(job, silent, stop)
        assert list_rows(repository).rows == ()
        assert taken(primary, repository, tmp_path / "state").exit_code == 0
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%%backup%%' AND usename = %s"
    until = time.monotonic() + 60
    while primary.value(sessions, (REPLICATION_USER,)):  # a session ends a moment after it was left
        assert time.monotonic() < until, "a backup goes on"
        time.sleep(0.02)


def test_a_lost_source_leaves_nothing(base: Path, repository: Repository, tmp_path: Path) -> None:
    """A server that goes away while its files are read: SourceUnavailable (5), though the files are all there."""
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        grant(cluster)
        gone: list[str] = []

        def steps(step: str) -> None:
            if step == "file" and not gone:
                gone.append(step)
                cluster.crash()

        found = shipping(cluster, repository)
        found.__enter__()
        with pytest.raises(SourceUnavailable) as failure:
            take(local_job(cluster, repository, tmp_path / "state", steps=steps), silent, Event())
        assert failure.value.exit_code == 5
        assert list_rows(repository).rows == ()
