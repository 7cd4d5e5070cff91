"""A long verb that a cluster wants run now and then: asked for, run as one child at a time, and tried again.

Owns the request, the child, the pauses between tries, and the log's lines about them. It never knows when the verb is
due nor what its result means: that is its keeper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any

from replicator.core.codes import code_of
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import ReplicatorError
from replicator.status.model import Problem, TaskStatus
from replicator.tolerance import Clock

#: How often a keeper's worker looks whether something is due, in seconds.
TICK_S = 1.0


class Errand:
    """One kind of child of one cluster. `requested` is the log's event for a request; the first retry comes after
    `first_retry_s`, each further one after twice as long, up to `most_retry_s`. A request made while one waits counts
    once. `request` and `task` may be called from any thread, everything else from the keeper's worker.
    """

    def __init__(
        self,
        kind: str,
        requested: str,
        cluster: str,
        clock: Clock,
        *,
        first_retry_s: float = 60.0,
        most_retry_s: float = 3600.0,
    ) -> None:
        self._kind, self._requested = kind, requested
        self._clock = clock
        self._first_retry_s, self._most_retry_s = first_retry_s, most_retry_s
        self._log = get_logger(__name__).bind(cluster=cluster)
        self._lock = Lock()
        self._wanted: str | None = None
        self._task: Task | None = None
        self._failures = 0
        self._not_before = clock.monotonic()

    @property
    def wanted(self) -> str | None:
        """Why it is asked for; None when it is not."""
        return self._wanted

    @property
    def due(self) -> bool:
        """Whether it is asked for, and the pause after a failure is over."""
        return self._wanted is not None and self._clock.monotonic() >= self._not_before

    def request(self, reason: str) -> None:
        """Ask for a run."""
        with self._lock:
            if self._wanted is not None:
                return
            self._wanted = reason
        self._log.info(self._requested, reason=reason)

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        task = self._task
        return task.status() if task is not None else None

    def run(
        self, command: Sequence[str], stop: Event, facts: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> TaskEnd:
        """Run the child to its end; `facts` as Task's. Raises HostLacks where it can't be started: the worker is run
        again, and what was asked for still is.
        """
        with self._lock:
            reason, self._wanted = self._wanted, None
        self._task = Task(self._kind, command, self._clock, facts, self._started)
        try:
            return self._task.run(stop)
        except ReplicatorError:
            self.request(reason or "retry")
            raise
        finally:
            self._task = None

    def _started(self, pid: int) -> None:
        self._log.info(events.TASK_STARTED, kind=self._kind, pid=pid)

    def pause_s(self, tries: int) -> float:
        """The pause after so many tries before, in seconds."""
        return min(self._most_retry_s, self._first_retry_s * 2.0 ** min(tries, 16))

    def again(self) -> None:
        """It failed: ask for another run, after a pause that grows."""
        self._not_before = self._clock.monotonic() + self.pause_s(self._failures)
        self._failures += 1
        self.request("retry")

    def put_off(self, until: float) -> None:
        """No run before `until` (monotonic), whoever asks."""
        self._not_before = until

    def went_well(self) -> None:
        """The next failure is the first again."""
        self._failures = 0

    def tell(self, end: TaskEnd, result: Any, problem: Problem | None, **more: Any) -> None:
        """Log how it ended: `result` of one that ended well, `problem` and `more` of one that did not."""
        if end.stopped:
            self._log.info(events.TASK_STOPPED, kind=self._kind, exit_code=end.exit_code)
            return
        if end.exit_code == 0:
            self._log.info(events.TASK_ENDED, kind=self._kind, elapsed_s=round(end.elapsed_s, 1), result=result)
            return
        error = end.error or {}
        self._log.error(
            events.TASK_FAILED,
            kind=self._kind,
            exit_code=end.exit_code,
            error=error.get("message") or (problem.text if problem is not None else None),
            hint=error.get("hint") or (problem.hint if problem is not None else None),
            **more,
            stderr=list(end.stderr),
        )


def failure(end: TaskEnd, noun: str) -> Problem:
    """What status says of a child that ended without a result: its own error, or how it ended."""
    if end.error:
        text = f"the last {noun} failed: {end.error.get('message', '')}"
        return Problem(code_of(str(end.error.get("type", ""))), text, str(end.error.get("hint", "")))
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    how = "no word for too long" if end.silent else how
    return Problem("task_failed", f"the last {noun} ended with {how}", "See the daemon's log for its last lines.")
