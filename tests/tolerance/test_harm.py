"""Towards stores, children and daemons, each mechanism in three acts: without it, the harm; with it, it is gone."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.api.client import fetch_status
from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.core.progress import silent
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import ReplicatorError, StoreUnavailable, StreamNotRunning
from replicator.snapshot.participants import Participants
from replicator.snapshot.wal import WalNeed, wait_for_wal
from replicator.store import ResilientStore
from replicator.store.directory import DirectoryStore
from replicator.store.s3_store import S3Store
from replicator.tolerance import Retry, SystemClock
from tests.clock import FakeClock
from tests.tolerance.harm import NEVER, SOON, Attempt, deaf_server


def s3(port: int, *, connecting: float = 10.0, reading: float = 10.0) -> S3Store:
    """A driver for a server at that port."""
    return S3Store(
        "offsite", "bucket", endpoint=f"http://127.0.0.1:{port}", access_key="key", secret_key="secret",
        connect_timeout=connecting, read_timeout=reading,
    )  # fmt: skip


def test_request_timeout_of_a_store() -> None:
    """A bucket that hangs holds its shipper for ever; with the timeout it is unavailable."""
    with deaf_server() as port:
        assert Attempt(lambda: s3(port, reading=NEVER).get("a")).hangs()
        assert isinstance(Attempt(lambda: s3(port, reading=SOON).get("a")).failed(), StoreUnavailable)


class Driver(DirectoryStore):
    """A directory whose requests fail, or hang until `release`, as `faulty` says of the request's number."""

    def __init__(self, root: Path, faulty: Callable[[int], bool], *, hangs: bool = False, name: str = "near") -> None:
        super().__init__(name, root)
        self.prepare()
        self.release = Event()
        self._numbers = count(1)
        self._asked: list[int] = []
        self._faulty, self._hangs = faulty, hangs

    @property
    def asked(self) -> int:
        """How many puts came this far."""
        return len(self._asked)

    def put(self, name: str, body: bytes | Path) -> None:
        """Put, or not."""
        number = next(self._numbers)
        self._asked.append(number)
        if self._faulty(number):
            if self._hangs:
                self.release.wait(60)
            raise StoreUnavailable("put: failed for the test")
        super().put(name, body)


def guarded(driver: Driver, **changes: Any) -> ResilientStore:
    """The driver with every mechanism off, but for `changes`."""
    off = {"clock": FakeClock(), "budget_s": 0.0, "breaker_failures": 10**9, "breaker_reset_s": NEVER, "most": 10_000}
    return ResilientStore(driver, **{**off, **changes})


def outcomes(store: ResilientStore, puts: int) -> list[ReplicatorError]:
    """The errors of so many puts."""
    errors: list[ReplicatorError] = []
    for number in range(puts):
        try:
            store.put(f"object-{number}", b"x")
        except StoreUnavailable as error:
            errors.append(error)
    return errors


def test_retries(tmp_path: Path) -> None:
    """A store that fails now and then: without a budget for retries every failure is one of the caller's."""
    assert len(outcomes(guarded(Driver(tmp_path / "off", lambda number: number % 3 == 0)), 30)) == 10
    assert outcomes(guarded(Driver(tmp_path / "on", lambda number: number % 3 == 0), budget_s=60.0), 30) == []


def test_the_budget_of_retries() -> None:
    """A dead part: a budget without an end is a call without an end, and its tries are counted in thousands."""

    def tries(budget_s: float) -> tuple[int, bool]:
        """How often it was tried, and whether the caller got an answer."""
        made, patience = 0, Event()

        def call() -> None:
            nonlocal made
            made += 1
            if made == 5000:
                patience.set()
            raise StoreUnavailable("dead")

        with pytest.raises(ReplicatorError) as failure:
            Retry(FakeClock(), budget_s, stop=patience).call(call, what="it")
        return made, isinstance(failure.value, StoreUnavailable)

    assert tries(1e12) == (5000, False)
    made, answered = tries(60.0)
    assert answered
    assert made < 50


def test_the_breaker(tmp_path: Path) -> None:
    """A dead store: without a breaker each of a thousand requests goes there and waits; with it five do."""
    off, on = (Driver(tmp_path / name, lambda _: True) for name in ("off", "on"))
    assert len(outcomes(guarded(off), 1000)) == 1000
    assert off.asked == 1000
    assert len(outcomes(guarded(on, breaker_failures=5), 1000)) == 1000
    assert on.asked == 5


@pytest.mark.parametrize("most", [10_000, 4])
def test_the_bulkhead(tmp_path: Path, most: int) -> None:
    """A store that hangs, and callers that share twenty threads with a store that is well: without a bulkhead it takes
    all of them, with one it takes its places, and the others are free again at once.
    """
    hanging = Driver(tmp_path / "hanging", lambda _: True, hangs=True)
    store = guarded(hanging, most=most, wait_s=SOON)
    callers = [Attempt(lambda n=number: store.put(f"object-{n}", b"x")) for number in range(20)]  # type: ignore[misc]
    held = min(most, len(callers))
    pause, left = Event(), 6000
    while store.statistics().bulkhead.refused < len(callers) - held or hanging.asked < held:
        pause.wait(0.01)
        left -= 1
        assert left
    assert callers[-1].hangs() or most < len(callers)
    while sum(caller.going_on for caller in callers) > held:  # who was refused ends a moment after it is counted
        pause.wait(0.01)
        left -= 1
        assert left
    assert sum(caller.going_on for caller in callers) == held
    hanging.release.set()
    for caller in callers:
        assert isinstance(caller.failed(), StoreUnavailable)


@pytest.mark.parametrize("limit", [NEVER, 20 * SOON])
def test_the_deadline_of_a_store_within_a_snapshot(tmp_path: Path, limit: float) -> None:
    """One store hangs in a step of a snapshot: without a deadline the others wait for it for ever."""
    hanging = Driver(tmp_path / "hanging", lambda _: True, hangs=True, name="far")
    well = Driver(tmp_path / "well", lambda _: False)
    stop = Event()
    stores: dict[str, Any] = {"near": well, "far": hanging}
    asked = Participants(stores, SystemClock(), limit, stop)
    step = Attempt(lambda: asked.each(lambda _, store: store.put("a", b"x"), what="putting"))
    if limit == NEVER:
        assert step.hangs()
        stop.set()
    else:
        assert step.failed() is None
        assert (set(asked.active), set(asked.left_out)) == ({"near"}, {"far"})
    hanging.release.set()
    step.failed()


def test_the_deadline_of_wal_that_a_snapshot_needs(tmp_path: Path) -> None:
    """No WAL comes: without a deadline the take never ends, and no other one is begun."""
    store: Any = Driver(tmp_path / "store", lambda _: False)
    need = WalNeed(1, 2**20, LsnRange(1, Lsn(2**20), Lsn(2**21)))
    stop = Event()

    def take(limit: float) -> None:
        asked = Participants({"near": store}, SystemClock(), NEVER, stop)
        wait_for_wal(asked, need, clock=SystemClock(), stop=stop, deadline_s=limit, report=silent)

    patient = Attempt(lambda: take(NEVER))
    assert patient.hangs()
    assert isinstance(Attempt(lambda: take(SOON)).failed(), StreamNotRunning)
    stop.set()
    patient.failed()


@pytest.mark.parametrize("limit", [NEVER, SOON])
def test_a_child_that_hangs(limit: float) -> None:
    """A child that says nothing any more: without a limit no other snapshot is ever taken."""
    command = [sys.executable, "-c", "import signal, time; print('{}', flush=True); time.sleep(600)"]
    task = Task("snapshot", command, SystemClock(), lambda _: None, silence_s=limit, grace_s=5)
    stop = Event()
    run = Attempt(lambda: task.run(stop))
    if limit == NEVER:
        assert run.hangs()
        pause, left = Event(), 6000
        while task.status() is None and left:  # a child takes a moment to begin
            left -= 1
            pause.wait(0.01)
        assert task.status() is not None
        stop.set()
    assert run.failed() is None
    end: TaskEnd = run.result
    assert (end.silent, end.stopped) == (limit != NEVER, limit == NEVER)
    assert task.status() is None


def test_an_answer_that_drips() -> None:
    """Whoever asks for the status gets it, or hears that there is none: a body that comes byte by byte is no answer."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            for _ in range(2):
                client, _ = listener.accept()
                threading.Thread(target=drops, args=(client,), daemon=True).start()

        def drops(client: socket.socket) -> None:
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.02):
                    try:
                        client.sendall(b" ")
                    except OSError:
                        return

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        port = listener.getsockname()[1]
        patient = Attempt(lambda: fetch_status("127.0.0.1", port, None, seconds=NEVER))
        assert patient.hangs()
        sensible = Attempt(lambda: fetch_status("127.0.0.1", port, None, seconds=SOON))
        assert sensible.failed() is None
        assert sensible.result is None
        over.set()
        patient.failed()
        dripping.join(5)
