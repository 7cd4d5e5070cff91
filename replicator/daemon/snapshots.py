"""When a snapshot of one cluster is taken: by the schedule, for a run that was missed, and for an open gap.

Owns that decision, the child that takes it, and what its end means. One at a time; a request made meanwhile counts
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any, Protocol

from replicator.core.lsn import Lsn
from replicator.core.windows import Gap
from replicator.daemon import events
from replicator.daemon.errand import TICK_S, Errand, failure
from replicator.daemon.log import get_logger
from replicator.daemon.scheduler import missed
from replicator.daemon.tasks import TaskEnd
from replicator.policy import Schedule
from replicator.status.catalogs import StoreView, labels, open_gaps
from replicator.status.model import REMARK, Problem, TaskStatus
from replicator.status.windows import gap_json
from replicator.tolerance import Clock

KIND = "snapshot"
FIRST_RETRY_S, MOST_RETRY_S = 15.0, 1800.0


class Stream(Protocol):
    """What it asks of the cluster's stream."""

    def streaming(self) -> bool:
        """Whether WAL arrives now: a snapshot would fail at once without."""
        ...

    def strained(self) -> bool:
        """Whether the slot is in danger, or no store takes: a snapshot would only be one more load."""
        ...

    def gaps(self) -> frozenset[Gap]:
        """Gaps that the stream itself met since it started."""
        ...

    def cut(self, lsn: Lsn) -> None:
        """Ask for a piece that ends at or after `lsn`, now."""
        ...


@dataclass
class SnapshotKeeper:
    """`views` gives what the stores hold; `refresh` asks that they be read anew."""

    cluster: str
    schedule: Schedule | None
    command: Sequence[str]
    clock: Clock
    stream: Stream
    views: Callable[[], Mapping[str, StoreView]]
    refresh: Callable[[], None]

    def __post_init__(self) -> None:
        self._log = get_logger(__name__).bind(cluster=self.cluster)
        self._errand = Errand(
            KIND, events.SNAPSHOT_REQUESTED, self.cluster, self.clock,
            first_retry_s=FIRST_RETRY_S, most_retry_s=MOST_RETRY_S,
        )  # fmt: skip
        self._taking: str | None = None
        self._ended_at: datetime | None = None
        self._looked_back = False
        self._answered: frozenset[Gap] = frozenset()
        # Open gaps that a snapshot was taken for already, and when those alone are a reason for another one.
        self._tried: frozenset[tuple[int, str]] = frozenset()
        self._tries = 0
        self._again_at = self.clock.monotonic()
        self._problem: Problem | None = None

    def request(self, reason: str) -> None:
        """Ask for a snapshot; any thread."""
        self._errand.request(reason)

    def owed(self) -> str | None:
        """Why a snapshot is still to be taken: asked for, or cut short by a stop; None when none is."""
        return self._errand.wanted or self._taking

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        return self._errand.task()

    def problem(self) -> Problem | None:
        """Why the last snapshot failed, until one succeeds."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker."""
        while not self.clock.wait(stop, TICK_S):
            self._look()
            if self._errand.due and self._may_start():
                self._take(stop)

    def _may_start(self) -> bool:
        return self.stream.streaming() and not self.stream.strained()

    def _look(self) -> None:
        """Ask for a snapshot where one is due."""
        views = self.views()
        read = [view for view in views.values() if view.read_at is not None]
        if not read:
            return
        if not self._looked_back:
            self._looked_back = True
            self._look_back(read)
        fresh = [view for view in read if self._ended_at is None or _after(view.read_at, self._ended_at)]
        self._look_for_gaps(fresh)

    def _look_for_gaps(self, views: Sequence[StoreView]) -> None:
        """A gap is answered at once. One that its snapshot did not close (a store that lists but takes nothing) is
        answered again ever less often: base backups must not follow each other without a pause.
        """
        met, held = self.stream.gaps() - self._answered, open_gaps(views)
        if views and not held:
            self._tried, self._tries = frozenset(), 0
        if self._errand.wanted is not None or not (met or held):
            return
        if met or _places(held) - self._tried or self.clock.monotonic() >= self._again_at:
            self._log.warning(events.GAP_FOUND, gaps=[*held, *map(gap_json, met)])
            self._errand.request("gap")

    def _look_back(self, views: Sequence[StoreView]) -> None:
        """A run that was missed while the daemon was down is made up once."""
        if self.schedule is None:
            return
        taken = labels(views)
        newest = datetime.strptime(taken[-1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if taken else None
        if missed(self.schedule, newest, self.clock.now()):
            self._errand.request("missed" if newest is not None else "first")

    def _take(self, stop: Event) -> None:
        self._taking = self._errand.wanted
        met, held = self.stream.gaps(), _places(open_gaps(self.views().values()))
        try:
            end = self._errand.run(self.command, stop, self._facts)
        finally:
            self._ended_at = self.clock.now()
        if end.result is not None:
            self._answered |= met
            self._tried |= held
            self._again_at = self.clock.monotonic() + self._errand.pause_s(self._tries)
            self._tries += 1
        self._judge(end)
        self.refresh()

    def _facts(self, facts: dict[str, Any]) -> None:
        if isinstance(facts.get("stop_lsn"), str):
            self.stream.cut(Lsn.parse(facts["stop_lsn"]))
        if isinstance(facts.get("warning"), str):
            self._log.warning(events.TASK_WARNING, kind="snapshot", text=facts["warning"], hint=facts.get("hint", ""))

    def _judge(self, end: TaskEnd) -> None:
        if not end.stopped:
            self._taking, self._problem = None, problem_of(end)
        self._errand.tell(end, end.result, self._problem, findings=(end.result or {}).get("findings"))
        if end.stopped:
            return
        if end.result is not None:  # taken, if not everywhere or not without remarks
            self._errand.went_well()
        else:
            self._errand.again()


def problem_of(end: TaskEnd) -> Problem | None:
    """What a child's end means for status; None when all is well. What it found and ended well is a remark."""
    findings = (end.result or {}).get("findings") or []
    if end.exit_code == 0:
        return _problem(findings[0], REMARK) if findings else None
    if end.error or not findings:
        return failure(end, "snapshot")
    return _problem(findings[0], str(findings[0].get("code", "")))


def _problem(finding: Mapping[str, Any], code: str) -> Problem:
    return Problem(code, str(finding.get("text", "")), str(finding.get("hint") or ""))


def _places(gaps: Iterable[Mapping[str, Any]]) -> frozenset[tuple[int, str]]:
    return frozenset((gap["timeline"], gap["start_lsn"]) for gap in gaps)


def _after(moment: datetime | None, other: datetime) -> bool:
    return moment is not None and moment > other
