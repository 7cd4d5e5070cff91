"""The daemon end to end, as a process against a real server and directory stores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import urllib3

from replicator.core.lsn import Lsn
from replicator.daemon.daemon import Daemon
from replicator.tolerance import SystemClock
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.composed import environment, json_of, replicator, write_policies
from tests.servers import moto_server

SCHEDULE = '[snapshot]\nschedule = "0 2 * * *"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[TestCluster]:
    """A running server."""
    if not have_binaries():
        pytest.skip("no PostgreSQL binaries")
    with cluster_base() as base, make_cluster(base) as cluster:
        yield cluster


@pytest.fixture
def policies(server: TestCluster, tmp_path: Path) -> Iterator[Path]:
    """An initialised cluster with a schedule; its slot is dropped again."""
    found = write_policies(
        tmp_path, server.conninfo(REPLICATION_USER), password=PASSWORD, extra=SCHEDULE, passphrase=False
    )
    json_of("init", "frk", "--policies", found)
    yield found
    server.drop_slots()


class Running:
    """A daemon's process, and what it answers."""

    def __init__(self, process: subprocess.Popen[bytes], policies: Path, log: Path) -> None:
        self.process = process
        self.policies = policies
        self._log = log
        listen = (policies / "daemon.toml").read_text().partition('listen = "')[2].partition('"')[0]
        self._base = f"http://{listen}"

    def get(self, path: str) -> tuple[int, Any]:
        """Code and JSON of a path; code 0 while nobody listens."""
        with urllib3.PoolManager(retries=False, timeout=30) as pool:
            try:
                answer = pool.request("GET", self._base + path)
            except urllib3.exceptions.HTTPError:
                return 0, None
            return answer.status, answer.data.decode() if path == "/metrics" else json.loads(answer.data)

    def events(self) -> list[dict[str, Any]]:
        """The log. The line that is being written is none yet."""
        return [json.loads(line) for line in self._log.read_text().rpartition("\n")[0].splitlines()]

    def wait_for_event(self, name: str) -> None:
        """Until the log says so."""
        until(lambda: any(line["event"] == name for line in self.events()), 90, self._log.read_text)

    def wait_for(self, what: Callable[[dict[str, Any]], bool], seconds: float = 90) -> dict[str, Any]:
        """The status once it says so."""
        found: dict[str, Any] = until(lambda: _if(self.get("/status")[1], what), seconds, lambda: self._log.read_text())
        return found

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Ask it to end: its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def _if(status: dict[str, Any] | None, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    return status if status is not None and what(status) else None


def until(what: Callable[[], Any], seconds: float, told: Callable[[], str] = str) -> Any:
    """The first true answer; fails after `seconds` with what is told."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {told()}")


@contextmanager
def daemon(policies: Path, *clusters: str) -> Iterator[Running]:
    """A daemon, killed if it is still there at the end."""
    log = policies.parent / "daemon.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "replicator", "daemon", *clusters, "--policies", str(policies)]
        process = subprocess.Popen(command, stderr=file, env=environment())
        try:
            yield Running(process, policies, log)
        finally:
            process.kill()
            process.wait()


@pytest.mark.server
def test_from_start_to_an_orderly_end(server: TestCluster, policies: Path) -> None:
    """It streams, takes the first snapshot, answers over HTTP, and ships what was received before it ends with 0."""
    with daemon(policies) as running:
        status = running.wait_for(lambda found: found["ok"])
        cluster = status["clusters"]["frk"]
        assert cluster["source"]["state"] == "streaming"
        assert cluster["snapshots"]["count"] == 1
        assert len(cluster["stores"]["local"]["windows"]) == 1
        assert running.get("/livez") == (200, {"live": True})
        until(lambda: running.get("/readyz") == (200, {"ready": True, "clusters": {"frk": True}}), 60)
        assert 'replicator_up{cluster="frk"} 1.0' in running.get("/metrics")[1]
        shown = json_of("status", "frk", "--policies", policies)
        assert shown["daemon"]["running"] is True
        end = server.write_wal(20_000)
        until(lambda: _received(running) >= Lsn.parse(end), 60)
        running.wait_for_event("task_ended")  # the snapshot is there a moment before its child has ended
        assert running.end() == 0
        names = [line["event"] for line in running.events()]
        assert names[0] == "daemon_started" or names[1] == "daemon_started"
        assert names[-1] == "daemon_stopped"
        assert {"cluster_opened", "snapshot_requested", "task_started", "task_ended", "flush_ended"} <= set(names)
    shown = json_of("status", "frk", "--policies", policies, code=5)
    assert shown["daemon"]["running"] is False
    assert Lsn.parse(shown["clusters"]["frk"]["stores"]["local"]["durable_lsn"]) >= Lsn.parse(end)


def _received(running: Running) -> int:
    status = running.get("/status")[1] or {"clusters": {"frk": {"stream": {"received_lsn": None}}}}
    return Lsn.parse(status["clusters"]["frk"]["stream"]["received_lsn"] or "0/0")


@pytest.mark.server
@pytest.mark.s3
def test_directory_and_s3(server: TestCluster, policies: Path, tmp_path: Path) -> None:
    """With a directory and an S3 store each holds a window of its own; while the one is away the other goes on."""
    with moto_server() as s3:
        for key in ("access_key", "secret_key"):
            (tmp_path / key).touch(mode=0o600)
            (tmp_path / key).write_text(getattr(s3, key))
        path = policies / "frk.toml"
        store = ["[[store]]", 'name = "offsite"', f'url = "s3://{s3.bucket}/spt"', f'endpoint = "{s3.endpoint}"']
        store += ['region = "us-east-1"']
        store += [f'{key} = {{ file = "{tmp_path / key}" }}' for key in ("access_key", "secret_key")]
        path.write_text(path.read_text() + "\n".join(store) + "\n")
        assert json_of("init", "frk", "--policies", policies)["stores"]["offsite"] == "created"
        with daemon(policies) as running:
            well = {"local": ("ok", 1), "offsite": ("ok", 1)}
            running.wait_for(lambda found: found["ok"] and _stores(found) == well)
            (tmp_path / "local").rename(tmp_path / "away")
            end = Lsn.parse(server.write_wal(5_000))
            status = running.wait_for(
                lambda found: (
                    _durable(found, "offsite") >= end
                    and found["clusters"]["frk"]["stores"]["local"]["state"] in ("away", "refused")
                )
            )
            assert not status["ok"]
            assert status["clusters"]["frk"]["stores"]["offsite"]["state"] == "ok"
            assert running.get("/readyz")[0] == 200
            (tmp_path / "away").rename(tmp_path / "local")
            running.wait_for(lambda found: _durable(found, "local") >= end)
            assert running.end() == 0


def _stores(status: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Each store's state, and how many windows it has."""
    stores = status["clusters"]["frk"]["stores"]
    return {name: (found["state"], len(found["windows"] or ())) for name, found in stores.items()}


def _durable(status: dict[str, Any], store: str) -> int:
    return Lsn.parse(status["clusters"]["frk"]["stores"][store]["durable_lsn"] or "0/0")


@pytest.mark.server
def test_one_daemon_per_cluster(policies: Path) -> None:
    """A second daemon of the same cluster on this host ends with a conflict (8); after the first one it may run."""
    with daemon(policies) as first:
        first.wait_for(lambda _: True)
        second = replicator("daemon", "--policies", policies)
        assert second.returncode == 8
        assert "another daemon runs frk" in second.stderr
        assert first.end(signal.SIGINT) == 0
    with daemon(policies) as again:
        again.wait_for(lambda found: found["clusters"]["frk"]["source"]["state"] == "streaming")


@pytest.mark.server
def test_second_signal_cuts_the_flush(server: TestCluster, policies: Path, tmp_path: Path) -> None:
    """While its store is away the flush waits, for its deadline; a second signal ends the daemon at once, and nothing
    is lost: the next start ships it.
    """
    with daemon(policies) as running:
        running.wait_for(lambda found: found["ok"])
        (tmp_path / "local").rename(tmp_path / "away")
        end = server.write_wal(5_000)
        running.wait_for(lambda found: not found["ok"] and _received(running) >= Lsn.parse(end))
        until(lambda: running.get("/readyz")[0] == 503, 60)
        assert running.get("/readyz")[1]["ready"] is False
        running.process.send_signal(signal.SIGTERM)
        running.wait_for_event("daemon_stopping")  # a second one before that would be taken for the first
        time.sleep(1.5)
        assert running.process.poll() is None
        began = time.monotonic()
        assert running.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 15  # the flush would go on for 18 s more
    (tmp_path / "away").rename(tmp_path / "local")
    with daemon(policies) as running:
        running.wait_for(
            lambda found: (
                Lsn.parse(found["clusters"]["frk"]["stores"]["local"]["durable_lsn"] or "0/0") >= Lsn.parse(end)
            )
        )


@pytest.mark.server
def test_cluster_without_a_repository_is_red_alone(server: TestCluster, policies: Path, tmp_path: Path) -> None:
    """A cluster that was not initialised is red with the hint; the other streams; after `init` it runs too."""
    fed = tmp_path / "fed"
    fed.mkdir()
    other = write_policies(fed, server.conninfo(REPLICATION_USER), cluster="fed", password=PASSWORD, passphrase=False)
    (policies / "fed.toml").write_text((other / "fed.toml").read_text())
    (policies / "fed.toml").chmod(0o600)
    (fed / "local").mkdir()
    with daemon(policies) as running:
        status = running.wait_for(
            lambda found: (
                found["clusters"]["frk"]["ok"]
                and [problem["code"] for problem in found["clusters"]["fed"]["problems"]]
                == ["not_streaming", "not_found"]
            )
        )
        assert status["clusters"]["fed"]["problems"][1]["hint"] == "Make it with `replicator init fed`."
        until(
            lambda: running.get("/readyz")[1] == {"ready": False, "clusters": {"fed": False, "frk": True}},
            60,
            lambda: str(running.get("/readyz")),
        )
        json_of("init", "fed", "--policies", policies)
        running.wait_for(lambda found: found["clusters"]["fed"]["source"]["state"] == "streaming")
        assert running.end() == 0


def test_bug_ends_the_daemon() -> None:
    """An error that nobody expected ends the process with exit code 1, not silently one thread."""
    running = Daemon([], lambda _: [], SystemClock())

    def broken(_stop: Event) -> None:
        raise ZeroDivisionError

    running.add_service("broken", broken)
    running.lock()
    assert running.run() == 1
    assert not running.live()
