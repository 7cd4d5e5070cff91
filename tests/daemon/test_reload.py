"""SIGHUP: what is taken over, what is refused, and who does not notice."""

from __future__ import annotations

import fcntl
import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import urllib3

from replicator.compose import Cluster, compose
from replicator.daemon.fleet import Fleet
from replicator.daemon.reload import (
    Change,
    Files,
    Reload,
    Reloader,
    change_of,
    credentials_mark,
    effective,
    needs_restart,
)
from replicator.daemon.scheduler import Scheduler
from replicator.daemon.supervisor import Group, Supervisor
from replicator.errors import HostLacks, PolicyError
from replicator.policy import DaemonPolicy, Policy, load_policies, parse_policy
from replicator.tolerance import Deadline, SystemClock
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.composed import environment, json_of, replicator, write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"


def policy_of(directory: Path, cluster: str = "frk", extra: str = "") -> Policy:
    """A policy of a cluster nowhere, with an S3 store whose credentials are files."""
    keys = "".join(f'{name} = {{ file = "{directory / name}" }}\n' for name in ("access_key", "secret_key"))
    text = f'cluster = "{cluster}"\n[source]\nconninfo = "{NOWHERE}"\n[[store]]\nname = "offsite"\nurl = "s3://spt"\n{keys}'
    text += f'[encryption]\npassphrase = {{ file = "{directory / "passphrase"}" }}\n{extra}'
    return parse_policy(text, directory / f"{cluster}.toml")


def private(path: Path, text: str) -> None:
    """A file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text)


def test_what_differs(tmp_path: Path) -> None:
    """New, changed and gone clusters are told apart; other credentials are a change, the same policy read twice is
    none.
    """
    frk, again, fed = policy_of(tmp_path), policy_of(tmp_path), policy_of(tmp_path, "fed")
    other = policy_of(tmp_path, extra='[snapshot]\nschedule = "0 3 * * *"\n')
    marks = {"frk": b"1"}
    assert change_of({"frk": frk}, {"frk": again}, marks, marks) == Change()
    assert change_of({"frk": frk}, {"frk": other}, marks, marks) == Change(changed=("frk",))
    assert change_of({"frk": frk}, {"frk": again}, marks, {"frk": b"2"}) == Change(changed=("frk",))
    assert change_of({"frk": frk}, {"fed": fed}, marks, {"fed": b"3"}) == Change(added=("fed",), removed=("frk",))


def test_credentials_are_told_by_their_content(tmp_path: Path) -> None:
    """Another key in the same file is another mark; one that can't be read, or that others may read, is an error."""
    policy = policy_of(tmp_path)
    with pytest.raises(HostLacks):
        credentials_mark(policy)
    private(tmp_path / "access_key", "one")
    private(tmp_path / "secret_key", "two")
    before = credentials_mark(policy)
    assert credentials_mark(policy) == before
    private(tmp_path / "secret_key", "three")
    assert credentials_mark(policy) != before
    (tmp_path / "secret_key").chmod(0o644)
    with pytest.raises(PolicyError):
        credentials_mark(policy)


def test_what_only_a_new_process_can_change() -> None:
    """The address and the state directory stay as they are, and are named; the rest of daemon.toml changes."""
    old = DaemonPolicy.model_validate({"api": {"listen": "127.0.0.1:1"}, "state": {"directory": "/a"}})
    new = DaemonPolicy.model_validate(
        {"api": {"listen": "127.0.0.1:2"}, "state": {"directory": "/b"}, "log": {"level": "debug"}}
    )
    assert needs_restart(old, new) == ("[api] listen", "[state] directory")
    assert needs_restart(old, old) == ()
    now = effective(old, new)
    assert (now.api.listen, str(now.state.directory), now.log.level) == ("127.0.0.1:1", "/a", "debug")


def build(policy: Policy, settings: DaemonPolicy) -> Cluster:
    """As the verb does."""
    return compose(policy, settings)


def test_reloads_are_joined() -> None:
    """However often it is asked for while one is under way, one more follows, and no request is lost."""
    clock, reads, go = SystemClock(), list[int](), Event()

    def read() -> Files:
        reads.append(1)
        go.wait(60)
        return Files(DaemonPolicy(), {})

    fleet = Fleet(Supervisor(clock, on_bug=lambda: None), Scheduler(), lambda _: [], clock)
    reloader = Reloader(fleet, Reload(Files(DaemonPolicy(), {}), read, build), clock, flush_s=1, join_s=1)
    stop = Event()
    thread = Thread(target=reloader.run, args=(stop,))
    thread.start()
    reloader.ask()
    wait(lambda: reads)
    for _ in range(5):
        reloader.ask()
    go.set()
    wait(lambda: len(reads) == 2)
    time.sleep(0.5)
    stop.set()
    thread.join(60)
    assert len(reads) == 2


def test_a_cluster_that_another_daemon_runs_is_not_taken(tmp_path: Path) -> None:
    """A new cluster whose lock is held keeps all as it was: none of the new ones begins."""
    clock = SystemClock()
    policies = write_policies(tmp_path, NOWHERE)
    fed = tmp_path / "fed"
    fed.mkdir()
    (policies / "fed.toml").write_bytes((write_policies(fed, NOWHERE, cluster="fed") / "fed.toml").read_bytes())
    settings, found = load_policies(policies)
    held = compose(found["frk"], settings).state_directory / "daemon.lock"
    supervisor = Supervisor(clock, on_bug=lambda: None)
    fleet = Fleet(supervisor, Scheduler(), lambda _: [], clock)
    reloader = Reloader(
        fleet, Reload(Files(settings, {}), lambda: Files(settings, found), build), clock, flush_s=1, join_s=1
    )
    stop = Event()
    thread = Thread(target=reloader.run, args=(stop,))
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reloader.ask()
        thread.start()
        wait(lambda: reloader.problems("frk"))
        stop.set()
        thread.join(60)
    assert fleet.nodes == ()
    assert [problem.code for problem in reloader.problems("frk")] == ["conflict"]
    assert "another daemon runs frk" in reloader.problems("frk")[0].text


class Hanging:
    """A store that answers nothing until `go` is set; `met` is set once somebody asks it."""

    def __init__(self, inner: Any, go: Event, met: Event) -> None:
        self._inner, self._go, self._met = inner, go, met

    def __getattr__(self, name: str) -> Any:
        self._met.set()
        self._go.wait(120)
        return getattr(self._inner, name)


def test_a_cluster_that_did_not_end_begins_anew_later(tmp_path: Path) -> None:
    """While a former thread hangs in a call the cluster is not begun twice, and that is said; the next reload after it
    has ended begins it anew, and no problem stays.
    """
    clock, go, met, stop = SystemClock(), Event(), Event(), Event()
    policies = write_policies(tmp_path, NOWHERE)
    settings, found = load_policies(policies)
    changed = {"frk": found["frk"].model_copy(update={"compression": "zstd:9"})}
    files = [Files(settings, changed), Files(settings, changed)]

    def build(policy: Policy, settings: DaemonPolicy) -> Cluster:
        return compose(policy, settings, wrap_store=lambda store: Hanging(store, go, met))

    fleet = Fleet(Supervisor(clock, on_bug=lambda: None), Scheduler(), lambda _: [], clock)
    node = fleet.add(build(found["frk"], settings))
    node.lock()
    fleet.start(node)
    reload = Reload(Files(settings, found), lambda: files.pop(), build)
    reloader = Reloader(fleet, reload, clock, flush_s=0.1, join_s=0.5)
    thread = Thread(target=reloader.run, args=(stop,))
    thread.start()
    try:
        assert met.wait(60)
        reloader.ask()
        wait(lambda: reloader.problems("frk"))
        assert fleet.node("frk") is node
        go.set()
        wait(lambda: not node.join(Deadline(clock, 0)))
        reloader.ask()
        wait(lambda: fleet.node("frk") is not node and not reloader.problems("frk"))
    finally:
        stop.set()
        thread.join(60)
        for running in fleet.nodes:
            running.interrupt()
            running.join(Deadline(clock, 60))
            running.unlock()


def test_a_refused_reload_leaves_nothing_behind(tmp_path: Path) -> None:
    """However often it is refused: no group of workers stays for a cluster that never began."""
    clock = SystemClock()
    settings, found = load_policies(write_policies(tmp_path, NOWHERE))
    before = groups("frk")  # of other tests
    supervisor = Supervisor(clock, on_bug=lambda: None)
    fleet = Fleet(supervisor, Scheduler(), lambda _: [], clock)
    for _ in range(3):
        fleet.add(build(found["frk"], settings))
        fleet.drop("frk")
    assert [made for made in groups("frk") if not any(made is old for old in before)] == []


def groups(name: str) -> list[Group]:
    """All groups of workers of that name that somebody still holds."""
    gc.collect()
    return [made for made in gc.get_objects() if isinstance(made, Group) and made.name == name]


def test_a_credential_that_is_not_ours_to_look_at(tmp_path: Path) -> None:
    """A directory that can't be searched is an error of this host, and no bug."""
    policy = policy_of(tmp_path)
    for name in ("access_key", "secret_key"):
        private(tmp_path / name, "one")
    loop = tmp_path / ("k" * 300) / "writer.key"
    encryption = policy.encryption.model_copy(update={"writer_key": loop})
    with pytest.raises(HostLacks):
        credentials_mark(policy.model_copy(update={"encryption": encryption}))


@pytest.fixture(scope="module")
def server() -> Iterator[TestCluster]:
    """A running server."""
    if not have_binaries():
        pytest.skip("no PostgreSQL binaries")
    with cluster_base() as base, make_cluster(base) as cluster:
        yield cluster


class Running:
    """A daemon's process."""

    def __init__(self, process: subprocess.Popen[bytes], policies: Path, server: TestCluster) -> None:
        self.process, self.policies, self.server = process, policies, server
        listen = (policies / "daemon.toml").read_text().partition('listen = "')[2].partition('"')[0]
        self._base = f"http://{listen}"

    def get(self, path: str, token: str = "") -> tuple[int, Any]:
        """Code and JSON; code 0 while nobody listens."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with urllib3.PoolManager(retries=False, timeout=30) as pool:
            try:
                answer = pool.request("GET", self._base + path, headers=headers)
            except urllib3.exceptions.HTTPError:
                return 0, None
            return answer.status, json.loads(answer.data)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of that name. The line that is being written is none yet."""
        lines = (self.policies.parent / "daemon.log").read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == name]

    def reload(self, event: str = "policies_reloaded") -> dict[str, Any]:
        """Send SIGHUP and wait for what it says."""
        before = len(self.events(event))
        self.process.send_signal(signal.SIGHUP)
        wait(lambda: len(self.events(event)) > before, told=(self.policies.parent / "daemon.log").read_text)
        return self.events(event)[-1]

    def clusters(self) -> dict[str, Any]:
        """Every cluster's status, once the daemon answers."""
        wait(lambda: self.get("/livez")[0] == 200, told=(self.policies.parent / "daemon.log").read_text)
        return dict(self.get("/status")[1]["clusters"])

    def streaming(self, *names: str) -> bool:
        """Whether exactly these clusters are there and stream."""
        found = self.clusters()
        return set(found) == set(names) and all(cluster["source"]["state"] == "streaming" for cluster in found.values())

    def problems(self, cluster: str) -> list[str]:
        """The codes."""
        return [problem["code"] for problem in self.clusters()[cluster]["problems"]]

    def connection(self, cluster: str) -> Any:
        """The server process that serves a cluster's stream; None without any."""
        slot = f"replicator_{cluster}"
        return self.server.value("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (slot,))


def wait(what: Callable[[], Any], seconds: float = 90, told: Callable[[], str] = str) -> None:
    """Until it is true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s: {told()}"
        time.sleep(0.05)


@contextmanager
def daemon(policies: Path, server: TestCluster) -> Iterator[Running]:
    """A daemon, killed if it is still there at the end."""
    with (policies.parent / "daemon.log").open("wb") as file:
        command = [sys.executable, "-m", "replicator", "daemon", "--policies", str(policies)]
        process = subprocess.Popen(command, stderr=file, env=environment())
        try:
            yield Running(process, policies, server)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def policies(server: TestCluster, tmp_path: Path) -> Iterator[Path]:
    """Two initialised clusters; their slots are dropped again."""
    found = write_policies(tmp_path, server.conninfo(REPLICATION_USER), password=PASSWORD, passphrase=False)
    fed = tmp_path / "fed"
    fed.mkdir()
    other = write_policies(fed, server.conninfo(REPLICATION_USER), cluster="fed", password=PASSWORD, passphrase=False)
    private(found / "fed.toml", (other / "fed.toml").read_text())
    for cluster in ("frk", "fed"):
        json_of("init", cluster, "--policies", found)
    yield found
    server.drop_slots()


@pytest.mark.server
def test_clusters_come_change_and_go(server: TestCluster, policies: Path, tmp_path: Path) -> None:
    """An invalid file changes nothing and is said; a changed cluster begins anew alone; a removed one ends and lets go
    of its lock; a new one begins. Whoever is unchanged keeps its connection throughout.
    """
    fed = policies / "fed.toml"
    good = fed.read_text()
    with daemon(policies, server) as running:
        wait(lambda: running.streaming("frk", "fed"), told=lambda: str(running.clusters()))
        frk, before = running.connection("frk"), running.connection("fed")
        fed.write_text(good + "\n[snapshot]\nworkers = true\nwrokers = 3\n")
        assert len(running.reload("reload_refused")["problems"]) == 2
        wait(lambda: all("policy_invalid" in running.problems(name) for name in ("frk", "fed")))
        assert (running.connection("frk"), running.connection("fed")) == (frk, before)
        fed.write_text(good + '\n[snapshot]\nschedule = "0 2 * * *"\n')
        assert running.reload()["changed"] == ["fed"]
        wait(lambda: running.streaming("frk", "fed") and running.connection("fed") not in (None, before))
        wait(lambda: "policy_invalid" not in running.problems("frk"))
        assert [line["cluster"] for line in running.events("schedule_set")] == ["fed"]
        assert running.clusters()["fed"]["snapshots"]["next"] is not None
        end = server.write_wal(1000)
        wait(lambda: number(running.clusters()["fed"]["stream"]["received_lsn"]) >= number(end))
        fed.unlink()
        assert running.reload()["removed"] == ["fed"]
        wait(lambda: running.streaming("frk") and running.events("cluster_ended"))
        wait(lambda: running.connection("fed") is None)
        with (tmp_path / "state" / "fed" / "daemon.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        private(fed, good)
        held = json_of("wal", "coverage", "fed", "--policies", policies)["local"]["ranges"]
        assert number(held[-1]["to_lsn"]) >= number(end)  # it ended in an orderly way: all was shipped
        assert running.reload()["added"] == ["fed"]
        wait(lambda: running.streaming("frk", "fed"))
        assert running.connection("frk") == frk
        running.process.send_signal(signal.SIGHUP)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 0


def number(lsn: str) -> int:
    """An LSN's text as a number."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


@pytest.mark.server
def test_daemon_toml(server: TestCluster, policies: Path, tmp_path: Path) -> None:
    """The log's level and the token change; the address and the state directory don't, and are named in the log. No
    cluster notices.
    """
    private(tmp_path / "token", "rahasia")
    (policies / "fed.toml").unlink()
    with daemon(policies, server) as running:
        wait(lambda: running.streaming("frk"))
        before = running.connection("frk")
        state = f'[state]\ndirectory = "{tmp_path / "elsewhere"}"\n'
        token = f'token = {{ file = "{tmp_path / "token"}" }}\n'
        (policies / "daemon.toml").write_text(
            f'[api]\nlisten = "127.0.0.1:1"\n{token}{state}[log]\nlevel = "warning"\n'
        )
        running.process.send_signal(signal.SIGHUP)
        wait(lambda: len(running.events("restart_needed")) == 2)
        assert [line["key"] for line in running.events("restart_needed")] == ["[api] listen", "[state] directory"]
        wait(lambda: running.get("/status")[0] == 401)
        assert running.get("/status", "rahasia")[0] == 200
        assert not running.events("policies_reloaded")  # less than a warning by now
        (tmp_path / "token").unlink()
        running.reload("reload_refused")
        assert running.get("/status", "rahasia")[0] == 200
        assert running.connection("frk") == before


def test_reload_of_a_named_cluster_looks_at_no_other(tmp_path: Path) -> None:
    """A daemon that was started for one cluster is not held up by another one's broken file."""
    policies = write_policies(tmp_path, NOWHERE)
    private(policies / "fed.toml", "nonsense")
    with (tmp_path / "daemon.log").open("wb") as file:
        command = [sys.executable, "-m", "replicator", "daemon", "frk", "--policies", str(policies)]
        process = subprocess.Popen(command, stderr=file, env=environment())
        try:
            log = tmp_path / "daemon.log"
            wait(lambda: "daemon_started" in log.read_text())
            process.send_signal(signal.SIGHUP)
            wait(lambda: "policies_reloaded" in log.read_text())
            (policies / "frk.toml").unlink()
            process.send_signal(signal.SIGHUP)
            wait(lambda: "reload_refused" in log.read_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
    assert replicator("daemon", "frk", "--policies", policies).returncode == 2
