"""Comparisons: two ways to one moment, row by row, against a second restore and against a replica that is held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.core.progress import silent
from replicator.errors import Conflict, SnapshotNotFound, SourceRefused
from replicator.policy import ReplicaPolicy
from replicator.postgres.query import SqlConnection
from replicator.postgres.tables import RowHash, Table, tables
from replicator.verify.compare import CompareLevel
from replicator.verify.compare_hold import standing
from replicator.verify.compare_rows import Comparison, Side
from replicator.verify.table_reader import PART_PAGES, TableReader, parts_of
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.verify.drills import AWKWARD, Ground, codes, ground, run

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory for clusters."""
    with cluster_base() as found:
        yield found


@pytest.fixture(scope="module")
def lived(base: Path) -> Iterator[Ground]:
    """A running cluster without page checksums and with two snapshots."""
    conf = {"wal_keep_size": "256MB", "max_prepared_transactions": "5"}
    with (
        make_cluster(base, wal_segsize_mb=1, checksums=False, conf=conf) as cluster,
        ground(base, cluster, _fill) as it,
    ):
        yield it


def _fill(found: Ground) -> None:
    cluster = found.cluster
    for statement in AWKWARD:
        cluster.sql(statement)
    cluster.sql("CREATE DATABASE frk")
    cluster.sql("CREATE TABLE rencana (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), sks int)", dbname="frk")
    cluster.sql("INSERT INTO rencana (sks) SELECT g FROM generate_series(1, 1000) g", dbname="frk")
    cluster.sql(f"ALTER ROLE {REPLICATION_USER} BYPASSRLS")
    found.snapshot()
    cluster.sql("UPDATE kegiatan SET isi = 'diubah' WHERE id % 7 = 0")
    cluster.sql("DELETE FROM kegiatan WHERE id % 11 = 0")
    cluster.sql("VACUUM kegiatan")
    cluster.sql("SELECT nextval('urutan')")
    found.snapshot()
    cluster.sql("INSERT INTO kegiatan VALUES (100001, 'terakhir')")
    found.running.wait_durable(cluster.lsn())


def grant(cluster: TestCluster) -> None:
    """What the hint says."""
    cluster.sql(
        "GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), pg_wal_replay_resume(), pg_is_wal_replay_paused(),"
        f" pg_get_wal_replay_pause_state() TO {REPLICATION_USER}"
    )
    cluster.sql(f"GRANT pg_read_all_data TO {REPLICATION_USER}")


@pytest.fixture(scope="module")
def standby(lived: Ground) -> Iterator[TestCluster]:
    """A standby of that cluster, and its rights."""
    grant(lived.cluster)
    with lived.cluster.standby() as found:
        yield found


def held_by(lived: Ground, standby: TestCluster, **changes: Any) -> Any:
    """A job whose policy names the standby."""
    policy = lived.policy
    secret = lived.base / "password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD)
    source = policy.source.model_copy(update={"password": _file(secret)})
    replica = ReplicaPolicy(name="dekat", data_directory=standby.directory, port=standby.port, follow="primary")
    job = lived.job(replicas=(replica,), **changes)
    object.__setattr__(job, "policy", job.policy.model_copy(update={"source": source}))
    return job


def _file(path: Path) -> Any:
    from replicator.policy import SecretRef

    return SecretRef(file=path)


def test_two_ways_to_the_same_moment_give_the_same_rows(lived: Ground) -> None:
    """An older snapshot with more WAL equals the newest: all tables and databases, large objects too; types without a
    hash are named; nothing stays in scratch.
    """
    result = run(CompareLevel(), lived.job())
    assert result.ok, result.findings
    assert [label in way for label, way in zip(reversed(lived.labels), result.facts["ways"], strict=True)] == [True] * 2
    assert "public.tanpa_hash" in result.facts["by_text"]
    assert result.facts["rows"] > 19000
    assert result.proven
    assert (lived.scratch(), lived.processes()) == ([], [])


def test_a_replica_is_held_compared_and_let_go(lived: Ground, standby: TestCluster) -> None:
    """The restore goes to the very position where the replica stands, and the replica goes on afterwards."""
    lived.cluster.sql("INSERT INTO kegiatan SELECT g, 'baru' FROM generate_series(200001, 201000) g")
    result = run(CompareLevel(), held_by(lived, standby))
    assert result.ok, result.findings
    assert result.facts["ways"][1] == "replica dekat"
    assert not standby.value("SELECT pg_is_wal_replay_paused()")
    lived.cluster.sql("INSERT INTO kegiatan VALUES (300001, 'sesudah')")
    _follow(lived.cluster, standby)
    assert standby.value("SELECT count(*) FROM kegiatan WHERE id = 300001") == 1


def test_a_row_that_differs_on_a_replica_is_named(lived: Ground, standby: TestCluster) -> None:
    """One byte of one value on the replica's disk: table, place and key are told, and the replica goes on."""
    place = standby.value("SELECT ctid::text FROM rencana WHERE sks = 500", dbname="frk")
    key = standby.value("SELECT id::text FROM rencana WHERE sks = 500", dbname="frk")
    path = standby.directory / standby.value("SELECT pg_relation_filepath('rencana')", dbname="frk")
    lived.cluster.sql("CHECKPOINT")
    standby.sql("CHECKPOINT")
    standby.stop()
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex(key.replace("-", "")) + (500).to_bytes(4, "little"))
    data[at + 16] ^= 1
    path.write_bytes(data)
    standby.start()
    _follow(lived.cluster, standby)
    result = run(CompareLevel(), held_by(lived, standby))
    assert codes(result.findings) == ["data_differs"], result.findings
    text = result.findings[0].text
    assert "public.rencana of database frk" in text
    assert f"first at {place}, (id) = ({key})" in text
    assert not standby.value("SELECT pg_is_wal_replay_paused()")
    data[at + 16] ^= 1
    standby.stop()
    path.write_bytes(data)
    standby.start()
    _follow(lived.cluster, standby)


def test_a_hold_that_takes_too_long_ends(lived: Ground, standby: TestCluster) -> None:
    """At its limit the comparison is given up, and the replica goes on."""
    result = run(CompareLevel(), held_by(lived, standby, verify={"hold_limit": 0.4}))
    assert not result.ok
    assert codes(result.findings) == ["drill_hangs"], result.findings
    assert not standby.value("SELECT pg_is_wal_replay_paused()")
    assert (lived.scratch(), lived.processes()) == ([], [])


def test_a_replica_that_somebody_paused_is_left_alone(lived: Ground, standby: TestCluster) -> None:
    """The reason is told, and it is still paused afterwards."""
    standby.sql("SELECT pg_wal_replay_pause()")
    try:
        replica, why = standing(held_by(lived, standby))
        assert (replica, type(why)) == (None, Conflict)
        assert standby.value("SELECT pg_is_wal_replay_paused()")
    finally:
        standby.sql("SELECT pg_wal_replay_resume()")


def test_without_the_right_to_hold_a_replica_another_way_is_gone(lived: Ground, standby: TestCluster) -> None:
    """The right that is missing is told with the SQL that gives it, as a remark: two restores are compared."""
    lived.cluster.sql(f"REVOKE EXECUTE ON FUNCTION pg_wal_replay_pause() FROM {REPLICATION_USER}")
    _follow(lived.cluster, standby)
    try:
        replica, why = standing(held_by(lived, standby))
        assert (replica, type(why)) == (None, SourceRefused)
        assert why is not None
        assert "GRANT EXECUTE" in why.hint
    finally:
        grant(lived.cluster)
        _follow(lived.cluster, standby)


def _follow(primary: TestCluster, standby: TestCluster) -> None:
    """Wait until the standby has replayed all."""
    lsn = primary.lsn()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (lsn,)):
            return
        time.sleep(0.02)
    raise AssertionError(f"the standby did not get as far as {lsn}")


_KILLED = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from threading import Event
from replicator.policy import ReplicaPolicy, load_cluster
from replicator.postgres.binaries import find_binaries
from replicator.tolerance import Deadline, SystemClock
from replicator.verify.compare_hold import Replica, held
policy = load_cluster(Path(sys.argv[1]), "frk")[1]
replica = ReplicaPolicy(name="dekat", data_directory=Path("/nowhere"), port=int(sys.argv[2]))
job = SimpleNamespace(clock=SystemClock(), stop=Event())
programs = find_binaries(int(sys.argv[3]), Path(sys.argv[4]))
with held(job, Replica(policy, replica), programs, Deadline(SystemClock(), 60)) as position:
    print(position, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_comparison_lets_the_replica_go(lived: Ground, standby: TestCluster) -> None:
    """The watcher outlives a SIGKILL and resumes the replay."""
    major = str(standby.binaries.major)
    command = [sys.executable, "-c", _KILLED, str(lived.base / "policies"), str(standby.port), major]
    command.append(str(standby.binaries.directory))
    environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGPASSFILE": str(lived.base / "pgpass")}
    (lived.base / "pgpass").write_text(f"127.0.0.1:{standby.port}:*:*:{PASSWORD}\n")
    (lived.base / "pgpass").chmod(0o600)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "/" in done.stdout
    until = time.monotonic() + 60
    while standby.value("SELECT pg_is_wal_replay_paused()") and time.monotonic() < until:
        time.sleep(0.05)
    assert not standby.value("SELECT pg_is_wal_replay_paused()")


def test_without_a_second_way_there_is_no_comparison(lived: Ground) -> None:
    """One snapshot in one store proves nothing by itself: said, with what to do."""
    found = lived.repository.only(("local",))
    manifests = sorted((lived.base / "stores/local/frk").glob("*/snapshots/*/*"))
    hidden = lived.base / "disembunyikan"
    manifests[0].rename(hidden)
    try:
        with pytest.raises(SnapshotNotFound, match="nothing to compare"):
            run(CompareLevel(), lived.job(repository=found, chosen=("local",)))
    finally:
        hidden.rename(manifests[0])


@pytest.fixture(scope="module")
def twins(lived: Ground) -> TestCluster:
    """Two databases that differ in one thing of each kind."""
    cluster = lived.cluster
    for name, order in (("satu", "+"), ("dua", "-")):
        cluster.sql(f"CREATE DATABASE {name}")
        for statement in (
            "CREATE TABLE sama (id int PRIMARY KEY, isi text)",
            "INSERT INTO sama SELECT g, 'x' FROM generate_series(1, 1000) g",
            "CREATE TABLE beda (nip text PRIMARY KEY, isi text)",
            "INSERT INTO beda SELECT g::text, 'x' FROM generate_series(1, 9000) g",
            "CREATE TABLE dokumen (id bigint PRIMARY KEY, isi json)",
            "INSERT INTO dokumen SELECT g, '[]' FROM generate_series(1, 9000) g",
            "CREATE SEQUENCE urutan",
            f"CREATE TABLE hanya_{name} ()",
            f"INSERT INTO sama SELECT 2000 + g, 'y' FROM generate_series(1, 2) g ORDER BY {order} g",
        ):
            cluster.sql(statement, dbname=name)
    for statement in (
        "UPDATE beda SET isi = 'rahasia' WHERE nip = '8000'",
        "UPDATE dokumen SET isi = '[ ]' WHERE id = 7000",
        "SELECT nextval('urutan')",
        "SELECT lo_from_bytea(7, 'bukti')",
    ):
        cluster.sql(statement, dbname="dua")
    return cluster


def _session(cluster: TestCluster, database: str) -> SqlConnection:
    session = SqlConnection(cluster.conninfo(dbname=database), None)
    session.execute("SET search_path = ''")
    return session


def test_every_kind_of_difference_is_named(twins: TestCluster) -> None:
    """Tables and sequences of one side alone, values, rows, large objects; the order of rows does not matter, and no
    key that may tell of a person is told.
    """
    sides = tuple(
        Side(name, lambda asked, name=name: _session(twins, name if asked == "satu" else asked))  # type: ignore[misc]
        for name in ("satu", "dua")
    )
    work = Comparison((sides[0], sides[1]), silent, "all")
    found = sorted({each.text for each in work.findings("satu") if "database satu" in each.text})
    of_both = {each.object for each in work.findings("satu") if "database satu" in each.text}
    catalogs = {name for name in of_both if name and name.startswith("pg_") and "largeobject" not in name}
    assert "pg_catalog.pg_class" in catalogs
    assert of_both - catalogs == {
        "public.hanya_satu", "public.hanya_dua", "public.urutan", "public.beda", "public.dokumen",
        "pg_catalog.pg_largeobject", "pg_catalog.pg_largeobject_metadata",
    }, found  # fmt: skip
    beda = next(text for text in found if "public.beda" in text)
    assert "first at (" in beda
    assert "8000" not in beda
    assert next(text for text in found if "public.dokumen" in text).endswith("(id) = (7000)")
    assert "public.dokumen" in work.by_text


def test_a_table_that_may_not_be_read_is_a_finding(twins: TestCluster) -> None:
    """Without the right to read, nothing is said to be equal."""

    def poor(database: str) -> SqlConnection:
        session = _session(twins, database)
        session.execute("SET ROLE pg_monitor")
        return session

    work = Comparison((Side("satu", lambda name: _session(twins, name)), Side("miskin", poor)), silent, "all")
    found = [each for each in work.findings("satu") if each.object == "public.sama"]
    assert [each.code for each in found] == ["table_unreadable", "table_unreadable"]


def test_parts_cover_every_page_once() -> None:
    """Ranges join without a hole, the last is open, and the larger of two tables decides."""
    small, large = (Table(1, "t", "r", pages, pages * 8192) for pages in (1, 3 * PART_PAGES + 1))
    parts = list(parts_of((small, large), ranges=True))
    assert [(part.first, part.end) for part in parts] == [
        (0, PART_PAGES), (PART_PAGES, 2 * PART_PAGES), (2 * PART_PAGES, 3 * PART_PAGES), (3 * PART_PAGES, None),
    ]  # fmt: skip
    assert [(part.first, part.end) for part in parts_of((large,), ranges=False)] == [(0, None)]
    assert [(part.first, part.end) for part in parts_of((Table(1, "t", "r", 0, 0),), ranges=True)] == [(0, None)]


def test_a_reader_hashes_every_table_the_same_way_each_time(lived: Ground) -> None:
    """Two readings are equal, count every row, and tell which tables hold values without a hash."""
    with _session(lived.cluster, "postgres") as session:
        found = tables(session, catalogs=True)
    seen = []
    for workers in (1, 3):
        with TableReader([lambda: _session(lived.cluster, "postgres")], workers) as reader:
            seen.append(
                {each.part.tables[0].name: (each.as_text, each.sides) for each in reader.read((t,) for t in found)}
            )
    stable = {name for name in seen[0] if name.startswith("public.")}
    assert {name: seen[0][name] for name in stable} == {name: seen[1][name] for name in stable}
    assert seen[0]["public.tanpa_hash"][0] is True
    answer = seen[0]["public.tanpa_kolom"][1][0]
    assert isinstance(answer, RowHash)
    assert answer.rows == 1


#: What somebody who may only create objects can leave behind: code that a careless reader runs with its own rights.
TRAPS = (
    "CREATE TYPE pasangan AS (isi json)",
    """CREATE FUNCTION jebakan(pasangan) RETURNS text LANGUAGE plpgsql IMMUTABLE
       AS 'BEGIN RAISE EXCEPTION ''run as %'', current_user; END'""",
    "CREATE CAST (pasangan AS text) WITH FUNCTION jebakan(pasangan)",
    "CREATE TABLE umpan (id int, nilai pasangan)",
    """INSERT INTO umpan VALUES (1, ROW('{"a": 1}'))""",
    """CREATE FUNCTION jebakan(json) RETURNS bool LANGUAGE plpgsql IMMUTABLE
       AS 'BEGIN IF $1 IS NULL THEN RAISE EXCEPTION ''run''; END IF; RETURN true; END'""",
    "CREATE DOMAIN wajib AS json NOT NULL CHECK (jebakan(VALUE))",
    "CREATE TABLE berdomain (id int, nilai wajib)",
    "INSERT INTO berdomain VALUES (1, '[1]')",
)


@pytest.fixture(scope="module")
def trapped(lived: Ground) -> TestCluster:
    """Two databases with traps, and values without a hash that differ in one thing each."""
    for name in ("jerat", "jerat_lain"):
        lived.cluster.sql(f"CREATE DATABASE {name}")
        for statement in (
            *TRAPS,
            "CREATE TABLE kosong (isi json, catatan xml)",
            "CREATE TABLE uang (id int, sks money, saat json)",
            "INSERT INTO uang VALUES (1, 12.34::numeric::money, '[]')",
        ):
            lived.cluster.sql(statement, dbname=name)
    lived.cluster.sql("INSERT INTO kosong VALUES ('null', NULL)", dbname="jerat")
    lived.cluster.sql("INSERT INTO kosong VALUES ('null', '')", dbname="jerat_lain")
    lived.cluster.sql("ALTER DATABASE jerat_lain SET lc_monetary = 'C.UTF-8'")
    lived.cluster.sql("ALTER DATABASE jerat_lain SET bytea_output = 'escape'")
    return lived.cluster


def test_reading_runs_no_code_of_a_tables_owner(trapped: TestCluster) -> None:
    """Casts and domains are their owners' to write: rows are hashed without either, and every table is read."""
    with _session(trapped, "jerat") as session:
        found = [table for table in tables(session, catalogs=False) if table.name.startswith("public.")]
    with TableReader([lambda: _session(trapped, "jerat")], 1) as reader:
        answers = {seen.part.tables[0].name: seen.sides[0] for seen in reader.read((table,) for table in found)}
    assert {name: isinstance(answer, RowHash) and answer.rows for name, answer in answers.items()} == {
        "public.umpan": 1, "public.berdomain": 1, "public.kosong": 1, "public.uang": 1,
    }, answers  # fmt: skip


def test_nothing_differs_by_a_sessions_settings_but_null_differs_from_empty(trapped: TestCluster) -> None:
    """Settings of a database or a role change how values look, not what they are; no value is not an empty one."""
    sides = tuple(
        Side(name, lambda asked, name=name: _session(trapped, name if asked == "jerat" else asked))  # type: ignore[misc]
        for name in ("jerat", "jerat_lain")
    )
    found = list(Comparison((sides[0], sides[1]), silent, "all").findings("jerat"))
    named = [each.object or "" for each in found if "of database jerat " in each.text]
    assert [name for name in named if not name.startswith("pg_catalog.")] == ["public.kosong"]
