"""When a snapshot of one cluster is taken: by the schedule, for a run that was missed, and for an open gap.

Owns that decision, the child that takes it, and what its end means. One at a time; a request made meanwhile counts
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock
from typing import Any, Protocol

from replicator.core.codes import code_of
from replicator.core.lsn import Lsn
from replicator.core.windows import Gap
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.scheduler import missed
from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import ReplicatorError
from replicator.policy import Schedule
from replicator.status.catalogs import StoreView, labels, open_gaps
from replicator.status.model import Problem, TaskStatus
from replicator.status.windows import gap_json
from replicator.tolerance import Clock

KIND = "snapshot"
FIRST_RETRY_S, MOST_RETRY_S = 15.0, 1800.0
_TICK_S = 0.5


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
        self._lock = Lock()
        self._wanted: str | None = None
        self._taking: str | None = None
        self._task: Task | None = None
        self._failures = 0
        self._not_before = self.clock.monotonic()
        self._ended_at: datetime | None = None
        self._looked_back = False
        self._answered: frozenset[Gap] = frozenset()
        # Open gaps that a snapshot was taken for already, and when those alone are a reason for another one.
        self._tried: frozenset[tuple[int, str]] = frozenset()
        self._tries = 0
        self._again_at = self._not_before
        self._problem: Problem | None = None

    def request(self, reason: str) -> None:
        """Ask for a snapshot; any thread."""
        with self._lock:
            if self._wanted is not None:
                return
            self._wanted = reason
        self._log.info(events.SNAPSHOT_REQUESTED, reason=reason)

    def owed(self) -> str | None:
        """Why a snapshot is still to be taken: asked for, or cut short by a stop; None when none is."""
        return self._wanted or self._taking

    def task(self) -> TaskStatus | None:
        """The child at work, if one is."""
        task = self._task
        return task.status() if task is not None else None

    def problem(self) -> Problem | None:
        """Why the last snapshot failed, until one succeeds."""
        return self._problem

    def run(self, stop: Event) -> None:
        """The worker."""
        while not self.clock.wait(stop, _TICK_S):
            self._look()
            if self._wanted is not None and self.clock.monotonic() >= self._not_before and self._may_start():
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
        if self._wanted is not None or not (met or held):
            return
        if met or _places(held) - self._tried or self.clock.monotonic() >= self._again_at:
            self._log.warning(events.GAP_FOUND, gaps=[*held, *map(gap_json, met)])
            self.request("gap")

    def _look_back(self, views: Sequence[StoreView]) -> None:
        """A run that was missed while the daemon was down is made up once."""
        if self.schedule is None:
            return
        taken = labels(views)
        newest = datetime.strptime(taken[-1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if taken else None
        if missed(self.schedule, newest, self.clock.now()):
            self.request("missed" if newest is not None else "first")

    def _take(self, stop: Event) -> None:
        with self._lock:
            reason, self._wanted = self._wanted, None
            self._taking = reason
        met, held = self.stream.gaps(), _places(open_gaps(self.views().values()))
        self._task = Task(KIND, self.command, self.clock, self._facts, self._started)
        try:
            end = self._task.run(stop)
        except ReplicatorError:
            self.request(reason or "retry")  # the worker is run again, and what was asked for still is
            raise
        finally:
            self._task = None
            self._ended_at = self.clock.now()
        if end.result is not None:
            self._answered |= met
            self._tried |= held
            self._again_at = self.clock.monotonic() + _pause(self._tries)
            self._tries += 1
        self._judge(end)
        self.refresh()

    def _facts(self, facts: dict[str, Any]) -> None:
        if isinstance(facts.get("stop_lsn"), str):
            self.stream.cut(Lsn.parse(facts["stop_lsn"]))

    def _started(self, pid: int) -> None:
        self._log.info(events.TASK_STARTED, kind=KIND, pid=pid)

    def _judge(self, end: TaskEnd) -> None:
        if end.stopped:
            self._log.info(events.TASK_STOPPED, kind=KIND, exit_code=end.exit_code)
            return
        self._taking = None
        error = end.error or {}
        if end.exit_code == 0:
            self._log.info(events.TASK_ENDED, kind=KIND, elapsed_s=round(end.elapsed_s, 1), result=end.result)
        else:
            self._log.error(
                events.TASK_FAILED,
                kind=KIND,
                exit_code=end.exit_code,
                error=error.get("message"),
                hint=error.get("hint"),
                findings=(end.result or {}).get("findings"),
                stderr=list(end.stderr),
            )
        self._problem = problem_of(end)
        if end.result is not None:  # taken, if not everywhere or not without remarks
            self._failures = 0
            return
        self._not_before = self.clock.monotonic() + _pause(self._failures)
        self._failures += 1
        self.request("retry")


def problem_of(end: TaskEnd) -> Problem | None:
    """What a child's end means for status; None when all is well."""
    if end.exit_code == 0:
        return None
    error = end.error or {}
    if error:
        return Problem(
            code_of(str(error.get("type", ""))),
            f"the last snapshot failed: {error.get('message', '')}",
            str(error.get("hint", "")),
        )
    findings = (end.result or {}).get("findings") or []
    if findings:
        first = findings[0]
        return Problem(str(first.get("code", "")), str(first.get("text", "")), str(first.get("hint") or ""))
    how = f"signal {-end.exit_code}" if end.exit_code < 0 else f"exit code {end.exit_code}"
    if end.silent:
        how = "no word for too long"
    return Problem("task_failed", f"the last snapshot ended with {how}", "See the daemon's log for its last lines.")


def _pause(failures: int) -> float:
    return min(MOST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(failures, 16))


def _places(gaps: Iterable[Mapping[str, Any]]) -> frozenset[tuple[int, str]]:
    return frozenset((gap["timeline"], gap["start_lsn"]) for gap in gaps)


def _after(moment: datetime | None, other: datetime) -> bool:
    return moment is not None and moment > other
