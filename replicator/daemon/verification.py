"""When one cluster's repository is verified: by the schedule, and once for a run that was missed.

Owns that decision, the child that verifies, and what its end means. One at a time; a request made meanwhile counts
once. What a verification finds is in the records that the child keeps, and in status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any

from replicator.core.codes import code_of
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.scheduler import missed
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import ReplicatorError
from replicator.policy import Schedule
from replicator.status.catalogs import StoreView, labels
from replicator.status.model import Problem, TaskStatus
from replicator.status.proofs import failed_problem
from replicator.tolerance import Clock

KIND = "verify"
FIRST_RETRY_S, MOST_RETRY_S = 60.0, 3600.0
_TICK_S = 0.5


@dataclass
class VerificationKeeper:
    """`views` gives what the stores hold; `refresh` asks that they be read anew; `command` is the child."""

    cluster: str
    schedule: Schedule | None
    command: Sequence[str]
    clock: Clock
    views: Callable[[], Mapping[str, StoreView]]
    refresh: Callable[[], None]

    def __post_init__(self) -> None:
        self._log = get_logger(__name__).bind(cluster=self.cluster)
        self._lock = Lock()
        self._wanted: str | None = None
        self._task: Task | None = None
        self._failures = 0
        self._not_before = self.clock.monotonic()
        self._looked_back = self.schedule is None
        self._problems: tuple[Problem, ...] = ()

    def request(self, reason: str) -> None:
        """Ask for a verification; any thread."""
        with self._lock:
            if self._wanted is not None:
                return
            self._wanted = reason
        self._log.info(events.VERIFICATION_REQUESTED, reason=reason)

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        task = self._task
        return task.status() if task is not None else None

    def problems(self) -> tuple[Problem, ...]:
        """What the last verification of this daemon means, until another one ends."""
        return self._problems

    def run(self, stop: Event) -> None:
        """The worker."""
        while not self.clock.wait(stop, _TICK_S):
            if not self._looked_back:
                self._look_back()
            if self._wanted is not None and self.clock.monotonic() >= self._not_before:
                self._verify(stop)

    def _look_back(self) -> None:
        """A run that was missed while the daemon was down is made up once."""
        views = self.views()
        if self.schedule is None or not views or any(view.read_at is None for view in views.values()):
            return  # the record may be in the store that has not answered yet
        self._looked_back = True
        last = last_run(views)
        if last is not None and missed(self.schedule, last, self.clock.now()):
            self.request("missed")

    def _verify(self, stop: Event) -> None:
        with self._lock:
            reason, self._wanted = self._wanted, None
        self._task = Task(KIND, self.command, self.clock, lambda _: None, self._started)
        try:
            end = self._task.run(stop)
        except ReplicatorError:
            self.request(reason or "retry")  # the worker is run again, and what was asked for still is
            raise
        finally:
            self._task = None
        self._judge(end)
        self.refresh()

    def _started(self, pid: int) -> None:
        self._log.info(events.TASK_STARTED, kind=KIND, pid=pid)

    def _judge(self, end: TaskEnd) -> None:
        if end.stopped:
            self._log.info(events.TASK_STOPPED, kind=KIND, exit_code=end.exit_code)
            return
        self._problems = problems_of(end)
        if end.exit_code == 0:
            self._log.info(events.TASK_ENDED, kind=KIND, elapsed_s=round(end.elapsed_s, 1), result=_sums(end.result))
        else:
            error = end.error or {}
            self._log.error(
                events.TASK_FAILED,
                kind=KIND,
                exit_code=end.exit_code,
                error=error.get("message"),
                hint=error.get("hint"),
                findings=[problem.text for problem in self._problems],
                stderr=list(end.stderr),
            )
        if end.result is not None:  # it ran: what it found is for people
            self._failures = 0
            return
        self._not_before = self.clock.monotonic() + min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self.request("retry")


def last_run(views: Mapping[str, StoreView]) -> datetime | None:
    """When the repository was last looked at; before the first time, since when there has been a snapshot."""
    ran = [record.time for view in views.values() for record in view.records if record.kind == "objects"]
    if ran:
        return max(ran)
    taken = labels(views.values())
    return datetime.strptime(taken[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if taken else None


def problems_of(end: TaskEnd) -> tuple[Problem, ...]:
    """What a child's end means for status; nothing when all is well."""
    if end.exit_code == 0:
        return ()
    if end.result is not None:
        levels = dict(end.result.get("levels") or {})
        found = (failed_problem(name, level.get("findings") or ()) for name, level in levels.items())
        return tuple(problem for problem in found if problem is not None)
    error = end.error or {}
    if error:
        text = f"the last verification failed: {error.get('message', '')}"
        return (Problem(code_of(str(error.get("type", ""))), text, str(error.get("hint", ""))),)
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    text = f"the last verification ended with {how}"
    return (Problem("task_failed", text, "See the daemon's log for its last lines."),)


def _sums(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was checked, by level."""
    return {name: level.get("checked") for name, level in dict((result or {}).get("levels") or {}).items()}
