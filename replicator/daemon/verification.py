"""When one cluster's repository is verified: by the schedule, and once for a run that was missed.

Owns that decision, the child that verifies, and what its end means. One at a time; a request made meanwhile counts
once. What a verification finds is in the records that the child keeps, and in status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

from replicator.daemon import events
from replicator.daemon.errand import TICK_S, Errand, failure
from replicator.daemon.scheduler import missed
from replicator.daemon.tasks import TaskEnd
from replicator.policy import Schedule
from replicator.status.catalogs import StoreView, labels
from replicator.status.model import Problem, TaskStatus
from replicator.status.proofs import failed_problem
from replicator.tolerance import Clock

KIND = "verify"


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
        self._errand = Errand(KIND, events.VERIFICATION_REQUESTED, self.cluster, self.clock)
        self._looked_back = self.schedule is None
        self._problems: tuple[Problem, ...] = ()

    def request(self, reason: str) -> None:
        """Ask for a verification; any thread."""
        self._errand.request(reason)

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        return self._errand.task()

    def problems(self) -> tuple[Problem, ...]:
        """What the last verification of this daemon means, until another one ends."""
        return self._problems

    def run(self, stop: Event) -> None:
        """The worker."""
        while not self.clock.wait(stop, TICK_S):
            if not self._looked_back:
                self._look_back()
            if self._errand.due:
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
        self._judge(self._errand.run(self.command, stop))
        self.refresh()

    def _judge(self, end: TaskEnd) -> None:
        if not end.stopped:
            self._problems = problems_of(end)
        first = next(iter(self._problems), None)
        self._errand.tell(end, _sums(end.result), first, findings=[problem.text for problem in self._problems])
        if end.stopped:
            return
        if end.result is not None:  # it ran: what it found is for people
            self._errand.went_well()
        else:
            self._errand.again()


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
    return (failure(end, "verification"),)


def _sums(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was checked, by level."""
    return {name: level.get("checked") for name, level in dict((result or {}).get("levels") or {}).items()}
