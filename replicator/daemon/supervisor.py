"""The supervisor owns every thread: none outlives it, and no error of one gets lost.

A worker is a name and a callable that runs until its stop event is set. What happens after a failure is decided here,
by the error's class alone (`Action`), and nowhere else.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from threading import Event, Lock, Thread

from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.errors import (
    ForeignSource,
    HostLacks,
    Interrupted,
    KeysError,
    NotFound,
    ReplicatorError,
    SourceUnavailable,
    StoreUnavailable,
    UntrustedRepository,
)
from replicator.tolerance import Clock, Deadline

Run = Callable[[Event], None]

FIRST_WAIT_S, MOST_WAIT_S, PATIENT_WAIT_S = 0.5, 30.0, 15.0
#: A worker that ran this long without failing runs well: its last error is forgotten.
WELL_AFTER_S = 10.0


class Phase(StrEnum):
    """What a worker does now."""

    RUNNING = "running"
    WAITING = "waiting"
    STOPPED = "stopped"
    FINISHED = "finished"


class Action(StrEnum):
    """What follows a failure. RESTART: soon, with back-off. PATIENT: nothing here can mend it, an operator may (start
    the server, correct its address, run `init`, free the disk), so look again every quarter of a minute. STOP: a retry
    could only do harm.
    """

    RESTART = "restart"
    PATIENT = "patient"
    STOP = "stop"


def action_for(error: ReplicatorError) -> Action:
    """The table of failures."""
    if error.retryable:
        return Action.RESTART
    if isinstance(error, UntrustedRepository):
        return Action.STOP
    if isinstance(error, SourceUnavailable | ForeignSource | StoreUnavailable | HostLacks | KeysError | NotFound):
        return Action.PATIENT
    return Action.STOP


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker as status shows it. `error` is the last failure, until it ran well again."""

    name: str
    group: str
    phase: Phase
    since: datetime
    restarts: int = 0
    error: ReplicatorError | None = None


class Supervisor:
    """All groups. `on_bug` is told once when a worker raised what is no ReplicatorError; it must only set a flag."""

    def __init__(
        self, clock: Clock, *, on_bug: Callable[[], None], jitter: Callable[[], float] = random.random
    ) -> None:
        self.clock = clock
        self.on_bug = on_bug
        self.jitter = jitter
        self._lock = Lock()
        self._groups: list[Group] = []

    def group(self, name: str) -> Group:
        """A new group of workers that stop together; its name is the cluster's, or empty for the daemon's own."""
        group = Group(name, self)
        with self._lock:
            self._groups.append(group)
        return group

    def forget(self, group: Group) -> None:
        """A group whose workers have all ended is no longer asked."""
        with self._lock:
            self._groups = [known for known in self._groups if known is not group]

    def states(self) -> tuple[WorkerState, ...]:
        """Every worker. The daemon's loop asks regularly: that is how a recovery gets said."""
        with self._lock:
            groups = list(self._groups)
        return tuple(state for group in groups for state in group.states())

    def stop(self, deadline: Deadline) -> tuple[str, ...]:
        """Ask all to stop and wait for them; the names of those that did not end in time."""
        with self._lock:
            groups = list(self._groups)
        for group in groups:
            group.stop.set()
        return tuple(name for group in groups for name in group.join(deadline))


class Group:
    """Workers with one stop event."""

    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self.name = name
        self.stop = Event()
        self._supervisor = supervisor
        self._lock = Lock()
        self._workers: list[_Worker] = []

    def start(self, name: str, run: Run) -> None:
        """Start a worker, unless the group is stopping already."""
        if self.stop.is_set():
            return
        worker = _Worker(name, run, self, self._supervisor)
        with self._lock:  # who joins finds only threads that were started
            worker.thread.start()
            self._workers.append(worker)

    def states(self) -> tuple[WorkerState, ...]:
        """Its workers."""
        with self._lock:
            return tuple(worker.seen() for worker in self._workers)

    def running(self) -> bool:
        """Whether any of its workers has not ended."""
        with self._lock:
            return any(worker.thread.is_alive() for worker in self._workers)

    def join(self, deadline: Deadline) -> tuple[str, ...]:
        """Wait for its workers; the names of those still alive."""
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.thread.join(deadline.remaining())
        return tuple(f"{self.name}/{worker.name}" for worker in workers if worker.thread.is_alive())


class _Worker:
    def __init__(self, name: str, run: Run, group: Group, supervisor: Supervisor) -> None:
        self.name = name
        self._run = run
        self._group = group
        self._clock = supervisor.clock
        self._supervisor = supervisor
        self._log = get_logger(__name__).bind(**({"cluster": group.name} if group.name else {}), worker=name)
        self._began = self._clock.monotonic()
        self._failures = 0
        self._lock = Lock()
        self._state = WorkerState(name, group.name, Phase.RUNNING, self._clock.now())
        # A thread that hangs in a call must not keep the process from ending after its deadline.
        self.thread = Thread(target=self._main, name=f"{group.name}/{name}", daemon=True)

    def seen(self) -> WorkerState:
        """Its state; an error is forgotten once it runs well."""
        with self._lock:
            well = self._state.phase is Phase.RUNNING and self._clock.monotonic() - self._began >= WELL_AFTER_S
            if well:
                self._forget()
            return self._state

    def _main(self) -> None:
        stop = self._group.stop
        while not stop.is_set():
            self._began = self._clock.monotonic()
            self._enter(Phase.RUNNING)
            try:
                self._run(stop)
            except Interrupted:
                break
            except ReplicatorError as error:
                if not self._failed(error):
                    return
            except BaseException:  # noqa: BLE001 a bug ends the daemon, wherever it is
                self._enter(Phase.STOPPED)
                self._log.exception(events.BUG)
                self._supervisor.on_bug()
                return
            else:
                if not stop.is_set():  # its work is done
                    with self._lock:
                        self._forget()
                break
        self._enter(Phase.FINISHED)

    def _forget(self) -> None:
        """What failed before is of the past. The lock is held."""
        if self._state.error is not None:
            self._state = replace(self._state, error=None)
            self._log.info(events.WORKER_RECOVERED)

    def _failed(self, error: ReplicatorError) -> bool:
        """Whether the worker is to run again; waits first."""
        action = action_for(error)
        if self._clock.monotonic() - self._began >= WELL_AFTER_S:
            self._failures = 0
        if action is Action.STOP:
            self._enter(Phase.STOPPED, error)
            self._log.error(events.WORKER_STOPPED, error=error.message, hint=error.hint, type=error.type)
            return False
        seconds = PATIENT_WAIT_S if action is Action.PATIENT else min(MOST_WAIT_S, FIRST_WAIT_S * 2**self._failures)
        seconds *= 0.5 + self._supervisor.jitter() / 2
        told = self._state.error
        again = told is not None and type(told) is type(error) and self._failures
        self._log.log(
            logging.DEBUG if again else logging.WARNING,
            events.WORKER_FAILED,
            error=error.message,
            hint=error.hint,
            type=error.type,
            retry_s=round(seconds, 1),
        )
        self._failures = min(self._failures + 1, 16)
        self._enter(Phase.WAITING, error)
        self._clock.wait(self._group.stop, seconds)
        return True

    def _enter(self, phase: Phase, error: ReplicatorError | None = None) -> None:
        with self._lock:
            restarts = self._state.restarts + (phase is Phase.WAITING)
            told = error if error is not None else self._state.error
            since = self._state.since if phase is self._state.phase else self._clock.now()
            self._state = replace(self._state, phase=phase, error=told, since=since, restarts=restarts)
