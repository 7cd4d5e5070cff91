"""The supervisor: what follows each kind of failure, and that no thread outlives it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest

from replicator.daemon.supervisor import Action, Phase, Supervisor, WorkerState, action_for
from replicator.errors import (
    Conflict,
    ForeignSource,
    HostLacks,
    IntegrityError,
    Interrupted,
    KeysError,
    NotFound,
    ReplicatorError,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    StoreDenied,
    StoreUnavailable,
    UntrustedRepository,
    UsageError,
)
from replicator.tolerance import Deadline, SystemClock
from tests.clock import FakeClock


def settled(run: Callable[[Event], None], clock: FakeClock | None = None) -> tuple[WorkerState, list[str], FakeClock]:
    """Run one worker to its end: its state, whether a bug was told, the clock."""
    clock = clock or FakeClock()
    bugs: list[str] = []
    supervisor = Supervisor(clock, on_bug=lambda: bugs.append("bug"), jitter=lambda: 1.0)
    group = supervisor.group("frk")
    group.start("worker", run)
    assert group.join(Deadline(SystemClock(), 60)) == ()
    return group.states()[0], bugs, clock


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (SourceUnavailable("x"), Action.RESTART),
        (SlotBusy("x"), Action.RESTART),
        (StoreUnavailable("x"), Action.RESTART),
        (SourceRefused("x"), Action.PATIENT),
        (StoreDenied("x"), Action.PATIENT),
        (HostLacks("x"), Action.PATIENT),
        (KeysError("x"), Action.PATIENT),
        (NotFound("x"), Action.PATIENT),
        (ForeignSource("x"), Action.PATIENT),
        (UntrustedRepository("x"), Action.STOP),
        (IntegrityError("x"), Action.STOP),
        (Conflict("x"), Action.STOP),
        (UsageError("x"), Action.STOP),
    ],
)
def test_table_of_failures(error: ReplicatorError, action: Action) -> None:
    """The class of an error alone decides what follows."""
    assert action_for(error) is action


def test_retryable_failures_back_off_and_recover() -> None:
    """A worker that fails five times is run a sixth time, after waits that double."""
    runs = []

    def run(_stop: Event) -> None:
        runs.append(1)
        if len(runs) < 6:
            raise SourceUnavailable("away")

    state, bugs, clock = settled(run)
    assert len(runs) == 6
    assert clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert (state.phase, state.restarts, bugs) == (Phase.FINISHED, 5, [])


def test_waits_are_bounded() -> None:
    """Back-off never passes half a minute."""
    runs = []

    def run(_stop: Event) -> None:
        runs.append(1)
        if len(runs) < 20:
            raise SourceUnavailable("away")

    _, _, clock = settled(run)
    assert max(clock.waits) == 30.0


def test_what_no_retry_mends_stops_the_worker() -> None:
    """A conflict stops its worker at once and stays visible; it is no bug."""

    def run(_stop: Event) -> None:
        raise Conflict("two truths", hint="Look.")

    state, bugs, clock = settled(run)
    assert state.phase is Phase.STOPPED
    assert isinstance(state.error, Conflict)
    assert clock.waits == []
    assert bugs == []


def test_what_an_operator_mends_is_looked_at_again() -> None:
    """A host that lacks something is asked again every quarter of a minute."""
    runs = []

    def run(_stop: Event) -> None:
        runs.append(1)
        if len(runs) < 4:
            raise HostLacks("no room")

    state, _, clock = settled(run)
    assert clock.waits == [15.0] * 3
    assert state.phase is Phase.FINISHED


def test_a_bug_is_told() -> None:
    """An error that is none of ours is a bug: told once, the worker is not run again."""

    def run(_stop: Event) -> None:
        raise ValueError("oops")

    state, bugs, _ = settled(run)
    assert bugs == ["bug"]
    assert state.phase is Phase.STOPPED


def test_one_worker_s_failure_leaves_the_others() -> None:
    """Another group's worker goes on while one is stopped by a conflict."""
    clock = SystemClock()
    supervisor = Supervisor(clock, on_bug=lambda: None)
    sick, well = supervisor.group("frk"), supervisor.group("fed")

    def conflict(_stop: Event) -> None:
        raise Conflict("no")

    def until_stopped(stop: Event) -> None:
        stop.wait(30)

    well.start("receiver", until_stopped)
    sick.start("receiver", conflict)
    assert sick.join(Deadline(clock, 60)) == ()
    assert well.running()
    assert supervisor.stop(Deadline(clock, 60)) == ()
    assert not well.running()


def test_error_is_forgotten_once_it_runs_well() -> None:
    """After ten seconds without a failure the last error no longer shows."""
    clock = FakeClock()
    supervisor = Supervisor(clock, on_bug=lambda: None, jitter=lambda: 1.0)
    group = supervisor.group("frk")
    runs, second = [], Event()

    def run(stop: Event) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise SourceUnavailable("away")
        second.set()
        stop.wait(30)

    group.start("receiver", run)
    assert second.wait(60)
    assert group.states()[0].error is not None
    clock.pass_(11)
    assert group.states()[0].error is None
    assert supervisor.stop(Deadline(SystemClock(), 60)) == ()


def test_interrupted_is_an_end() -> None:
    """A worker that was interrupted has finished, without an error."""

    def run(_stop: Event) -> None:
        raise Interrupted("stop")

    state, bugs, _ = settled(run)
    assert (state.phase, state.error, bugs) == (Phase.FINISHED, None, [])


def test_thread_that_hangs_is_named() -> None:
    """Stopping waits no longer than its deadline and says who did not end."""
    supervisor = Supervisor(SystemClock(), on_bug=lambda: None)
    release = Event()

    def hang(_stop: Event) -> None:
        release.wait(30)

    supervisor.group("frk").start("shipper", hang)
    assert supervisor.stop(Deadline(SystemClock(), 0.05)) == ("frk/shipper",)
    release.set()


def test_error_of_a_start_that_succeeded_later_is_forgotten() -> None:
    """A worker whose work is done shows no error of the tries before: what it started may be well."""
    tries: list[int] = []

    def run(_: Event) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("store local is away")

    state, bugs, _ = settled(run)
    assert (len(tries), state.phase, state.error, bugs) == (3, Phase.FINISHED, None, [])
