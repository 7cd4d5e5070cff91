"""`check` against a real server and a directory store: each subject finds what is wrong and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest

from replicator.cli.check import patient
from replicator.core.finding import Finding
from replicator.doctor.examine import examine
from replicator.doctor.finding import Report
from replicator.doctor.host import check_directories, check_scratch
from replicator.doctor.settings import stands_in
from replicator.doctor.subject import Patient
from replicator.policy import ReplicaPolicy, VerifyPolicy
from replicator.postgres.binaries import find_binaries
from replicator.postgres.following import Server
from tests.clock import FakeClock
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster
from tests.composed import composed, json_of, replicator, write_policies

pytestmark = pytest.mark.server


@pytest.fixture
def policies(server: TestCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An initialised cluster whose policy names its root; the slot is dropped again. With the parameter
    "passphrase" one opens the repository, else an identity does, which is quicker to try.
    """
    slowly = getattr(request, "param", "") == "passphrase"
    found = write_policies(tmp_path, server.conninfo(REPLICATION_USER), password=PASSWORD, passphrase=slowly)
    root = json_of("init", "frk", "--policies", found)["root"]
    path = found / "frk.toml"
    path.write_text(path.read_text().replace("[encryption]", f'[encryption]\nroot = "{root}"'))
    yield found
    server.drop_slots()


@pytest.fixture
def subject(policies: Path) -> Patient:
    """What the doctor looks at."""
    return patient(composed(policies))


@contextmanager
def settings(server: TestCluster, **values: str) -> Iterator[None]:
    """Settings that need no restart, reset afterwards."""
    for name, value in values.items():
        server.sql(f"ALTER SYSTEM SET {name} = '{value}'")
    server.reload()
    try:
        yield
    finally:
        for name in values:
            server.sql(f"ALTER SYSTEM RESET {name}")
        server.reload()


def wrong(report: Report) -> list[str]:
    """The codes of what is wrong."""
    return [finding.code for finding in report.findings if finding.affects is not None]


def remarks(report: Report) -> list[str]:
    """The codes of what is only worth knowing."""
    return [finding.code for finding in report.findings if finding.affects is None]


def test_all_is_well(subject: Patient) -> None:
    """An initialised cluster is well: remarks only, exit code 0."""
    report = examine(subject)
    assert (report.ok, report.exit_code, wrong(report)) == (True, 0, [])
    assert remarks(report) == ["max_slot_wal_keep_size", "slot_inactive"]


def test_a_data_directory_that_is_not_the_server_s(subject: Patient, tmp_path: Path) -> None:
    """Snapshots would come over the network: a finding (9) that says why."""
    source = subject.policy.source.model_copy(update={"data_directory": tmp_path})
    report = examine(replace(subject, policy=subject.policy.model_copy(update={"source": source})))
    assert (wrong(report), report.exit_code) == (["not_beside"], 9)


def test_a_replica_that_does_not_follow(subject: Patient) -> None:
    """Snapshots would come from the primary: a finding (5) that says why."""
    replica = ReplicaPolicy(name="r1", data_directory=Path("/r1"), follow="primary")
    snapshot = subject.policy.snapshot.model_copy(update={"read_from": "r1"})
    policy = subject.policy.model_copy(update={"snapshot": snapshot, "replicas": (replica,)})
    report = examine(replace(subject, policy=policy, replica=Server(subject.replication, subject.sql)))
    assert (wrong(report), report.exit_code) == (["not_following"], 5)


def test_json_and_text(policies: Path) -> None:
    """`check --json` has the documented members; the text ends with a verdict."""
    found = json_of("check", "frk", "--policies", policies)
    assert found["ok"] is True
    assert set(found["findings"][0]) == {"code", "object", "store", "affects", "text", "hint"}
    done = replicator("check", "frk", "--policies", policies)
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("frk: all is well")


def test_remote_apply_is_refused(server: TestCluster, subject: Patient) -> None:
    """remote_apply while we are a synchronous standby would hang every commit: refused; without it only a remark."""
    with settings(server, synchronous_standby_names="ANY 1 (other, replicator_frk)", synchronous_commit="local"):
        assert "synchronous_standby" in remarks(examine(subject))
    with settings(server, synchronous_standby_names="replicator_frk", synchronous_commit="remote_apply"):
        # Our own session only reads: nothing waits.
        report = examine(subject)
        assert wrong(report) == ["remote_apply"]
        assert report.exit_code == 5
    with settings(server, synchronous_standby_names="other", synchronous_commit="remote_apply"):
        assert wrong(examine(subject)) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", False),
        ("*", True),
        ("replicator_frk", True),
        ("Replicator_FRK, b", True),
        ('"replicator_frk"', True),
        ("FIRST 2 (a, replicator_frk)", True),
        ("any 1 (*)", True),
        ("2 (a, b)", False),
        ("replicator_frk2", False),
        ('"a"", replicator_frk"', False),
    ],
)
def test_synchronous_standby_names(setting: str, expected: bool) -> None:
    """The setting is read as PostgreSQL reads it."""
    assert stands_in("replicator_frk", setting) is expected


def test_role_without_replication(server: TestCluster, tmp_path: Path, policies: Path) -> None:
    """A role that may not replicate is named, with the statement that mends it."""
    server.sql("CREATE ROLE lemah LOGIN PASSWORD 'x'")
    try:
        hba = server.directory / "pg_hba.conf"
        before = hba.read_text()
        hba.write_text(before + "host all lemah 127.0.0.1/32 trust\n")
        server.reload()
        path = policies / "frk.toml"
        path.write_text(path.read_text().replace(f"user={REPLICATION_USER}", "user=lemah"))
        report = examine(patient(composed(policies)))
        assert wrong(report) == ["no_replication_privilege", "source_refused"]
        assert report.findings[1].hint == "Run on the primary: ALTER ROLE lemah REPLICATION;"
    finally:
        hba.write_text(before)
        server.reload()
        server.sql("DROP ROLE lemah")


def test_wrong_password(policies: Path, tmp_path: Path) -> None:
    """A refused password is the one finding about the source (5), and the stores are looked at all the same."""
    (tmp_path / "password").write_text("salah")
    report = examine(patient(composed(policies)))
    assert wrong(report) == ["source_refused"]
    assert report.exit_code == 5


def test_slot_is_gone(server: TestCluster, policies: Path, subject: Patient) -> None:
    """A slot that `init` made is made again; another one is a finding."""
    server.drop_slots("replicator_frk")
    assert "slot_missing" in remarks(examine(subject))
    report = examine(replace(subject, may_create_slot=lambda: False))
    assert wrong(report) == ["slot_missing"]


def test_store_is_gone_or_empty(policies: Path, tmp_path: Path) -> None:
    """A directory that is not mounted and one that holds no repository are told apart; both exit with 6."""
    shutil.rmtree(tmp_path / "local")
    gone = examine(patient(composed(policies)))
    assert (wrong(gone), gone.exit_code) == (["store_misconfigured"], 6)
    (tmp_path / "local").mkdir()
    empty = examine(patient(composed(policies)))
    assert (wrong(empty), empty.exit_code) == (["repository_absent"], 6)


@pytest.mark.parametrize("policies", ["passphrase"], indirect=True)
def test_keys(policies: Path, tmp_path: Path) -> None:
    """A wrong passphrase, another root and a missing writer key are keys errors (7); no secret at all is a remark."""
    (tmp_path / "passphrase").write_text("salah")
    report = examine(patient(composed(policies)))
    assert (wrong(report), report.exit_code) == (["wrong_secret"], 7)
    (policies / "writer.key").unlink()
    assert wrong(examine(patient(composed(policies)))) == ["no_writer_key", "wrong_secret"]
    path = policies / "frk.toml"
    text = path.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("passphrase")]
    recipient = "x25519:" + "A" * 43
    without = "\n".join(lines).replace("[encryption]", f'[encryption]\nrecipients = ["{recipient}"]')
    path.write_text(without)
    report = examine(patient(composed(policies)))
    assert wrong(report) == ["no_writer_key"]
    assert "can_not_open" in remarks(report)
    root = next(line for line in lines if line.startswith("root"))
    path.write_text(text.replace(root, 'root = "ed25519:' + "A" * 43 + '"'))
    report = examine(patient(composed(policies)))
    assert (wrong(report), report.exit_code) == (["untrusted_repository"], 7)


def test_binaries_are_missing(subject: Patient, tmp_path: Path) -> None:
    """Without PostgreSQL's programs of the right major version restores don't work (9)."""
    report = examine(replace(subject, binaries=lambda major: find_binaries(major, tmp_path)))
    assert (wrong(report), report.exit_code) == (["binaries_missing"], 9)


def test_no_room(subject: Patient) -> None:
    """A spool that may grow beyond its disk is found before it does (9)."""
    stream = subject.policy.stream.model_copy(update={"spool_limit": 1 << 60})
    report = examine(replace(subject, policy=subject.policy.model_copy(update={"stream": stream})))
    assert (wrong(report), report.exit_code) == (["little_room"], 9)


def test_clock_skew(subject: Patient) -> None:
    """A host whose clock is off by more than a few seconds is told so (9)."""
    clock = FakeClock()
    clock.pass_((datetime.now(UTC) - clock.now() + timedelta(minutes=2)).total_seconds())
    report = examine(replace(subject, clock=clock))
    assert (wrong(report), report.exit_code) == (["clock_skew"], 9)
    assert "behind" in report.findings[-1].text


def test_timeout_of_walsenders(server: TestCluster, subject: Patient) -> None:
    """A server that never notices a dead connection, or gives a live one no time, is worth knowing of."""
    for value, said in (("0", "is 0: a connection that died"), ("2s", "is 2000 ms: a short pause")):
        with settings(server, wal_sender_timeout=value):
            found = next(one for one in examine(subject).findings if one.code == "wal_sender_timeout")
        assert said in found.text
        assert (found.affects, found.hint) == (None, "Set wal_sender_timeout = 60s in postgresql.conf, and reload it.")


def test_slots_and_senders_for_the_replicas(subject: Patient) -> None:
    """The policy's replicas count: their slots and walsenders are missed before they are made."""
    replicas = tuple(
        ReplicaPolicy(name=f"r{number}", data_directory=Path(f"/r{number}"), follow="primary") for number in range(12)
    )
    found = examine(replace(subject, policy=subject.policy.model_copy(update={"replicas": replicas}))).findings
    told = {one.code: (one.affects, one.hint) for one in found}
    assert told["max_replication_slots"] == (
        "replicas",
        "Set max_replication_slots = 13 in postgresql.conf, and restart the server.",
    )
    assert told["max_wal_senders"] == ("stream", "Set max_wal_senders = 14 in postgresql.conf, and restart the server.")


def test_room_for_a_drill(subject: Patient, tmp_path: Path) -> None:
    """A scratch with room is well, also before it is there; without [verify] nobody looks."""
    verify = VerifyPolicy(scratch=tmp_path / "scratch")
    assert list(check_scratch(subject)) == []
    assert list(check_scratch(replace(subject, policy=subject.policy.model_copy(update={"verify": verify})))) == []


def test_exit_code_order() -> None:
    """The first of 8, 4, 7, 5, 6, 9 counts, remarks don't."""
    found = [
        Finding("clock_skew", "t", affects="stream"),
        Finding("store_denied", "t", affects="stores"),
        Finding("wal_level", "t", affects="stream"),
    ]
    assert [Report(tuple(found[:count])).exit_code for count in range(4)] == [0, 9, 6, 5]
    assert Report((Finding("slot_missing", "t"),)).exit_code == 0


def test_unknown_cluster(policies: Path) -> None:
    """An unknown cluster is a usage error that names the nearest."""
    done = replicator("check", "frx", "--policies", policies)
    assert done.returncode == 2
    assert "'frk'" in done.stderr


def test_application_name_of_a_uri(subject: Patient, server: TestCluster) -> None:
    """The name that the server knows us by is libpq's own reading of conninfo, whatever its form."""
    uri = f"postgresql://{REPLICATION_USER}@127.0.0.1:{server.port}/postgres?application_name=cadangan"
    source = subject.policy.source.model_copy(update={"conninfo": uri})
    ours = replace(subject, policy=subject.policy.model_copy(update={"source": source}))
    with settings(server, synchronous_standby_names="cadangan", synchronous_commit="remote_apply"):
        assert "remote_apply" in wrong(examine(ours))


def test_spool_that_changes_while_it_is_measured(subject: Patient) -> None:
    """A file of the spool that goes while it is looked at is no failure: the daemon works there."""
    spool = subject.spool_directory
    spool.mkdir(parents=True)
    stop = Event()

    def work() -> None:
        while not stop.is_set():
            for number in range(50):
                (spool / f"{number}").write_bytes(b"x")
            for number in range(50):
                (spool / f"{number}").unlink()

    worker = Thread(target=work)
    worker.start()
    try:
        for _ in range(100):
            list(check_directories(subject))
    finally:
        stop.set()
        worker.join()
