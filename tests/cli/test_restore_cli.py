"""`replicator restore` and `replicator wal`, as an operator and as PostgreSQL call them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.cli.main import run
from replicator.core.progress import silent
from replicator.jobs import take_job
from replicator.snapshot.take import take
from tests.clusters import OWNER, binaries, cluster_base, have_binaries, make_cluster, run_as_owner
from tests.composed import composed, environment, json_of, replicator, write_policies
from tests.stream.streams import RunningStream, settings

AWS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
Read = pytest.CaptureFixture[str]
pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@dataclass
class Place:
    """A repository made through policies, whose primary is gone."""

    home: Path
    policies: Path
    segment: str
    wal: bytes
    end: str
    label: str

    def restore(self, *words: object, into: str = "data") -> list[str]:
        """The words of a restore."""
        owner = ["--owner", OWNER] if OWNER else []
        where = ["--policies", str(self.policies), "--into", str(self.home / into)]
        return ["restore", "frk", *where, *owner, *map(str, words)]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """One snapshot, one complete segment, and rows after them."""
    with cluster_base() as home, make_cluster(home, wal_segsize_mb=1, conf={"wal_keep_size": "64MB"}) as primary:
        policies = write_policies(home, primary.conninfo(), stores=("local", "offsite"))
        done = replicator("init", "frk", "--policies", policies, "--sheet", home / "sheet")
        assert done.returncode == 0, done.stderr
        built = composed(policies)
        running = RunningStream(
            built.repository(write=True), home / "spool", lambda: primary, settings(slot="replicator_frk")
        ).start()
        try:
            primary.write_wal(10)
            running.wait(lambda seen: seen.state == "streaming", "streaming")
            label = take(take_job(built), silent, Event()).row.snapshot.label
            primary.write_wal(20000)
            end = primary.write_wal(20000)
            running.wait_durable(end)
        finally:
            running.stop()
        assert not running.failures
        names = sorted(path.name.split("-")[0] for path in (home / "local/frk").rglob("wal/*/*/*-*"))
        wal = (primary.directory / "pg_wal" / names[-1]).read_bytes()
        primary.crash()
        yield Place(home, policies, names[-1], wal, end, label)


def failure(read: Read, words: list[str], code: int) -> dict[str, Any]:
    """Run with --json: the error it ends with."""
    assert run([*words, "--json"]) == code
    error: dict[str, Any] = json.loads(read.readouterr().out)["error"]
    assert error["exit_code"] == code
    assert error["hint"].endswith(".")
    assert not error["message"].endswith(".")
    return error


def test_a_restore_with_start(place: Place) -> None:
    """The result has the plan's keys and where the server is; its rows are there."""
    result = json_of(*place.restore("--latest", "--start", into="started"))
    keys = [
        "target", "snapshot", "store", "timelines", "segments", "pieces", "bytes", "missing", "expected_s", "windows",
        "data_directory", "started", "port", "pid", "reached_lsn", "reached_time", "elapsed_s",
    ]  # fmt: skip
    assert list(result) == keys
    try:
        assert result["started"] is True
        assert result["snapshot"] == place.label
        psql = [binaries().program("psql"), "-XAtq", "-h", "127.0.0.1", "-p", result["port"], "-U", "postgres"]
        assert run_as_owner([*psql, "-c", "SELECT count(*) FROM kegiatan"]).strip() == "40010"
    finally:
        command = [binaries().program("pg_ctl"), "stop", "-m", "immediate", "-D", result["data_directory"]]
        run_as_owner(command, check=False)


def test_a_restore_from_the_sheet_and_a_store_alone(place: Place) -> None:
    """Without a policy: the sheet opens, a URL or a name says where; another cluster's sheet is refused."""
    owner = ["--owner", OWNER] if OWNER else []
    for number, store in enumerate((f"file://{place.home}/offsite", "offsite")):
        into = place.home / f"sheet-{number}"
        words = [
            "restore",
            "frk",
            "--sheet",
            place.home / "sheet",
            "--store",
            store,
            "--into",
            into,
            "--latest",
            *owner,
        ]
        result = json_of(*words)
        assert result["started"] is False
        assert (into / "global/pg_control").exists()
    done = replicator("restore", "fed", "--sheet", place.home / "sheet", "--into", place.home / "no", "--latest")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_dry_run_says_the_plan(place: Place, capsys: Read) -> None:
    """For people in lines, for programs as JSON; nothing appears."""
    assert run(place.restore("--latest", "--dry-run", into="dry")) == 0
    said = capsys.readouterr().out
    assert place.label in said
    assert "reachable: timeline 1" in said
    assert json_of(*place.restore("--to-lsn", place.end, "--dry-run", into="dry"))["missing"] == []
    assert not (place.home / "dry").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 2),
        (["--latest", "--immediate"], 2),
        (["--latest", "--exclusive"], 2),
        (["--to-time", "2026-11-22 10:00:00"], 2),
        (["--to-time", "yesterday"], 2),
        (["--to-lsn", "0-16"], 2),
        (["--latest", "--timeline", "newest"], 2),
        (["--latest", "--port", "5433"], 2),
        (["--latest", "--tablespace", "x=/y"], 2),
        (["--latest", "--store", "file:///x"], 2),
        (["--latest", "--tablespace", "16384=/srv/x"], 2),
        (["--latest", "--store", "nowhere"], 3),
        (["--latest", "--snapshot", "20200101T000000Z"], 3),
        (["--latest", "--timeline", "7"], 3),
        (["--to-time", "2020-01-01T00:00:00Z"], 3),
        (["--to-time", "2999-01-01T00:00:00+07:00"], 3),
        (["--to-xid", "999999"], 3),
        (["--to-name", "tidak ada"], 3),
        (["--latest", "--owner", "nobody-of-that-name"], 9),
    ],
)
def test_a_mistake_is_one_sentence_with_a_hint(place: Place, capsys: Read, words: list[str], code: int) -> None:
    """Each mistake has its documented exit code, and the directory is not touched."""
    error = failure(capsys, place.restore(*words, into="wrong"), code)
    if words and words[0] == "--to-time" and code == 3:
        assert "Reachable are" in error["hint"]
    assert not (place.home / "wrong").exists()


def test_a_directory_with_something_in_it(place: Place, capsys: Read) -> None:
    """8, and what is there stays."""
    (place.home / "full").mkdir()
    (place.home / "full/x").touch()
    failure(capsys, place.restore("--latest", into="full"), 8)
    assert [path.name for path in (place.home / "full").iterdir()] == ["x"]


def test_coverage_as_documented(place: Place) -> None:
    """By store: ranges, windows and gaps with their keys."""
    value = json_of("wal", "coverage", "frk", "--policies", place.policies)
    assert list(value) == ["local", "offsite"]
    for store in value.values():
        assert list(store) == ["ranges", "windows", "gaps"]
        assert list(store["ranges"][0]) == ["timeline", "from_lsn", "to_lsn"]
        assert list(store["windows"][0]) == ["timeline", "from_lsn", "to_lsn", "from_time", "to_time", "snapshot"]
        assert store["gaps"] == []
        assert store["windows"][0]["snapshot"] == place.label
    assert list(json_of("wal", "coverage", "frk", "--policies", place.policies, "--store", "local")) == ["local"]


def test_wal_get_delivers_the_servers_bytes(place: Place, tmp_path: Path) -> None:
    """A complete segment comes byte for byte; a piece only with --until, padded with zeros."""
    get = ["wal", "get", "frk", "--policies", str(place.policies)]
    assert run([*get, place.segment, str(tmp_path / "one")]) == 0
    assert (tmp_path / "one").read_bytes() == place.wal
    ranges = json_of("wal", "coverage", "frk", "--policies", place.policies)["local"]["ranges"]
    end = int(ranges[-1]["to_lsn"].split("/")[1], 16)
    last = f"0000000100000000{end // 2**20:08X}"
    assert run([*get, last, str(tmp_path / "none")]) == 44
    assert not (tmp_path / "none").exists()
    assert run([*get, last, str(tmp_path / "padded"), "--until", ranges[-1]["to_lsn"]]) == 0
    data = (tmp_path / "padded").read_bytes()
    assert len(data) == 2**20
    assert any(data[: end % 2**20])
    assert not any(data[end % 2**20 :])


@pytest.mark.parametrize("name", ["00000002.history", "0000000900000000000000AA", "000000010000000000000003.partial"])
def test_wal_get_says_absent_with_44(place: Place, tmp_path: Path, name: str) -> None:
    """Every store answered and none has it."""
    assert run(["wal", "get", "frk", name, str(tmp_path / "x"), "--policies", str(place.policies)]) == 44
    assert not (tmp_path / "x").exists()


def test_wal_get_cuts_at_until(place: Place, tmp_path: Path) -> None:
    """Zeros from there on; a later segment is absent; what should be there and isn't is an error."""
    get = ["wal", "get", "frk", "--policies", str(place.policies)]
    start = int(place.segment[16:], 16) * 2**20
    assert run([*get, place.segment, str(tmp_path / "cut"), "--until", f"0/{start + 8192:X}"]) == 0
    assert (tmp_path / "cut").read_bytes() == place.wal[:8192] + bytes(2**20 - 8192)
    assert run([*get, place.segment, str(tmp_path / "late"), "--until", f"0/{start:X}"]) == 44
    absent = f"00000001000000{start // 2**20 + 64:010X}"
    assert run([*get, absent, str(tmp_path / "x"), "--until", f"0/{start + 100 * 2**20:X}"]) not in (0, 44)


def test_an_unreadable_store_is_never_absent(place: Place, tmp_path: Path) -> None:
    """With a store that is gone, a miss in the other is 6: nobody may take it for the end of the archive."""
    (place.home / "offsite").rename(place.home / "away")
    try:
        code = run(["wal", "get", "frk", "00000002.history", str(tmp_path / "x"), "--policies", str(place.policies)])
    finally:
        (place.home / "away").rename(place.home / "offsite")
    assert code == 6


def test_wal_get_dies_quietly_of_sigterm(place: Place, tmp_path: Path) -> None:
    """PostgreSQL stops its restore_command with SIGTERM: the shell must see a signal, and the log no traceback."""
    policies = tmp_path / "policies"
    policies.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # an S3 that never answers
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        text = (place.policies / "frk.toml").read_text()
        for name in ("local", "offsite"):
            text = text.replace(f"file://{place.home}/{name}", f's3://bucket-{name}"\nendpoint = "{address}')
        (policies / "frk.toml").write_text(text)
        (policies / "daemon.toml").write_text((place.policies / "daemon.toml").read_text())
        for file in policies.iterdir():
            file.chmod(0o600)
        words = ["-m", "replicator", "wal", "get", "frk", place.segment, tmp_path / "x", "--policies", policies]
        with subprocess.Popen(
            [sys.executable, *map(str, words)], env={**environment(), **AWS}, stderr=subprocess.PIPE
        ) as process:
            mute.settimeout(90)
            mute.accept()[0].close()
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
    assert not (tmp_path / "x").exists()


def test_every_option_of_the_interface_is_there() -> None:
    """What the docs promise."""
    said = replicator("restore", "--help").stdout
    for option in (
        "--into", "--to-time", "--to-lsn", "--to-xid", "--to-name", "--latest", "--immediate", "--exclusive",
        "--timeline", "--snapshot", "--store", "--tablespace", "--workers", "--action", "--start", "--port", "--owner",
        "--sheet", "--identity", "--dry-run", "--delta",
    ):  # fmt: skip
        assert option in said


def test_the_passphrase_decides(place: Place, tmp_path: Path) -> None:
    """A wrong passphrase is 7 with a hint; without any, planning works and restoring is 7."""
    text = (place.policies / "frk.toml").read_text()
    assert tomllib.loads(text)["encryption"]
    for words, change in ((["--latest"], "sandi yang salah"), (["--latest"], "")):
        policies = tmp_path / f"policies-{len(change)}"
        policies.mkdir(mode=0o700)
        secret = tmp_path / f"secret-{len(change)}"
        secret.write_text(change)
        secret.chmod(0o600)
        wrong = text.replace(f'"{place.home / "passphrase"}"', f'"{secret}"')
        if not change:
            key = "x25519:" + "A" * 43
            wrong = text.replace(f'passphrase = {{ file = "{place.home / "passphrase"}" }}', f'recipients = ["{key}"]')
        (policies / "frk.toml").write_text(wrong)
        (policies / "daemon.toml").write_text((place.policies / "daemon.toml").read_text())
        for file in policies.iterdir():
            file.chmod(0o600)
        owner = ["--owner", OWNER] if OWNER else []
        command = ["restore", "frk", "--policies", policies, "--into", tmp_path / "data", *owner, *words]
        done = replicator(*command)
        assert done.returncode == 7, done.stderr
        assert "hint:" in done.stderr
        assert "sandi" not in done.stderr
        assert not (tmp_path / "data").exists()
