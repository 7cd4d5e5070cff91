"""Snapshots read from a real standby: the same promises, the same repository; the primary where it can't be read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from replicator.core.progress import Progress, silent
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import SourceRefused
from replicator.policy import StorePolicy, TolerancePolicy
from replicator.postgres.binaries import find_binaries
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conninfo import beside
from replicator.postgres.following import NotFollowing, Server, confirm_following, same_wal
from replicator.postgres.query import SqlConnection
from replicator.postgres.sqlbackup import functions
from replicator.repository.layout import PieceName, parse_name, pieces_prefix
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.restore.job import RestoreJob
from replicator.restore.plan import PlanRequest
from replicator.restore.run import restore
from replicator.snapshot.index import ParentIndex
from replicator.snapshot.job import TakeJob, TakeResult
from replicator.snapshot.local import BesideServer
from replicator.snapshot.standby import Standby
from replicator.snapshot.take import take
from replicator.store.protocol import Store
from tests.clusters import OWNER, PASSWORD, REPLICATION_USER, TestCluster, make_cluster, own, run_as_owner
from tests.servers import free_port
from tests.snapshot.conftest import directory_store
from tests.snapshot.support import TreeReader, make_repository, shipping, take_job, verify_tree

pytestmark = pytest.mark.server
_LAG = 2**20


@pytest.fixture(scope="module")
def replica(primary: TestCluster) -> Iterator[TestCluster]:
    """A standby that the module's tests share."""
    named = ", ".join(functions(primary.binaries.major * 10000))
    primary.sql(f"GRANT EXECUTE ON FUNCTION {named} TO {REPLICATION_USER}")
    with primary.standby() as found:
        yield found


def server(port: int) -> Server:
    """The ways to a server, as compose has them to a replica."""
    conninfo = beside(f"host=127.0.0.1 user={REPLICATION_USER} dbname=postgres", "127.0.0.1", port)
    return Server(
        lambda: ReplicationConnection.connect(
            conninfo, PASSWORD.encode(), application_name="tests", connect_timeout=10
        ),
        lambda: SqlConnection(conninfo, PASSWORD.encode(), connect_timeout=10),
    )


def job_of(primary: TestCluster, port: int, repository: Repository, state: Path, **given: Any) -> TakeJob:
    """A job that reads from the replica on that port."""
    standby = Standby("r1", server(port), _LAG, lag_wait_s=given.pop("lag_wait_s", 20.0), wal_wait_s=2.0)
    return replace(take_job(primary, repository, state), standby=standby, **given)


def taken(primary: TestCluster, replica: TestCluster, repository: Repository, state: Path) -> TakeResult:
    """One snapshot, which must have come from the replica."""
    primary.sql("CHECKPOINT")  # the repository has WAL from a moment ago on: so must the standby's restartpoint be
    caught_up(primary, replica)
    heard: list[Progress] = []
    result = take(job_of(primary, replica.port, repository, state), heard.append, Event())
    assert (result.exit_code, result.findings) == (0, ())
    assert [progress.facts["replica"] for progress in heard if "replica" in progress.facts] == ["r1"]
    return result


def from_primary(job: TakeJob, repository: Repository) -> str:
    """Why a snapshot, which is there and well, came from the primary."""
    heard: list[Progress] = []
    result = take(job, heard.append, Event())
    (finding,) = result.findings
    assert (result.exit_code, finding.code, finding.affects) == (0, "snapshot_from_primary", None)
    assert label_of(repository, result).splitlines()[3] == "BACKUP FROM: primary"
    (warning,) = [progress.facts["warning"] for progress in heard if "warning" in progress.facts]
    reason = finding.text.removeprefix("the snapshot was read from the primary: ")
    assert warning == f"{reason}: the snapshot is read from the primary"
    return reason


def label_of(repository: Repository, result: TakeResult) -> str:
    """The text of its backup_label."""
    reader = TreeReader(repository, repository.stores["local"], result.row.snapshot)
    (entry,) = [entry for entry in reader.reader.entries() if entry.path == "backup_label"]
    return reader.content(entry).decode()  # type: ignore[arg-type]  # a file


def caught_up(primary: TestCluster, replica: TestCluster) -> None:
    """Wait until the replica has replayed what the primary has."""
    end = primary.lsn()
    deadline = time.monotonic() + 60
    while not replica.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (end,)):
        assert time.monotonic() < deadline, "the replica does not follow"
        time.sleep(0.02)


def test_the_replica_is_read(
    primary: TestCluster, replica: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Each store gives back the standby's tree, which pg_verifybackup accepts, pg_control its last entry."""
    with shipping(primary, repository):
        result = taken(primary, replica, repository, tmp_path / "state")
    assert label_of(repository, result).splitlines()[3] == "BACKUP FROM: standby"
    assert set(result.row.stores) == {"local", "offsite"}
    for name, store in stores.items():
        paths = verify_tree(repository, store, result, tmp_path / f"tree-{name}")
        assert paths[-1] == "global/pg_control"
        assert "standby.signal" in paths


def test_it_recovers_to_the_primary_s_end(primary: TestCluster, replica: TestCluster, base: Path) -> None:
    """Taken while the primary writes, and restored to the last byte: the same rows as the primary's, and sound."""
    home = base / "pulih"
    home.mkdir()
    repository = make_repository({"local": directory_store("local", home / "local")}, home)
    end = Event()

    def write() -> None:
        while not end.is_set():
            primary.sql("UPDATE dosen SET nama = md5(nama) WHERE id %% 50 = %s", (int(time.time()) % 50,))

    writer = Thread(target=write)
    query = "SELECT count(*) || ' ' || sum(hashtext(d::text)) FROM dosen d"
    with shipping(primary, repository):
        writer.start()
        try:
            taken(primary, replica, repository, home / "state")
        finally:
            end.set()
            writer.join(60)
        expected = primary.value(query)
        taken_last = taken(primary, replica, repository, home / "state")  # waits for what it needs of the WAL
        assert taken_last.row.parent is not None
        shipped(repository, primary)
    access = {"local": StoreAccess(StorePolicy(name="local", url=f"file://{home}/local"), TolerancePolicy())}
    first = PlanRequest("frk", RecoveryTarget(TargetKind.LATEST), snapshot=taken_last.row.parent)
    done = restore(RestoreJob(repository, access, first, base / "pulih-data", find_binaries, start=True, owner=OWNER))
    assert done.started is not None
    where = ["-h", done.started.socket_directory, "-p", done.started.port, "-U", "postgres"]
    try:
        psql = primary.binaries.program("psql")
        assert run_as_owner([psql, "-XAtq", *where, "-d", "postgres", "-c", query]).strip() == expected
        run_as_owner([psql, "-Xq", *where, "-d", "postgres", "-c", "CREATE EXTENSION amcheck"])
        run_as_owner([primary.binaries.program("pg_amcheck"), "--heapallindexed", *where, "-d", "postgres"])
    finally:
        run_as_owner([primary.binaries.program("pg_ctl"), "stop", "-m", "immediate", "-D", done.data_directory])
    assert not (done.data_directory / "standby.signal").exists()


def shipped(repository: Repository, primary: TestCluster) -> None:
    """Wait until a piece holds the primary's end."""
    end, deadline = Lsn.parse(primary.lsn()), time.monotonic() + 60
    store = repository.stores["local"]
    while not any(
        isinstance(place, PieceName) and place.end >= end
        for place in (parse_name(info.name) for info in store.list(pieces_prefix(primary.system_id)))
    ):
        assert time.monotonic() < deadline, "the WAL is not shipped"
        time.sleep(0.05)


def test_snapshots_of_both_refer_to_each_other(
    primary: TestCluster, replica: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Blocks of the primary's are referred to by the replica's and the other way round; the stamps of one directory
    stand for nothing of the other.
    """
    state = tmp_path / "state"
    local = BesideServer(primary.directory, settled_s=0.0)
    results = []
    with shipping(primary, repository):
        for number, source in enumerate(("primary", "replica", "primary")):
            primary.sql("UPDATE dosen SET nama = 'diganti' WHERE id = %s", (77 + number,))
            caught_up(primary, replica)
            if source == "replica":
                results.append(taken(primary, replica, repository, state))
            else:
                job = replace(take_job(primary, repository, state), local=local)
                results.append(take(job, silent, Event()))
            assert bool(stamp(state)) == (source == "primary")
    assert results[1].row.parent == results[0].row.snapshot.label
    assert results[2].row.parent == results[1].row.snapshot.label
    for number, result in enumerate(results):
        verify_tree(repository, stores["offsite"], result, tmp_path / f"tree-{number}")
        if number:
            assert result.row.added_bytes < results[0].row.added_bytes / 5


def stamp(state: Path) -> bytes:
    """What this host remembers of how a file looked."""
    index = ParentIndex.open(state / "snapshot/parent.sqlite")
    assert index is not None
    file = index.file("PG_VERSION")
    index.close()
    assert file is not None
    return file.stamp


def test_one_that_can_not_be_used_is_not_read(
    primary: TestCluster, replica: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """Away, behind, or of WAL without full pages: the snapshot comes from the primary, and says why; exit code 0."""
    with shipping(primary, repository):
        away = from_primary(job_of(primary, free_port(), repository, tmp_path / "state"), repository)
        assert away.startswith("connecting to 127.0.0.1:")
        replica.sql("SELECT pg_wal_replay_pause()")
        try:
            primary.write_wal(20_000)
            late = job_of(primary, replica.port, repository, tmp_path / "state", lag_wait_s=0.0)
            assert "bytes behind, more than 1,048,576" in from_primary(late, repository)
        finally:
            replica.sql("SELECT pg_wal_replay_resume()")
        primary.sql("ALTER SYSTEM SET full_page_writes = off")
        primary.reload()
        try:
            primary.sql("CHECKPOINT")
            caught_up(primary, replica)
            torn = job_of(primary, replica.port, repository, tmp_path / "state")
            assert "full_page_writes" in from_primary(torn, repository)
        finally:
            primary.sql("ALTER SYSTEM RESET full_page_writes")
            primary.reload()
            primary.sql("CHECKPOINT")


def test_one_that_is_a_little_behind_is_waited_for(
    primary: TestCluster, replica: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """It is read as soon as it has come near enough."""
    replica.sql("SELECT pg_wal_replay_pause()")
    resumed = Timer(0.7, replica.sql, ("SELECT pg_wal_replay_resume()",))
    with shipping(primary, repository):
        primary.write_wal(20_000)
        primary.sql("CHECKPOINT")
        resumed.start()
        result = take(job_of(primary, replica.port, repository, tmp_path / "state"), silent, Event())
    resumed.join()
    assert result.findings == ()


def test_wal_that_no_store_has_is_not_needed(
    primary: TestCluster, replica: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Where the standby's last restartpoint lies before a gap, its backup would never be complete."""
    primary.sql("CHECKPOINT")
    caught_up(primary, replica)
    replica.sql("CHECKPOINT")
    redo = Lsn.parse(replica.value("SELECT redo_lsn::text FROM pg_control_checkpoint()"))
    with shipping(primary, repository):
        primary.write_wal(2_000)
        shipped(repository, primary)
        store = stores["offsite"]
        for info in list(store.list(pieces_prefix(primary.system_id))):
            place = parse_name(info.name)
            if isinstance(place, PieceName) and place.start <= redo < place.end:
                store.delete(info.name)
        primary.write_wal(2_000)
        shipped(repository, primary)
        reason = from_primary(job_of(primary, replica.port, repository, tmp_path / "state"), repository)
    assert f"the backup of replica r1 begins at {redo}, and store offsite lacks WAL after" in reason


def test_which_server_follows(base: Path, primary: TestCluster, replica: TestCluster) -> None:
    """A primary, another system's standby, and a clone with other WAL are told from one that follows."""
    ours = server(primary.port)
    caught_up(primary, replica)
    assert confirm_following("r1", server(replica.port), ours, _LAG).timeline == 1
    with pytest.raises(NotFollowing, match="is no standby: it was promoted"):
        confirm_following("r1", ours, ours, _LAG)
    with make_cluster(base, wal_segsize_mb=1) as other:
        _check_bytes(primary, replica, other)
        other.stop()
        (other.directory / "standby.signal").touch()
        own(other.directory / "standby.signal")
        other.start()
        with pytest.raises(NotFollowing, match=f"is of system {other.system_id}"):
            confirm_following("r1", server(other.port), ours, _LAG)


def _check_bytes(primary: TestCluster, replica: TestCluster, other: TestCluster) -> None:
    """The standby's last WAL is the primary's; another server's at the same place is not."""
    with server(replica.port).connect() as one, server(primary.port).connect() as two:
        end = Lsn.parse(replica.value("SELECT pg_last_wal_replay_lsn()::text"))
        assert same_wal(one, two, 1, end)
    end = Lsn.parse(primary.lsn())
    with other.session() as session:
        while Lsn.parse(other.lsn()) < end:
            session.execute("SELECT pg_logical_emit_message(false, 'uji', repeat('x', 1000))")
            session.execute("SELECT pg_switch_wal()")
    with server(other.port).connect() as one, server(primary.port).connect() as two:
        assert not same_wal(one, two, 1, end)  # zeros at its end in both, where the primary has switched segments


def test_promoted_while_it_is_read(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """The attempt fails and names the replica; nothing is left; the next one comes from the primary."""
    with primary.standby() as standby, shipping(primary, repository):
        caught_up(primary, standby)

        def step(name: str) -> None:
            if name == "backup":
                standby.promote()

        job = job_of(primary, standby.port, repository, tmp_path / "state", steps=step)
        with pytest.raises(SourceRefused, match=r"replica r1: .*promoted") as failure:
            take(job, silent, Event())
        assert failure.value.hint == (
            "Take the snapshot again: it comes from the primary where the replica can not be read."
        )
        again = replace(job, steps=lambda _: None)
        assert "is no standby" in from_primary(again, repository)
