"""When the stores of one cluster are pruned: after each snapshot, and once a day for what has waited for its day.

Owns that decision, the child that prunes, and what its end means. One at a time, never beside a snapshot, a mirror or
a verification of this daemon; what a prune could not do is tried again, ever less often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

from replicator.core.codes import code_of
from replicator.daemon import events
from replicator.daemon.errand import TICK_S, Errand, failure
from replicator.daemon.tasks import TaskEnd
from replicator.errors import Conflict, StoreUnavailable
from replicator.status.catalogs import StoreView, labels
from replicator.status.model import Problem, TaskStatus
from replicator.tolerance import Clock

KIND = "prune"
#: After the daemon's start, and after each prune, the next one is due at the latest.
FIRST_S, AGAIN_S = 3600.0, 25 * 3600.0


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
        self._errand = Errand(KIND, events.PRUNE_REQUESTED, self.cluster, self.clock)
        self._newest: str | None = None
        self._due_at = self.clock.monotonic() + FIRST_S
        self._problem: Problem | None = None

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        return self._errand.task()

    def problem(self) -> Problem | None:
        """Why the last prune failed, until one ends well."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker; ends at once where nothing is pruned from here."""
        while self.command and not self.clock.wait(stop, TICK_S):
            self._look()
            if self._errand.due and not self.busy():
                self._prune(stop)

    def _look(self) -> None:
        """Ask for a prune where a snapshot has come since the last one, or a day has passed."""
        views = [view for view in self.views().values() if view.read_at is not None]
        newest = max(labels(views), default="")
        if views and self._newest is not None and newest > self._newest:
            self._errand.request("snapshot")
        if views:
            self._newest = newest
        if self.clock.monotonic() >= self._due_at:
            self._errand.request("daily")

    def _prune(self, stop: Event) -> None:
        end = self._errand.run(self.command, stop)
        self._due_at = self.clock.monotonic() + AGAIN_S
        self._judge(end)
        self.refresh()

    def _judge(self, end: TaskEnd) -> None:
        if not end.stopped:
            self._problem = problem_of(end)
        result = end.result or {}
        self._errand.tell(end, result.get("stores"), self._problem, silent=result.get("silent"))
        if end.stopped:
            return
        if end.exit_code == 0:
            self._errand.went_well()
        else:
            self._errand.again()


def problem_of(end: TaskEnd) -> Problem | None:
    """What a child's end means for status; None when all is well, when a store is away (status says that already), and
    when somebody else prunes.
    """
    if end.exit_code == 0 or (end.error or {}).get("type") == Conflict.__name__:
        return None
    return _of_result(end.result) if end.result is not None and not end.error else failure(end, "prune")


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
