"""When the stores of one cluster are mirrored: when one is back after having been left alone, and when one lacks
snapshots that another has.

Owns that decision, the child that mirrors, and what its end means. One at a time; a request made meanwhile counts once.
What a mirror could not complete is tried again, ever less often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Lock

from replicator.core.codes import code_of
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import Conflict, ReplicatorError
from replicator.status.catalogs import StoreView
from replicator.status.model import Problem, TaskStatus
from replicator.tolerance import BreakerState, BreakerStatistics, Clock

KIND = "mirror"
FIRST_RETRY_S, MOST_RETRY_S = 60.0, 3600.0
#: A snapshot reaches the stores one after another, and is pruned from them so: what is missing for so long is missing.
SETTLED_S = 90.0
_TICK_S = 0.5

Lack = frozenset[tuple[str, int, str]]


@dataclass
class MirrorKeeper:
    """`breakers` gives what each store's breaker went through, `views` what the stores hold, `busy` whether a snapshot
    is being taken; `refresh` asks that the views be read anew; `command` is the child.
    """

    cluster: str
    command: Sequence[str]
    clock: Clock
    breakers: Callable[[], Mapping[str, BreakerStatistics]]
    views: Callable[[], Mapping[str, StoreView]]
    busy: Callable[[], bool]
    refresh: Callable[[], None]

    def __post_init__(self) -> None:
        self._log = get_logger(__name__).bind(cluster=self.cluster)
        self._lock = Lock()
        self._wanted: str | None = None
        self._task: Task | None = None
        self._opened: dict[str, int] = {}
        self._since: dict[tuple[str, int, str], float] = {}
        # What a mirror was run for already, and when that alone is a reason for another one.
        self._tried: Lack = frozenset()
        self._tries = 0
        self._again_at = self._not_before = self.clock.monotonic()
        self._problem: Problem | None = None

    def request(self, reason: str) -> None:
        """Ask for a mirror; any thread."""
        with self._lock:
            if self._wanted is not None:
                return
            self._wanted = reason
        self._log.info(events.MIRROR_REQUESTED, reason=reason)

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        task = self._task
        return task.status() if task is not None else None

    def problem(self) -> Problem | None:
        """What is wrong with the last mirror, until one ends well."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker; ends at once where there is nothing to mirror."""
        while self.command and not self.clock.wait(stop, _TICK_S):
            self._look()
            if self._wanted is not None and self.clock.monotonic() >= self._not_before and not self.busy():
                self._mirror(stop)

    def _look(self) -> None:
        """Ask for a mirror where one is due."""
        for name, breaker in self.breakers().items():
            if breaker.opened > self._opened.get(name, 0) and breaker.state is BreakerState.CLOSED:
                self._opened[name] = breaker.opened
                self.request("back")
        lack = self._settled(lacking(self.views()))
        if not lack:
            self._tried, self._tries = frozenset(), 0
        elif self._wanted is None and (lack - self._tried or self.clock.monotonic() >= self._again_at):
            self.request("lacking")

    def _settled(self, lack: Lack) -> Lack:
        """What has been missing for a while."""
        now = self.clock.monotonic()
        self._since = {place: self._since.get(place, now) for place in lack}
        return frozenset(place for place, since in self._since.items() if now - since >= SETTLED_S)

    def _mirror(self, stop: Event) -> None:
        with self._lock:
            reason, self._wanted = self._wanted, None
        lack = frozenset(self._since)
        self._task = Task(KIND, self.command, self.clock, lambda _: None, self._started)
        try:
            end = self._task.run(stop)
        except ReplicatorError:
            self.request(reason or "retry")  # the worker is run again, and what was asked for still is
            raise
        finally:
            self._task = None
        self._tried |= lack
        self._tries += 1
        pause = min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._tries - 1, 16))
        # What is lacking still may be what retention took elsewhere: then there was nothing to copy.
        self._again_at = self.clock.monotonic() + pause
        self._not_before = self._again_at if end.exit_code else self.clock.monotonic()
        self._judge(end)
        self.refresh()

    def _started(self, pid: int) -> None:
        self._log.info(events.TASK_STARTED, kind=KIND, pid=pid)

    def _judge(self, end: TaskEnd) -> None:
        if end.stopped:
            self._log.info(events.TASK_STOPPED, kind=KIND, exit_code=end.exit_code)
            return
        self._problem = problem_of(end)
        if self._problem is None:
            stores = (end.result or {}).get("stores")
            self._log.info(events.TASK_ENDED, kind=KIND, elapsed_s=round(end.elapsed_s, 1), result=stores)
            return
        self._log.error(
            events.TASK_FAILED,
            kind=KIND,
            exit_code=end.exit_code,
            error=self._problem.text,
            hint=self._problem.hint,
            stderr=list(end.stderr),
        )
        if end.result is None:
            self.request("retry")


def lacking(views: Mapping[str, StoreView]) -> Lack:
    """(store, system id, label) of each snapshot that a store lacks and another has, by stores that answer now."""
    held = {
        name: {(snapshot.system_id, snapshot.label) for snapshot in view.snapshots}
        for name, view in views.items()
        if view.read_at is not None and view.error is None
    }
    everything = {place for places in held.values() for place in places}
    return frozenset((name, *place) for name, places in held.items() for place in everything - places)


def problem_of(end: TaskEnd) -> Problem | None:
    """What a child's end means for status; None when all is well, when a store is away (status says that already), and
    when somebody else mirrors.
    """
    error = end.error or {}
    if end.exit_code == 0 or error.get("type") == Conflict.__name__:
        return None
    if error:
        text = f"the last mirror failed: {error.get('message', '')}"
        return Problem(code_of(str(error.get("type", ""))), text, str(error.get("hint", "")))
    if end.result is not None:
        findings = end.result.get("findings") or []
        if not findings:
            return None
        first = findings[0]
        return Problem(str(first.get("code", "")), str(first.get("text", "")), str(first.get("hint") or ""))
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    how = "no word for too long" if end.silent else how
    return Problem("task_failed", f"the last mirror ended with {how}", "See the daemon's log for its last lines.")
