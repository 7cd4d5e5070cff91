"""When the stores of one cluster are mirrored: when one is back after having been left alone, and when one lacks
snapshots that another has.

Owns that decision, the child that mirrors, and what its end means. One at a time; a request made meanwhile counts once.
What a mirror could not complete is tried again, ever less often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

from replicator.daemon import events
from replicator.daemon.errand import TICK_S, Errand, failure
from replicator.daemon.tasks import TaskEnd
from replicator.errors import Conflict
from replicator.status.catalogs import StoreView
from replicator.status.model import Problem, TaskStatus
from replicator.tolerance import BreakerState, BreakerStatistics, Clock

KIND = "mirror"
#: A snapshot reaches the stores one after another, and is pruned from them so: what is missing for so long is missing.
SETTLED_S = 90.0

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
        self._errand = Errand(KIND, events.MIRROR_REQUESTED, self.cluster, self.clock)
        self._opened: dict[str, int] = {}
        self._since: dict[tuple[str, int, str], float] = {}
        # What a mirror was run for already, and when that alone is a reason for another one.
        self._tried: Lack = frozenset()
        self._tries = 0
        self._again_at = self.clock.monotonic()
        self._problem: Problem | None = None

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        return self._errand.task()

    def problem(self) -> Problem | None:
        """What is wrong with the last mirror, until one ends well."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker; ends at once where there is nothing to mirror."""
        while self.command and not self.clock.wait(stop, TICK_S):
            self._look()
            if self._errand.due and not self.busy():
                self._mirror(stop)

    def _look(self) -> None:
        """Ask for a mirror where one is due."""
        for name, breaker in self.breakers().items():
            if breaker.opened > self._opened.get(name, 0) and breaker.state is BreakerState.CLOSED:
                self._opened[name] = breaker.opened
                self._errand.request("back")
        lack = self._settled(lacking(self.views()))
        if not lack:
            self._tried, self._tries = frozenset(), 0
        elif self._errand.wanted is None and (lack - self._tried or self.clock.monotonic() >= self._again_at):
            self._errand.request("lacking")

    def _settled(self, lack: Lack) -> Lack:
        """What has been missing for a while."""
        now = self.clock.monotonic()
        self._since = {place: self._since.get(place, now) for place in lack}
        return frozenset(place for place, since in self._since.items() if now - since >= SETTLED_S)

    def _mirror(self, stop: Event) -> None:
        lack = frozenset(self._since)
        end = self._errand.run(self.command, stop)
        self._tried |= lack
        # What is lacking still may be what retention took elsewhere: then there was nothing to copy.
        self._again_at = self.clock.monotonic() + self._errand.pause_s(self._tries)
        self._tries += 1
        if end.exit_code:
            self._errand.put_off(self._again_at)
        self._judge(end)
        self.refresh()

    def _judge(self, end: TaskEnd) -> None:
        if not end.stopped:
            self._problem = problem_of(end)
        self._errand.tell(end, (end.result or {}).get("stores"), self._problem)
        if not end.stopped and self._problem is not None and end.result is None:
            self._errand.request("retry")


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
    if end.exit_code == 0 or (end.error or {}).get("type") == Conflict.__name__:
        return None
    if end.error or end.result is None:
        return failure(end, "mirror")
    findings = end.result.get("findings") or []
    if not findings:
        return None
    first = findings[0]
    return Problem(str(first.get("code", "")), str(first.get("text", "")), str(first.get("hint") or ""))
