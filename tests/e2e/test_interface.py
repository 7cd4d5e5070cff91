"""The interface that operators and programs bind to: verbs, options, JSON keys and types, exit codes, HTTP, metrics.

One host with a running daemon and two stores, one of them S3 over HTTP; every check is a command as it is typed.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from replicator import __version__
from tests.clusters import OWNER, cluster_base, have_binaries, make_cluster
from tests.e2e.site import COMMAND, Site, number, site_of
from tests.servers import moto_server

pytestmark = [pytest.mark.server, pytest.mark.s3]

LSN = re.compile(r"[0-9A-F]+/[0-9A-F]+\Z")
TOKEN = "kunci antarmuka"
SNAPSHOT_KEYS = {
    "label", "start_lsn", "stop_lsn", "timeline", "time", "parent", "bytes", "added_bytes", "pinned", "stores",
    "damaged",
}  # fmt: skip
PLAN_KEYS = {
    "target", "snapshot", "store", "timelines", "segments", "pieces", "bytes", "missing", "expected_s", "windows"
}  # fmt: skip
RESULT_KEYS = {"data_directory", "started", "port", "pid", "reached_lsn", "reached_time", "elapsed_s"}
WINDOW_KEYS = {"timeline", "from_lsn", "to_lsn", "from_time", "to_time", "snapshot"}
FINDING_KEYS = {"code", "object", "store", "affects", "text", "hint"}
METRICS = (
    "up", "stream_lag_bytes", "acknowledged_lsn", "spool_bytes", "only_in_spool_bytes", "gaps", "breaker_open",
    "retries_total", "snapshot_age_seconds", "proof_age_seconds", "replica_lag_bytes", "slot_safe_bytes",
)  # fmt: skip
OWNED = ["--owner", OWNER] if OWNER else []


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The host: initialised, with a daemon and one snapshot."""
    if not have_binaries():
        pytest.skip("no PostgreSQL binaries")
    with (
        cluster_base() as base,
        moto_server() as s3,
        make_cluster(base, wal_segsize_mb=1, conf={"autovacuum": "off"}) as cluster,
        site_of(base, cluster) as made,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("INTERFACE_ACCESS", s3.access_key)
        environment.setenv("INTERFACE_SECRET", s3.secret_key)
        environment.delenv("NO_COLOR", raising=False)
        made.write_policy(
            stores=f'[[store]]\nname = "local"\nurl = "file://{made.base}/local"\n'
            f'[[store]]\nname = "offsite"\nurl = "s3://{s3.bucket}/spt"\nendpoint = "{s3.endpoint}"\n'
            'region = "us-east-1"\naccess_key = { env = "INTERFACE_ACCESS" }\n'
            'secret_key = { env = "INTERFACE_SECRET" }\n'
        )
        with (made.policies / "frk.toml").open("a") as policy:
            policy.write('[snapshot]\nschedule = "0 2 1 1 *"\n')
        (made.policies / "token").write_text(TOKEN)
        (made.policies / "token").chmod(0o600)
        settings = made.policies / "daemon.toml"
        settings.write_text(
            settings.read_text().replace("[state]", f'token = {{ file = "{made.policies}/token" }}\n[state]')
        )
        cluster.write_wal(100)
        made.run("init", "frk", "--sheet", str(made.base / "sheet"))
        made.start_daemon()
        made.wait(lambda: made.run("status", code=None)["ok"])  # the daemon takes the first snapshot itself
        settled(made)
        yield made


def get(site: Site, path: str, token: str | None = TOKEN) -> tuple[int, str, str]:
    """Code, content type and body."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{site.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.headers["Content-Type"], answer.read().decode()


def write(site: Site) -> None:
    """Write some WAL and wait until both stores have it."""

    end = number(site.cluster.write_wal(10))
    site.wait(lambda: all(durable is not None and number(durable) >= end for durable in durables(site)))


def settled(site: Site) -> None:
    """A daemon that began streams, has looked at both stores, and finds nothing wrong; none of its children works."""

    def reached() -> bool:
        found = json.loads(get(site, "/status")[2])["clusters"]["frk"]
        stores = found["stores"].values()
        well = found["ok"] and found["source"]["state"] == "streaming" and not found["tasks"]
        return well and all(store["state"] == "ok" and store["durable_lsn"] and store["windows"] for store in stores)

    site.wait(reached)
    site.wait(lambda: get(site, "/readyz")[0] == 200)


def durables(site: Site) -> list[str | None]:
    """How far each store is, as the daemon knows it."""
    stores = json.loads(get(site, "/status")[2])["clusters"]["frk"]["stores"]
    return [store["durable_lsn"] for store in stores.values()]


def is_time(text: str) -> bool:
    """Whether it is RFC 3339 in UTC."""
    return text.endswith("Z") and datetime.fromisoformat(text).utcoffset() is not None


def check_window(window: dict[str, Any]) -> None:
    """A window's keys and types."""
    assert set(window) == WINDOW_KEYS
    assert isinstance(window["timeline"], int)
    assert number(window["from_lsn"]) <= number(window["to_lsn"])
    assert is_time(window["from_time"])
    assert is_time(window["to_time"])
    assert isinstance(window["snapshot"], str)


def on_terminal(site: Site, *arguments: str, **environment: str) -> str:
    """What a verb writes to a terminal."""
    master, slave = pty.openpty()
    line = [*COMMAND, *arguments, "--policies", str(site.policies)]
    process = subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(slave)
    told = b""
    try:
        while part := os.read(master, 65536):
            told += part
    except OSError:  # the last writer closed it
        pass
    finally:
        os.close(master)
    assert process.wait(60) == 0
    return told.decode()


def test_status(site: Site) -> None:
    """`status --json` has exactly the documented keys, and GET /status the same."""
    for found in (site.run("status"), site.run("status", "frk"), json.loads(get(site, "/status")[2])):
        assert set(found) == {"ok", "daemon", "clusters"}
        assert found["ok"] is True
        assert set(found["daemon"]) == {"running", "since"}
        assert found["daemon"]["running"] is True
        assert is_time(found["daemon"]["since"])
        assert set(found["clusters"]) == {"frk"}
        check_cluster(found["clusters"]["frk"])


def check_cluster(cluster: dict[str, Any]) -> None:
    """One cluster's keys and types."""
    assert set(cluster) == {
        "ok", "source", "stream", "stores", "snapshots", "proofs", "replicas", "tasks", "problems"
    }  # fmt: skip
    source, stream, snapshots = cluster["source"], cluster["stream"], cluster["snapshots"]
    assert set(source) == {"state", "host", "timeline", "lsn", "wal_status", "safe_wal_bytes"}
    assert (source["state"], source["timeline"], source["wal_status"]) == ("streaming", 1, "reserved")
    assert LSN.match(source["lsn"])
    assert set(stream) == {
        "received_lsn", "flushed_lsn", "acknowledged_lsn", "only_in_spool_bytes", "spool_bytes", "back_pressure"
    }  # fmt: skip
    assert all(LSN.match(stream[key]) for key in ("received_lsn", "flushed_lsn", "acknowledged_lsn"))
    assert isinstance(stream["only_in_spool_bytes"], int)
    assert isinstance(stream["spool_bytes"], int)
    assert stream["back_pressure"] is False
    assert set(cluster["stores"]) == {"local", "offsite"}
    for store in cluster["stores"].values():
        assert set(store) == {"state", "breaker", "durable_lsn", "lag_bytes", "lag_s", "windows", "gaps"}
        assert (store["state"], store["breaker"], store["gaps"]) == ("ok", "closed", [])
        assert LSN.match(store["durable_lsn"])
        assert isinstance(store["lag_bytes"], int)
        assert isinstance(store["lag_s"], int | float)
        assert store["windows"]
        for window in store["windows"]:
            check_window(window)
    assert set(snapshots) == {"count", "last", "next"}
    assert snapshots["count"] >= 1
    assert re.fullmatch(r"\d{8}T\d{6}Z", snapshots["last"])
    assert is_time(snapshots["next"])
    assert (cluster["proofs"], cluster["replicas"], cluster["problems"]) == ({}, {}, [])


def test_status_knows_a_snapshot_at_once(site: Site) -> None:
    """What a verb by hand has just made is in the next status: snapshots, windows and metrics."""
    taken = site.run("snapshot", "take", "frk", "--full", "--workers", "1")
    assert site.run("status")["clusters"]["frk"]["snapshots"]["last"] == taken["label"]
    age = re.search(r"^replicator_snapshot_age_seconds\S* (\S+)", get(site, "/metrics")[2], re.MULTILINE)
    assert age is not None
    assert float(age[1]) < 60


def test_snapshot(site: Site) -> None:
    """`snapshot take|list|show --json`: rows of the same keys; sizes are numbers; an unknown label is 3."""
    taken = site.run("snapshot", "take", "frk")
    assert set(taken) == SNAPSHOT_KEYS | {"elapsed_s", "findings"}
    assert taken["findings"] == []
    rows = site.run("snapshot", "list", "frk")
    assert all(set(row) == SNAPSHOT_KEYS for row in rows)
    row = rows[-1]
    assert row == {key: taken[key] for key in SNAPSHOT_KEYS}
    assert (row["stores"], row["damaged"], row["pinned"]) == (["local", "offsite"], False, False)
    assert row["parent"] == rows[-2]["label"]
    assert 0 < row["added_bytes"] < row["bytes"]
    assert is_time(row["time"])
    assert number(row["start_lsn"]) < number(row["stop_lsn"])
    assert [one["stores"] for one in site.run("snapshot", "list", "frk", "--store", "local")] == [["local"]] * len(rows)
    assert site.run("snapshot", "show", "frk", row["label"]).items() >= row.items()
    for label in ("20010101T000000Z", "tidak-ada"):
        assert site.run("snapshot", "show", "frk", label, code=3)["error"]["type"] == "SnapshotNotFound"


def test_wal(site: Site, tmp_path: Path) -> None:
    """`wal coverage --json` by store; `wal get` is 0 delivered, 44 absent, and anything else an error."""
    site.cluster.write_wal(10)
    end = site.cluster.switch_wal()
    write(site)
    found = site.run("wal", "coverage", "frk")
    assert set(found) == {"local", "offsite"}
    for store in found.values():
        assert set(store) == {"ranges", "windows", "gaps"}
        assert all(set(held) == {"timeline", "from_lsn", "to_lsn"} for held in store["ranges"])
        for window in store["windows"]:
            check_window(window)
        assert store["gaps"] == []
    assert set(site.run("wal", "coverage", "frk", "--store", "offsite")) == {"offsite"}
    name = f"00000001{0:08X}{number(end) >> 20:08X}"
    site.wait(lambda: site.command("wal", "get", "frk", name, str(tmp_path / "w")).returncode == 0)
    assert (tmp_path / "w").stat().st_size == 1 << 20
    now = f"00000001{0:08X}{(number(end) >> 20) + 1:08X}"
    absent = site.command("wal", "get", "frk", now, str(tmp_path / "x"), "--json")
    assert (absent.returncode, absent.stdout) == (44, "")
    assert not (tmp_path / "x").exists()
    until = found["local"]["ranges"][-1]["to_lsn"]
    assert site.command("wal", "get", "frk", now, str(tmp_path / "x"), "--until", until).returncode == 0
    assert (tmp_path / "x").stat().st_size == 1 << 20
    assert site.command("wal", "get", "frk", "00000009.history", str(tmp_path / "y")).returncode == 44
    assert (
        site.run("wal", "get", "frk", now, str(tmp_path / "nowhere/x"), "--until", until, code=9)["error"]["exit_code"]
        == 9
    )
    assert site.run("wal", "get", "frk", now, str(tmp_path / "y"), "--until", "x", code=2)["error"]["exit_code"] == 2


def test_restore(site: Site) -> None:
    """A plan's keys; a restore adds its own, null without --start; a target outside is 3 with the windows."""
    into = str(site.base / "interface")
    plan = site.run("restore", "frk", "--into", into, "--latest", "--dry-run")
    assert set(plan) == PLAN_KEYS
    assert (plan["timelines"], plan["missing"]) == ([1], [])
    assert all(isinstance(plan[key], int) for key in ("segments", "pieces", "bytes"))
    for window in plan["windows"]:
        check_window(window)
    assert not Path(into).exists()
    error = site.run("restore", "frk", "--into", into, "--to-lsn", "FF/0", code=3)["error"]
    for window in error["windows"]:
        check_window(window)
    assert error["windows"][0]["from_lsn"] == plan["windows"][0]["from_lsn"]
    done = site.run("restore", "frk", "--into", into, "--to-lsn", plan["windows"][0]["from_lsn"], *OWNED)
    assert set(done) == PLAN_KEYS | RESULT_KEYS
    assert (done["data_directory"], done["started"]) == (into, False)
    assert [done[key] for key in ("port", "pid", "reached_lsn", "reached_time")] == [None] * 4
    assert isinstance(done["elapsed_s"], int | float)
    assert "--delta" in site.run("restore", "frk", "--into", into, "--latest", *OWNED, code=8)["error"]["hint"]
    assert set(site.run("restore", "frk", "--into", into, "--latest", "--delta", *OWNED)) == set(done)


def test_restore_started(site: Site) -> None:
    """With --start a port, a process, and what recovery reached; the store is the one asked for."""
    write(site)
    done = site.restore("--latest", "--store", "offsite", "--timeline", "1", "--action", "pause", name="started")
    try:
        assert (done["started"], done["store"]) == (True, "offsite")
        assert isinstance(done["port"], int)
        os.kill(done["pid"], 0)
        assert LSN.match(done["reached_lsn"])
        assert done["reached_time"] > done["windows"][-1]["from_time"]
        assert done["reached_time"] <= done["windows"][-1]["to_time"]
    finally:
        site.stop_restored("started")


def test_check(site: Site) -> None:
    """`check --json`: whether all is well, and findings of the documented keys."""
    found = site.run("check", "frk")
    assert set(found) == {"ok", "findings"}
    assert found["ok"] is True
    assert all(set(finding) == FINDING_KEYS for finding in found["findings"])


def test_init_again(site: Site) -> None:
    """A second init changes nothing, asks nothing, and says so."""
    found = site.run("init", "frk")
    assert found["created"] is False
    assert re.fullmatch(r"ed25519:\S+", found["root"])


def test_policy(site: Site) -> None:
    """`policy check|explain|schema`, of the directory and of files, also of daemon.toml."""
    file = str(site.policies / "frk.toml")
    assert site.run("policy", "check")["ok"] is True
    assert site.run("policy", "check", file)["files"] == [file]
    assert site.command("policy", "check", "--quiet").stdout == ""
    told = site.run("policy", "explain")
    assert all(sentence.endswith(".") for sentence in told["clusters"]["frk"] + told["daemon"])
    assert "spool_limit" in json.dumps(site.run("policy", "schema"))
    assert "listen" in json.dumps(site.run("policy", "schema", "--daemon"))


def test_http(site: Site) -> None:
    """Four paths; the health checks ask for no token, the others do."""
    assert get(site, "/livez", None)[0] == get(site, "/readyz", None)[0] == 200
    for path in ("/status", "/metrics"):
        assert get(site, path, None)[0] == get(site, path, "salah")[0] == 401
        assert get(site, path)[0] == 200
    assert get(site, "/elsewhere")[0] == 404
    token = site.policies / "token"
    token.write_text("salah")
    try:
        assert site.run("status", code=7)["error"]["type"] == "KeysError"
    finally:
        token.write_text(TOKEN)


def test_metrics(site: Site) -> None:
    """The documented names with their labels; LSNs are byte numbers."""
    code, kind, text = get(site, "/metrics")
    assert (code, kind.partition(";")[0]) == (200, "text/plain")
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert all(name.startswith("replicator_") for name in names)
    assert names >= {f"replicator_{name}" for name in METRICS}
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert all('cluster="frk"' in name for name in values)
    assert values['replicator_up{cluster="frk"}'] == "1.0"
    for store in ("local", "offsite"):
        assert f'replicator_stream_lag_bytes{{cluster="frk",store="{store}"}}' in values
        assert values[f'replicator_breaker_open{{cluster="frk",endpoint="{store}"}}'] == "0.0"
    acknowledged = float(values['replicator_acknowledged_lsn{cluster="frk"}'])
    assert acknowledged == pytest.approx(number(site.cluster.lsn()), abs=4 << 20)


def test_failures_are_one_object(site: Site) -> None:
    """With --json a failure is {"error": …} on standard output; without it a sentence and a hint on standard error."""
    for line, code, kind in (
        (("nosuch",), 2, "UsageError"),
        (("status", "frx"), 2, "UnknownCluster"),
        (("restore", "frk", "--into", "/tmp/x"), 2, "UsageError"),
        (("daemon", "frk"), 8, "Conflict"),
    ):
        error = site.run(*line, code=code)["error"]
        assert set(error) >= {"type", "message", "hint", "exit_code"}
        assert (error["type"], error["exit_code"]) == (kind, code)
        plain = site.command(*line)
        assert (plain.returncode, plain.stdout) == (code, "")
        assert plain.stderr.startswith("error: ")
        assert "\nhint: " in plain.stderr


def test_what_is_not_built_is_absent(site: Site) -> None:
    """Verbs of later versions are unknown words, no stubs."""
    for line in (("replica", "promote", "frk", "x"), ("replica", "rebuild", "frk", "x")):
        assert site.run(*line, code=2)["error"]["type"] == "UsageError"


def test_version_and_policies(site: Site, tmp_path: Path) -> None:
    """--version on the group; REPLICATOR_POLICIES, then ./policies; an option wins."""
    told = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    assert told == f"replicator {__version__}\n"
    line = [*COMMAND, "policy", "check", "--json"]
    bare = {name: value for name, value in os.environ.items() if name != "REPLICATOR_POLICIES"}
    for extra, place, code in (
        ({"REPLICATOR_POLICIES": str(site.policies)}, tmp_path, 0),
        ({}, site.base, 0),
        ({}, tmp_path, 2),
        ({"REPLICATOR_POLICIES": str(tmp_path / "none")}, site.base, 2),
    ):
        done = subprocess.run(line, capture_output=True, cwd=place, env={**bare, **extra}, check=False)
        assert done.returncode == code, (extra, place, done.stdout)


def test_a_broken_policy_harms_its_cluster_alone(site: Site) -> None:
    """Verbs of one cluster don't care for another's file; what is about all names the problem."""
    other = site.policies / "fed.toml"
    other.write_text('cluster = "fed"\n[sorce]\n')
    other.chmod(0o600)
    try:
        assert set(site.run("status", "frk")["clusters"]) == {"frk"}
        assert site.run("status", code=2)["error"]["problems"]
    finally:
        other.unlink()


def test_policies_that_others_may_write(site: Site) -> None:
    """Files that others may write are refused, and the sentence says how to mend it."""
    path = site.policies / "frk.toml"
    path.chmod(0o622)
    try:
        assert "chmod go-w" in site.run("status", code=2)["error"]["message"]
    finally:
        path.chmod(0o600)


def test_results_and_the_rest(site: Site) -> None:
    """Results on standard output, everything else on standard error; --quiet leaves results alone."""
    loud, quiet = site.command("snapshot", "take", "frk"), site.command("snapshot", "take", "frk", "--quiet")
    assert loud.stderr.startswith("snapshot: ")
    assert quiet.stderr == ""
    for done in (loud, quiet):
        assert done.returncode == 0
        assert done.stdout.startswith("snapshot 2")
    assert site.command("status", "--quiet").stderr == ""
    assert site.command("snapshot", "list", "frk", "--quiet", "--verbose").returncode == 2


def test_colours(site: Site) -> None:
    """A terminal gets a table with styles; NO_COLOR and --no-color take every style away."""
    assert "\x1b[" in on_terminal(site, "status")
    assert "\x1b[" not in on_terminal(site, "status", NO_COLOR="1")
    assert "\x1b[" not in on_terminal(site, "status", "--no-color")


def test_interrupted(site: Site) -> None:
    """SIGINT and SIGTERM end a verb with 130 and one object."""
    for name in (signal.SIGINT, signal.SIGTERM):
        line = [*COMMAND, "snapshot", "take", "frk", "--json", "--policies", str(site.policies)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "snapshot: start\n"
            process.send_signal(name)
            told, _ = process.communicate(timeout=60)
        if process.returncode != 0:  # a small cluster may be done before the signal is looked at
            assert process.returncode == 130
            assert json.loads(told)["error"]["type"] == "Interrupted"


def test_log_of_the_daemon(site: Site) -> None:
    """One JSON object a line, each with its time, level and event; the events that operators wait for are there."""
    written = (site.base / "daemon.log").read_text().rpartition("\n")[0].splitlines()  # whole lines
    assert [line for line in written if not line.startswith("{")] == []
    lines = [json.loads(line) for line in written]
    assert all(set(line) >= {"timestamp", "level", "event"} for line in lines)
    assert all(is_time(line["timestamp"]) for line in lines)
    awaited = (
        "api_listening", "daemon_started", "cluster_opened", "stream_state", "store_state", "schedule_set",
        "snapshot_requested", "task_started", "task_ended",
    )  # fmt: skip
    site.wait(lambda: all(f'"event": "{name}"' in (site.base / "daemon.log").read_text() for name in awaited))


def test_text_log_and_an_end_in_order(site: Site) -> None:
    """[log] format = "text" writes words; SIGTERM ends the daemon with 0; then status reads the stores and says so."""
    settings, log = site.policies / "daemon.toml", site.base / "daemon.log"
    written, began = settings.read_text(), log.stat().st_size
    assert site.kill_daemon(signal.SIGTERM) == 0
    found = site.run("status", code=5)
    assert found["daemon"] == {"running": False, "since": None}
    assert found["clusters"]["frk"]["stores"]["offsite"]["windows"]
    os.truncate(log, began)
    settings.write_text(f'{written}[log]\nformat = "text"\nlevel = "debug"\n')
    try:
        site.start_daemon()
        site.wait(lambda: "stream_state" in log.read_text()[began:])
        assert "{" not in log.read_text()[began:].splitlines()[0]
        assert site.kill_daemon(signal.SIGTERM) == 0
    finally:
        settings.write_text(written)
        os.truncate(log, began)
    site.start_daemon()
    settled(site)
