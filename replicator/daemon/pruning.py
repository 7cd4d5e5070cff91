"""When the stores of one cluster are pruned: after each snapshot, and once a day for what has waited for its day.

Owns that decision, the child that prunes, and what its end means. One at a time, never beside a snapshot, a mirror or
a verification of this daemon; what a prune could not do is tried again, ever less often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Lock

from replicator.core.codes import code_of
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import Conflict, ReplicatorError, StoreUnavailable
from replicator.status.catalogs import StoreView, labels
from replicator.status.model import Problem, TaskStatus
from replicator.tolerance import Clock

KIND = "prune"
FIRST_RETRY_S, MOST_RETRY_S = 60.0, 3600.0
#: After the daemon's start, and after each prune, the next one is due at the latest.
FIRST_S, AGAIN_S = 3600.0, 25 * 3600.0
_TICK_S = 0.5


@dataclass
class PruneKeeper:
    """`views` gives what the stores hold, `busy` whether another task of the cluster is at work; `refresh` asks that
    the views be read anew; `command` is the child, empty where nothing is pruned from here.
    """

    cluster: str
    command: Sequence[str]
    clock: Clock
    views: Callable[[], Mapping[str, StoreView]]
    busy: Callable[[], bool]
    refresh: Callable[[], None]

    def __post_init__(self) -> None:
        self._log = get_logger(__name__).bind(cluster=self.cluster)
        self._lock = Lock()
        self._wanted: str | None = None
        self._task: Task | None = None
        self._newest: str | None = None
        self._failures = 0
        self._not_before = self.clock.monotonic()
        self._due_at = self._not_before + FIRST_S
        self._problem: Problem | None = None

    def request(self, reason: str) -> None:
        """Ask for a prune; any thread."""
        with self._lock:
            if self._wanted is not None:
                return
            self._wanted = reason
        self._log.info(events.PRUNE_REQUESTED, reason=reason)

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        task = self._task
        return task.status() if task is not None else None

    def problem(self) -> Problem | None:
        """Why the last prune failed, until one ends well."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker; ends at once where nothing is pruned from here."""
        while self.command and not self.clock.wait(stop, _TICK_S):
            self._look()
            if self._wanted is not None and self.clock.monotonic() >= self._not_before and not self.busy():
                self._prune(stop)

    def _look(self) -> None:
        """Ask for a prune where a snapshot has come since the last one, or a day has passed."""
        views = [view for view in self.views().values() if view.read_at is not None]
        newest = max(labels(views), default="")
        if views and self._newest is not None and newest > self._newest:
            self.request("snapshot")
        if views:
            self._newest = newest
        if self.clock.monotonic() >= self._due_at:
            self.request("daily")

    def _prune(self, stop: Event) -> None:
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
        self._due_at = self.clock.monotonic() + AGAIN_S
        self._judge(end)
        self.refresh()

    def _started(self, pid: int) -> None:
        self._log.info(events.TASK_STARTED, kind=KIND, pid=pid)

    def _judge(self, end: TaskEnd) -> None:
        if end.stopped:
            self._log.info(events.TASK_STOPPED, kind=KIND, exit_code=end.exit_code)
            return
        self._problem = problem_of(end)
        if end.exit_code == 0:
            self._failures = 0
            stores = (end.result or {}).get("stores")
            self._log.info(events.TASK_ENDED, kind=KIND, elapsed_s=round(end.elapsed_s, 1), result=stores)
            return
        error = end.error or {}
        self._log.error(
            events.TASK_FAILED,
            kind=KIND,
            exit_code=end.exit_code,
            error=error.get("message") or (self._problem.text if self._problem is not None else None),
            hint=error.get("hint"),
            silent=(end.result or {}).get("silent"),
            stderr=list(end.stderr),
        )
        self._not_before = self.clock.monotonic() + min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self.request("retry")


def problem_of(end: TaskEnd) -> Problem | None:
    """What a child's end means for status; None when all is well, when a store is away (status says that already), and
    when somebody else prunes.
    """
    error = end.error or {}
    if end.exit_code == 0 or error.get("type") == Conflict.__name__:
        return None
    if error:
        text = f"the last prune failed: {error.get('message', '')}"
        return Problem(code_of(str(error.get("type", ""))), text, str(error.get("hint", "")))
    if end.result is not None:
        return _of_result(end.result)
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    how = "no word for too long" if end.silent else how
    return Problem("task_failed", f"the last prune ended with {how}", "See the daemon's log for its last lines.")


def _of_result(result: Mapping[str, object]) -> Problem | None:
    findings = result.get("findings")
    for finding in findings if isinstance(findings, list) else ():
        if finding.get("affects") is not None:
            return Problem(str(finding["code"]), str(finding["text"]), str(finding.get("hint") or ""))
    silent = result.get("silent")
    for name, error in silent.items() if isinstance(silent, dict) else ():
        if error.get("type") != StoreUnavailable.__name__:
            text = f"store {name} could not be pruned: {error.get('message', '')}"
            return Problem(code_of(str(error.get("type", ""))), text, str(error.get("hint") or ""))
    return None
