"""Drills: real restores into scratch, of clusters that are well and of others, and nothing of them stays."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from replicator.core.moment import to_microseconds
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import BinariesMissing, CannotOpen, Conflict, HostLacks, Interrupted, SourceRefused
from replicator.policy import ProbePolicy
from replicator.postgres.binaries import Binaries
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Secrets, open_repository
from replicator.restore.job import RestoreJob
from replicator.restore.neighbours import check_tablespaces
from replicator.restore.plan import PlanRequest
from replicator.restore.run import restore
from replicator.verify.drill import DrillLevel, choose
from replicator.verify.drill_scratch import clean, prepare, run_directory
from replicator.verify.probes import ask, judge
from tests.clusters import OWNER, TestCluster, cluster_base, have_binaries, make_cluster, own
from tests.verify.drills import AWKWARD, SAFE, Ground, codes, ground, processes_below, run

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
LATEST = RecoveryTarget(TargetKind.LATEST)
#: Between two commits whose times a target tells apart.
_MOMENT_S = 0.02


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory for clusters."""
    with cluster_base() as found:
        yield found


@pytest.fixture(scope="module")
def well(base: Path) -> Iterator[Ground]:
    """A cluster with a tablespace, libraries that it preloads, and all that is awkward; two snapshots, and marks."""
    conf = {"shared_preload_libraries": "auto_explain", "session_preload_libraries": "auto_explain"}
    with make_cluster(base, wal_segsize_mb=1, conf=conf) as cluster, ground(base, cluster, _fill) as found:
        found.running.stop()  # a drawn moment lies in what the stores hold: that must not grow meanwhile
        yield found


MARKS: dict[str, Any] = {}


def _fill(found: Ground) -> None:
    cluster = found.cluster
    place = found.base / "ruang"
    place.mkdir()
    own(place)
    for statement in AWKWARD:
        cluster.sql(statement)
    cluster.sql(f"CREATE TABLESPACE ruang LOCATION '{place}'")
    cluster.sql("CREATE TABLE di_ruang TABLESPACE ruang AS SELECT g FROM generate_series(1, 10) g")
    cluster.sql("CREATE DATABASE frk")
    cluster.sql("CREATE TABLE waktu (saat timestamptz)")
    cluster.sql("ALTER DATABASE frk SET session_preload_libraries = 'tidak_ada'")
    cluster.sql("ALTER DATABASE postgres SET zero_damaged_pages = on")
    cluster.sql("ALTER SYSTEM SET ignore_checksum_failure = on")
    cluster.sql("CREATE FUNCTION tolak() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''dijalankan''; END'")
    cluster.sql(
        "CREATE EVENT TRIGGER penjaga ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION tolak()"
    )
    cluster.sql("ALTER EVENT TRIGGER penjaga ENABLE ALWAYS")
    found.snapshot()
    cluster.sql("INSERT INTO waktu VALUES (clock_timestamp())")
    MARKS["lsn"] = Lsn.parse(cluster.value("SELECT pg_current_wal_insert_lsn()::text"))
    time.sleep(_MOMENT_S)
    MARKS["time"] = cluster.value("SELECT clock_timestamp()").astimezone(UTC)
    time.sleep(_MOMENT_S)
    cluster.sql("INSERT INTO waktu VALUES (clock_timestamp())")
    found.snapshot()
    cluster.sql("INSERT INTO waktu VALUES (clock_timestamp())")
    cluster.sql("CREATE ROLE raja SUPERUSER LOGIN")
    cluster.sql("CREATE ROLE bayangan SUPERUSER")
    found.running.wait_durable(cluster.lsn())


def probe(sql: str, database: str = "postgres", **judged: object) -> ProbePolicy:
    """One of the policy's questions."""
    return ProbePolicy.model_validate({"database": database, "sql": sql, **judged})


def test_a_drill_to_the_latest_moment_restores_everything_and_leaves_nothing(well: Ground) -> None:
    """Settings are safe, probes are asked, every table of every database is read, phases are timed; nothing stays."""
    probes = [probe(f"SELECT current_setting('{name}')", equals=value) for name, value in SAFE.items()]
    probes += [
        probe("SELECT count(*) FROM waktu", equals=3),
        probe("SELECT count(*) FROM kegiatan", at_least=20000),
        probe("SELECT max(saat) FROM waktu", newer_than="1h"),
        probe("SELECT count(*) FROM di_ruang", equals=10),
        probe("SELECT convert_from(lo_get(4711), 'UTF8')", equals="bukti dosen"),
    ]
    result = run(DrillLevel(LATEST), well.job(verify={"probes": tuple(probes)}))
    assert result.ok, result.findings
    assert set(result.facts["phases"]) == {
        "plan", "fetch", "sync", "start", "replay", "probes", "tables", "indexes", "pages", "remove",
    }  # fmt: skip
    assert result.facts["databases"] == ["frk", "postgres", "template1"]
    assert result.facts["checksums"] is True
    assert result.facts["rows"] > 20000
    assert list(result.proven) == [result.facts["store"]]
    assert (well.scratch(), well.processes()) == ([], [])


@pytest.mark.parametrize("kind", ["lsn", "time"])
def test_a_drill_reaches_the_moment_asked_for_and_no_later(well: Ground, kind: str) -> None:
    """Exactly what was committed until then is there; one store alone is enough; failing probes are named."""
    value = {kind: MARKS[kind]}
    target = RecoveryTarget(TargetKind(kind), inclusive=kind == "time", **value)
    probes = (
        probe("SELECT count(*) FROM waktu", equals=1),
        probe("SELECT count(*) FROM waktu", equals=2),
        probe("SELECT max(saat) FROM waktu", newer_than="1m"),
        probe("SELECT 1 FROM tidak_ada"),
    )
    result = run(DrillLevel(target), well.job(chosen=("offsite",), verify={"probes": probes}))
    assert codes(result.findings) == ["probe_failed", "probe_failed"], result.findings
    assert "1 is not" in result.findings[0].text
    assert "tidak_ada" in result.findings[1].text
    assert (result.facts["store"], result.proven) == ("offsite", {})
    assert result.facts["snapshot"] == well.labels[0]


def test_a_drawn_drill_is_drawn_again_by_its_seed(well: Ground) -> None:
    """The same seed means the same store and target, others mean others, and what is drawn is reached."""
    drawn = [choose(well.job(seed=seed), None) for seed in (*range(12), *range(12))]
    assert [(one.view.catalog.store, one.target) for one in drawn[:12]] == [
        (one.view.catalog.store, one.target) for one in drawn[12:]
    ]
    assert {one.view.catalog.store for one in drawn} == {"local", "offsite"}
    assert {one.target.kind for one in drawn} >= {TargetKind.LATEST, TargetKind.LSN}
    seed = next(one.seed for one in drawn if one.target.kind is TargetKind.LSN)
    result = run(DrillLevel(), well.job(seed=seed))
    assert result.ok, result.findings
    assert result.facts["seed"] == seed


def test_a_probe_that_only_an_earlier_moment_fails_is_a_remark(well: Ground) -> None:
    """What a drawn moment does not have yet is no alarm, if the latest has it."""
    kinds = ((seed, choose(well.job(seed=seed), None)) for seed in range(100))
    seed = next(seed for seed, one in kinds if one.target.lsn is not None and one.target.lsn < MARKS["lsn"])
    probes = (probe("SELECT count(*) FROM waktu", at_least=3), probe("SELECT count(*) FROM kegiatan"))
    result = run(DrillLevel(), well.job(seed=seed, verify={"probes": probes}))
    assert (result.ok, [found.code for found in result.findings]) == (True, ["probe_failed"]), result.findings
    assert (result.facts["target"], result.facts["drawn"][:3]) == ("latest", "lsn")


def test_libraries_are_preloaded_where_recovery_needs_them(well: Ground) -> None:
    """A server that does not start without its source's libraries is given them, and the record says so."""
    real = well.cluster.binaries
    place = well.base / "butuh-pustaka"
    place.mkdir()
    for program in real.directory.iterdir():
        (place / program.name).symlink_to(program)
    (place / "pg_ctl").unlink()
    (place / "pg_ctl").write_text(
        f"""#!/bin/sh
case "$*" in *"--shared_preload_libraries= "*) exit 1;; esac
exec {real.program("pg_ctl")} "$@"
"""
    )
    (place / "pg_ctl").chmod(0o755)
    result = run(DrillLevel(LATEST), well.job(binaries=lambda _: Binaries(place, real.version)))
    assert result.ok, result.findings
    assert result.facts["preloaded"] == "auto_explain"
    assert well.scratch() == []


def test_a_cluster_that_does_not_start_is_a_finding_with_its_log(ill: Ground) -> None:
    """What the server said last is told, as a failed drill and not as an error of the host."""
    real = ill.cluster.binaries
    place = ill.base / "tidak-mau"
    place.mkdir()
    for program in real.directory.iterdir():
        (place / program.name).symlink_to(program)
    (place / "pg_ctl").unlink()
    (place / "pg_ctl").write_text("#!/bin/sh\nexit 1\n")
    (place / "pg_ctl").chmod(0o755)
    result = run(DrillLevel(LATEST), ill.job(chosen=("local",), binaries=lambda _: Binaries(place, real.version)))
    assert codes(result.findings) == ["recovery_failed"], result.findings
    assert "did not start" in result.findings[0].text
    assert ill.scratch() == []


def test_a_tablespace_of_the_source_is_never_written(base: Path) -> None:
    """One that was made after the snapshot would be made by the WAL where the source has it: the drill fails and names
    it, a restore beside the source is refused unless it ends before, and the source's rows are safe. One that was
    dropped since is no trouble.
    """
    places = {name: base / f"ruang-{name}" for name in ("lama", "baru")}
    for place in places.values():
        place.mkdir()
        own(place)

    spaces: list[int] = []

    def fill(found: Ground) -> None:
        found.cluster.sql(f"CREATE TABLESPACE lama LOCATION '{places['lama']}'")
        spaces.append(found.cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'lama'"))
        found.snapshot()
        found.cluster.sql("DROP TABLESPACE lama")
        found.running.wait_durable(found.cluster.lsn())

    with make_cluster(base, wal_segsize_mb=1) as cluster, ground(base, cluster, fill) as found:
        result = run(DrillLevel(LATEST), found.job())
        assert result.ok, result.findings
        before = datetime.now(UTC) - timedelta(seconds=1)  # a link's time is read from a clock of some ms
        cluster.sql(f"CREATE TABLESPACE baru LOCATION '{places['baru']}'")
        cluster.sql("CREATE TABLE di_baru TABLESPACE baru AS SELECT g AS id FROM generate_series(1, 1000) g")
        cluster.sql("CHECKPOINT")
        found.running.wait_durable(cluster.lsn())
        result = run(DrillLevel(LATEST), found.job())
        assert codes(result.findings) == ["recovery_failed"], result.findings
        assert str(places["baru"]) in result.findings[0].text
        assert found.scratch() == []
        job = RestoreJob(
            found.repository, found.access(), PlanRequest("frk", LATEST), base / "beside", lambda _: cluster.binaries,
            tablespaces={oid: base / f"beside-{oid}" for oid in spaces}, owner=OWNER,
        )  # fmt: skip
        with pytest.raises(Conflict, match=str(places["baru"])):
            restore(job)
        assert not job.into.exists()
        restore(replace(job, request=PlanRequest("frk", RecoveryTarget(TargetKind.IMMEDIATE))))
        check_tablespaces(cluster.system_id, spaces, to_microseconds(before))
        found.snapshot()
        result = run(DrillLevel(LATEST), found.job())
        assert result.ok, result.findings
        cluster.restart()
        assert cluster.value("SELECT count(*) FROM di_baru") == 1000


def test_a_server_that_hangs_is_a_finding_and_is_ended(well: Ground) -> None:
    """With its processes stopped the drill ends by its patience, says so, and all is gone."""
    ended: list[bool] = []

    def stop_all() -> None:
        until = time.monotonic() + 60
        while not ended and time.monotonic() < until:
            if any((well.base / "scratch").glob("drill-*/data/backup_label.old")):
                for line in well.processes():
                    with suppress(ProcessLookupError):
                        os.kill(int(line.split(":")[0]), signal.SIGSTOP)
            time.sleep(0.01)

    killer = Thread(target=stop_all)
    killer.start()
    try:
        result = run(DrillLevel(LATEST, patience_s=3), well.job())
    finally:
        ended.append(True)
        killer.join()
    assert codes(result.findings) == ["drill_hangs"], result.findings
    assert (well.scratch(), well.processes(), result.proven) == ([], [], {})


def test_out_of_time_is_a_remark_and_no_proof(well: Ground) -> None:
    """The verb's own limit proves nothing and finds nothing wrong."""
    result = run(DrillLevel(LATEST), well.job(), seconds=0.5)
    assert (result.ok, result.proven, [found.code for found in result.findings]) == (True, {}, ["not_all_verified"])
    assert well.scratch() == []


def test_what_the_end_of_the_time_cuts_is_no_finding(well: Ground) -> None:
    """A question that the verb's own limit ends says nothing of the repository: a remark, and no alarm."""
    slow = probe("SELECT count(pg_sleep(60))", at_least=1)
    result = run(DrillLevel(LATEST), well.job(verify={"probes": (slow,)}), seconds=6)
    assert (codes(result.findings), result.ok, result.proven) == ([], True, {}), result.findings
    assert "not_all_verified" in [found.code for found in result.findings]
    assert (well.scratch(), well.processes()) == ([], [])


def test_an_interrupted_drill_is_gone_at_once(well: Ground) -> None:
    """The operator's Ctrl-C ends it, server and all."""
    job = well.job()

    def interrupt() -> None:
        until = time.monotonic() + 60
        while not any((well.base / "scratch").glob("drill-*/data/postmaster.pid")) and time.monotonic() < until:
            time.sleep(0.01)
        job.stop.set()

    thread = Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        run(DrillLevel(LATEST), job)
    thread.join()
    assert (well.scratch(), well.processes()) == ([], [])


def test_what_this_host_lacks_is_said_before_anything_is_fetched(well: Ground, tmp_path: Path) -> None:
    """No programs of that version, no key, no such user, no room, a path too long for a socket: each its own error."""

    def none(major: int) -> Binaries:
        raise BinariesMissing(f"no PostgreSQL {major} programs on this host", hint="Install it.")

    with pytest.raises(BinariesMissing):
        run(DrillLevel(LATEST), well.job(binaries=none))
    closed = open_repository("frk", well.repository.stores, Secrets())
    with pytest.raises(CannotOpen):
        run(DrillLevel(LATEST), well.job(repository=closed))
    with pytest.raises(HostLacks, match="too long"):
        run(DrillLevel(LATEST), well.job(verify={"scratch": Path(f"/tmp/{'panjang' * 12}")}))
    Path(f"/tmp/{'panjang' * 12}").rmdir()
    if OWNER is not None:
        with pytest.raises(HostLacks, match="no user"):
            run(DrillLevel(LATEST), well.job(owner="tidak-ada"))
    assert well.scratch() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_too_little_disk_is_said_before_anything_is_written(well: Ground) -> None:
    """A scratch that can't hold the cluster is refused with how much is needed."""
    small = well.base / "kecil"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0755", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this host lets nobody mount a disk")
    try:
        with pytest.raises(HostLacks, match="MB free, the restore needs"):
            run(DrillLevel(LATEST), well.job(verify={"scratch": small}))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.fixture(scope="module")
def ill(base: Path) -> Iterator[Ground]:
    """A cluster with a torn page, a corrupt index, a missing file, an extension that nobody has; no role postgres."""
    with make_cluster(base, wal_segsize_mb=1) as cluster, ground(base, cluster, _break) as found:
        yield found


def _break(found: Ground) -> None:
    cluster = found.cluster
    for name in ("robek", "hilang", "utuh"):
        cluster.sql(f"CREATE TABLE {name} AS SELECT g AS id, md5(g::text) AS isi FROM generate_series(1, 2000) g")
    cluster.sql("CREATE FUNCTION arah(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
    cluster.sql("CREATE INDEX urut ON utuh (arah(id))")
    cluster.sql("CREATE OR REPLACE FUNCTION arah(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'")
    cluster.sql("CREATE DATABASE arsip ALLOW_CONNECTIONS false")
    with cluster.session() as session:
        session.execute("SET allow_system_table_mods = on")
        session.execute(
            "INSERT INTO pg_extension SELECT 99999, 'punah', 10, 2200, true, '1.0', NULL, NULL"  # as a dump would
        )
    paths = {name: cluster.value(f"SELECT pg_relation_filepath('{name}')") for name in ("robek", "hilang")}
    cluster.sql("CHECKPOINT")
    cluster.stop()
    with (cluster.directory / paths["robek"]).open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"rusak")
    (cluster.directory / paths["hilang"]).unlink()
    cluster.start()
    found.snapshot()
    cluster.sql("CREATE ROLE raja SUPERUSER LOGIN")
    with cluster.session() as session:
        session.execute("ALTER ROLE postgres NOLOGIN")
        lsn = session.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert lsn is not None
    found.running.wait_durable(lsn[0])


def test_every_damage_of_the_source_is_found_and_named(ill: Ground) -> None:
    """Torn page, missing file, corrupt index and missing extension are four findings of one drill; a superuser of
    another name is found.
    """
    result = run(DrillLevel(LATEST), ill.job())
    texts = {
        found.code: [each.text for each in result.findings if each.code == found.code] for found in result.findings
    }
    remarks = texts.pop("not_checked", None)
    assert remarks == ["database arsip was not read: it allows no connections"]
    assert sorted(texts) == ["extension_missing", "index_corrupt", "page_corrupt", "table_unreadable"], result.findings
    assert [name in text for name, text in zip(("hilang", "robek"), texts["table_unreadable"], strict=True)] == [
        True
    ] * 2
    assert "urut" in texts["index_corrupt"][0]
    assert "punah" in texts["extension_missing"][0]
    assert all(found.hint for found in result.findings)
    assert (result.ok, result.proven, ill.scratch()) == (False, {}, [])


def test_a_damaged_pack_fails_the_drill_and_is_named(ill: Ground) -> None:
    """The restore stops at the bytes that are not what was sealed; the drill says which and cleans up."""
    packs = sorted((ill.base / "stores").glob("offsite/frk/*/packs/*/*-*"))
    pack = next(path for path in packs if not path.name.startswith("begin"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 3] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    result = run(DrillLevel(LATEST), ill.job(chosen=("offsite",)))
    assert codes(result.findings) == ["integrity_error"], result.findings
    assert "offsite" in (result.findings[0].affects or "")
    assert ill.scratch() == []


def test_leftovers_of_dead_runs_are_removed_and_living_ones_are_not(base: Path) -> None:
    """A lock that nobody holds means a dead run: its processes are stopped and its directory goes."""
    scratch = prepare(base / "sisa", OWNER)
    dead, alive, other = (scratch / name for name in ("drill-1-00000a", "drill-2-00000b", "bukan-kami"))
    for path in (dead / "data", alive / "data", other):
        path.mkdir(parents=True)
    for path in (dead, alive):
        path.with_name(f"{path.name}.lock").touch()
    # A background job of a shell ignores it, and so do its children.
    inherited = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    left = subprocess.Popen(["sleep", "60"], cwd=dead / "data")
    signal.signal(signal.SIGQUIT, inherited)
    with alive.with_name(f"{alive.name}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clean(scratch) == ("drill-1-00000a",)
    assert left.wait(60) == -signal.SIGQUIT
    assert sorted(path.name for path in scratch.iterdir()) == ["bukan-kami", "drill-2-00000b", "drill-2-00000b.lock"]


_KILLED = """
import os, subprocess, sys, time
from pathlib import Path
from replicator.verify.drill_scratch import run_directory
with run_directory(Path(sys.argv[1]), None, {"a": "b"}) as run:
    run.data.mkdir()
    subprocess.Popen(["sleep", "60"], cwd=run.data)
    subprocess.Popen(["sh", "-c", "trap '' QUIT; while :; do sleep 0.1; done"], cwd=run.data)
    time.sleep(0.2)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_neither_processes_nor_files(base: Path) -> None:
    """The watcher outlives a SIGKILL: it stops what ran, by force where it must, and removes the directory."""
    scratch = prepare(base / "dibunuh", None)
    done = subprocess.run([sys.executable, "-c", _KILLED, str(scratch)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 120
    while (processes_below(scratch) or any(scratch.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_below(scratch) == []
    assert list(scratch.iterdir()) == []


def test_a_run_directory_is_private_and_gone_after_an_error(base: Path) -> None:
    """0700, the owner's, and removed whatever happens inside."""
    scratch = prepare(base / "pribadi", OWNER)
    assert scratch.stat().st_mode & 0o777 == 0o700

    def fail() -> None:
        with run_directory(scratch, OWNER, {"hba.conf": "x"}) as found:
            assert found.path.stat().st_mode & 0o777 == 0o700
            assert found.path.stat().st_uid == scratch.stat().st_uid
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(scratch.iterdir()) == []


NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("judged", "rows", "well"),
    [
        ({"at_least": 2}, [(2,)], True),
        ({"at_least": 2}, [(1,)], False),
        ({}, [(0,)], False),
        ({}, [("7",)], False),
        ({}, [(True,)], False),
        ({}, [], False),
        ({"equals": 0}, [(0,)], True),
        ({"equals": 0}, [(None,)], False),
        ({"equals": "t"}, [("t",)], True),
        ({"equals": "t"}, [("f",)], False),
        ({"newer_than": "1h"}, [(NOW - timedelta(minutes=59),)], True),
        ({"newer_than": "1h"}, [(NOW - timedelta(minutes=61),)], False),
        ({"newer_than": "1h"}, [(NOW.replace(tzinfo=None),)], False),
        ({"newer_than": "1h"}, [(None,)], False),
    ],
)
def test_a_probe_judges_its_first_value(judged: dict[str, Any], rows: list[tuple[object, ...]], well: bool) -> None:
    """Numbers, texts and times; what is none of these does not pass, and nothing of a text is told."""
    answer = judge(probe("SELECT 1", **judged), rows, NOW)
    assert (answer is None) is well


def test_what_a_probe_stumbles_over_is_not_told() -> None:
    """A server's complaint about a value holds the value, and a record is readable by who can read a store."""

    def refuse(database: str) -> SqlConnection:
        raise SourceRefused('asking db1: invalid input syntax for type integer: "Budi"', sqlstate="22P02")

    found = ask((probe("SELECT nama::int FROM dosen", at_least=1),), refuse, datetime.now(UTC), "all")
    assert [("22P02" in each.text, "Budi" in each.text) for each in found] == [(True, False)]


def test_the_cluster_itself_was_never_touched(well: Ground) -> None:
    """Drills read stores: the source still has its one timeline."""
    cluster: TestCluster = well.cluster
    assert cluster.value("SELECT timeline_id FROM pg_control_checkpoint()") == 1
