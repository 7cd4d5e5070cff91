"""`replicator snapshot take|list|show`, as an operator and as the daemon call them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replicator.cli.main import run
from replicator.compose import compose
from replicator.policy import load_cluster
from replicator.repository.repository import Repository
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.snapshot.support import Shipping, shipping

Read = pytest.CaptureFixture[str]
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries on this host"),
]
KEYS = [
    "label", "start_lsn", "stop_lsn", "timeline", "time", "parent", "bytes", "added_bytes", "pinned", "stores",
    "damaged",
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A cluster with its policy, initialised."""

    cluster: TestCluster
    directory: Path
    repository: Repository

    def run(self, *words: str) -> int:
        """One verb."""
        return run([*words, "--policies", str(self.directory)])


def write_policies(cluster: TestCluster, home: Path) -> Path:
    """The policies of one cluster `frk` with two directory stores."""
    directory = home / "policies"
    directory.mkdir()
    (home / "password").write_text(PASSWORD)
    identity = new_x25519()
    (home / "identity").write_text(key_text(SEALING_SECRET, identity))
    for name in ("password", "identity"):
        (home / name).chmod(0o600)
    (directory / "daemon.toml").write_text(f'[state]\ndirectory = "{home}/state"\n')
    (directory / "frk.toml").write_text(
        f"""cluster = "frk"
[source]
conninfo = "{cluster.conninfo(REPLICATION_USER)}"
password = {{ file = "{home}/password" }}
slot = "replicator_frk"
[[store]]
name = "local"
url = "file://{home}/local"
[[store]]
name = "offsite"
url = "file://{home}/offsite"
[encryption]
recipients = ["{key_text(SEALING, x25519_public(identity))}"]
identity = {{ file = "{home}/identity" }}
[stream]
spool = "{home}/spool"
[tolerance]
retry_budget = "1s"
"""
    )
    return directory


@pytest.fixture(scope="module")
def primary() -> Iterator[TestCluster]:
    """A primary with 1 MB segments."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster:
        yield cluster


@pytest.fixture
def place(primary: TestCluster, tmp_path: Path, capsys: Read) -> Place:
    """The cluster initialised as an operator would."""
    directory = write_policies(primary, tmp_path)
    assert run(["init", "frk", "--policies", str(directory)]) == 0
    daemon, policy = load_cluster(directory, "frk")
    capsys.readouterr()
    return Place(primary, directory, compose(policy, daemon).repository())


@pytest.fixture
def streaming(place: Place) -> Iterator[Shipping]:
    """The cluster's stream."""
    with shipping(place.cluster, place.repository) as found:
        yield found


def take_json(place: Place, capsys: Read) -> dict[str, Any]:
    """A snapshot's result."""
    assert place.run("snapshot", "take", "frk", "--json") == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_take_list_and_show(place: Place, streaming: Shipping, capsys: Read) -> None:
    """The keys that operators bind to; the row of `take` is the row of `list`, and the parent is named."""
    first = take_json(place, capsys)
    second = take_json(place, capsys)
    assert list(first) == [*KEYS, "elapsed_s", "findings"]
    assert (first["stores"], first["findings"], first["parent"]) == (["local", "offsite"], [], None)
    assert second["parent"] == first["label"]
    assert place.run("snapshot", "list", "frk", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == [{key: taken[key] for key in KEYS} for taken in (first, second)]
    assert place.run("snapshot", "list", "frk", "--store", "local", "--json") == 0
    assert [row["stores"] for row in json.loads(capsys.readouterr().out)] == [["local"], ["local"]]
    assert place.run("snapshot", "show", "frk", second["label"], "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown[key] for key in KEYS} == rows[1]
    assert shown["presence"] == {name: {"manifest": True, "missing_packs": 0} for name in ("local", "offsite")}
    assert shown["facts"]["settings"]["wal_segment_size"] == "1MB"
    assert "comparison_key" not in json.dumps(shown)


def test_for_people(place: Place, streaming: Shipping, capsys: Read) -> None:
    """Results on standard output, progress on standard error."""
    assert place.run("snapshot", "take", "frk", "--full", "--workers", "1") == 0
    out, err = capsys.readouterr()
    assert out.startswith("snapshot 2")
    assert " of frk, full: " in out
    assert "snapshot: read" in err
    assert place.run("snapshot", "list", "frk") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    label = lines[1].split("\t")[0]
    assert place.run("snapshot", "show", "frk", label) == 0
    out = capsys.readouterr().out
    assert f"label: {label}\n" in out
    assert "store offsite: has it, all packs\n" in out


def test_as_a_child_of_the_daemon(place: Place, streaming: Shipping, capsys: Read) -> None:
    """JSON lines: progress with the stop LSN, and the result last."""
    assert place.run("snapshot", "take", "frk", "--progress", "json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["event"] == "result"
    stops = [line["facts"]["stop_lsn"] for line in lines[:-1] if "stop_lsn" in line["facts"]]
    assert stops == [lines[-1]["result"]["stop_lsn"]]


def test_without_a_stream(place: Place, capsys: Read) -> None:
    """Exit code 5 with the hint, for people and for the daemon."""
    assert place.run("snapshot", "take", "frk") == 5
    assert "hint: Start `replicator daemon frk`" in capsys.readouterr().err
    assert place.run("snapshot", "take", "frk", "--progress", "json") == 5
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["event"], line["error"]["exit_code"], line["error"]["type"]) == ("error", 5, "StreamNotRunning")


def test_with_a_store_that_is_gone(place: Place, streaming: Shipping, tmp_path: Path, capsys: Read) -> None:
    """Exit code 6, the snapshot in the other store, and `list` says who was silent."""
    (tmp_path / "offsite").rename(tmp_path / "unmounted")
    try:
        assert place.run("snapshot", "take", "frk", "--json") == 6
        result = json.loads(capsys.readouterr().out)
        assert result["stores"] == ["local"]
        assert [finding["store"] for finding in result["findings"]] == ["offsite"]
        assert place.run("snapshot", "list", "frk") == 6
        assert "store offsite did not answer" in capsys.readouterr().err
    finally:
        (tmp_path / "unmounted").rename(tmp_path / "offsite")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("snapshot", "show", "frk", "20200101T000000Z"), 3),
        (("snapshot", "show", "frk", "yesterday"), 3),
        (("snapshot", "list", "frk", "--store", "nowhere"), 3),
        (("snapshot", "list", "fed"), 2),
        (("snapshot", "take", "frk", "--workers", "0"), 2),
    ],
)
def test_mistakes(place: Place, capsys: Read, words: tuple[str, ...], code: int) -> None:
    """One sentence, a hint and the documented exit code; nothing on standard output."""
    assert place.run(*words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "hint: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(place: Place, streaming: Shipping, number: signal.Signals) -> None:
    """130, no snapshot, and the next take works."""
    policy = place.directory / "frk.toml"
    policy.write_text(policy.read_text() + '[snapshot]\nrate_limit = "1MB"\n')
    command = [sys.executable, "-m", "replicator", "snapshot", "take", "frk", "--progress", "json", "--policies"]
    child = subprocess.Popen(
        [*command, str(place.directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    packs = Path(str(place.directory.parent / "local/frk" / str(place.cluster.system_id) / "packs"))
    until = time.monotonic() + 120
    while not list(packs.glob("*/begin-*")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["error"]["exit_code"] == 130
    assert place.run("snapshot", "list", "frk", "--json") == 0
    policy.write_text(policy.read_text().replace("1MB", "1GB"))
    assert place.run("snapshot", "take", "frk", "--quiet") == 0
