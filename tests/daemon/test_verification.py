"""When a repository is verified: by the schedule, once for a missed run, and again when a child could not run."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.daemon.tasks import TaskEnd
from replicator.daemon.verification import VerificationKeeper, problems_of
from replicator.policy import Schedule
from replicator.repository.layout import RecordName
from replicator.repository.records import Record
from replicator.status.catalogs import StoreView
from tests.clock import FakeClock

_START = datetime(2026, 11, 22, tzinfo=UTC)
_LEVEL = {"ok": True, "checked": 3, "elapsed_s": 1.0, "findings": []}
_FOUND = {"code": "object_damaged", "text": "x is damaged", "hint": "Repair it.", "affects": "snapshot y"}


def record_of(moment: datetime) -> Record:
    """A record of `objects` of that moment."""
    return Record(RecordName(7, moment.strftime("%Y%m%dT%H%M%S%fZ"), "objects", "0" * 16), {"ok": True, "proven": {}})


class EndingClock(FakeClock):
    """Sets whatever event is waited for, once `end` is reached."""

    end = 0.0

    def wait(self, event: Event, seconds: float) -> bool:
        """As Clock."""
        if self.monotonic() >= self.end:
            event.set()
        return super().wait(event, seconds)


class World:
    """Stores that a keeper sees, and a child that ends with `code`."""

    def __init__(self, tmp_path: Path, *, code: int = 0, schedule: str | None = "0 4 * * *") -> None:
        self.clock = EndingClock()
        self.views = {"local": StoreView("local")}
        self.runs = tmp_path / "runs"
        self.refreshed = 0
        findings = [_FOUND] if code == 4 else []
        line: dict[str, Any] = {"event": "result", "result": {"levels": {"objects": {**_LEVEL, "findings": findings}}}}
        if code not in (0, 4):
            line = {"event": "error", "error": {"type": "StoreUnavailable", "message": "m", "hint": "h"}}
        program = f"open({str(self.runs)!r}, 'a').write('x')\nprint({json.dumps(line)!r})\nraise SystemExit({code})"
        parsed = Schedule.parse(schedule) if schedule else None
        self.keeper = VerificationKeeper(
            "frk", parsed, [sys.executable, "-c", program], self.clock, lambda: self.views, self._refresh
        )

    def _refresh(self) -> None:
        self.refreshed += 1

    def holds(self, record: datetime | None, snapshot: datetime | None = None) -> None:
        """The store was read and holds these."""
        snapshots = (
            () if snapshot is None else (Snapshot(snapshot.strftime("%Y%m%dT%H%M%SZ"), 7, 1, Lsn(2**24), Lsn(2**25)),)
        )
        self.views["local"] = StoreView(
            "local", _START, snapshots, records=() if record is None else (record_of(record),)
        )

    def run(self, seconds: float = 10.0) -> int:
        """Let the worker run so long; how often the child ran until now."""
        self.clock.end = self.clock.monotonic() + seconds
        self.keeper.run(Event())
        return len(self.runs.read_text()) if self.runs.exists() else 0


def test_a_missed_run_is_made_up_once(tmp_path: Path) -> None:
    """When the last record is older than the schedule's last time; not before every store has answered."""
    world = World(tmp_path)
    assert world.run() == 0
    world.holds(_START - timedelta(days=3))
    assert world.run() == 1
    assert world.run() == 1
    assert world.refreshed == 1


def test_nothing_is_missed_after_a_fresh_record(tmp_path: Path) -> None:
    """Whoever made it: cron on another host counts."""
    world = World(tmp_path)
    world.holds(_START - timedelta(hours=1), _START - timedelta(days=3))
    assert world.run() == 0


def test_before_the_first_record_the_first_snapshot_counts(tmp_path: Path) -> None:
    """A repository that has had a snapshot for longer than the schedule's period is verified; an empty one is not."""
    world = World(tmp_path)
    world.holds(None, _START - timedelta(hours=2))
    assert world.run() == 0
    late = World(tmp_path)
    late.holds(None, _START - timedelta(days=2))
    assert late.run() == 1
    (tmp_path / "runs").unlink()
    empty = World(tmp_path)
    empty.holds(None)
    assert empty.run() == 0


def test_without_a_schedule_it_runs_when_asked(tmp_path: Path) -> None:
    """Requests made meanwhile count once."""
    world = World(tmp_path, schedule=None)
    world.holds(None, _START - timedelta(days=20))
    assert world.run() == 0
    world.keeper.request("schedule")
    world.keeper.request("schedule")
    assert world.run() == 1
    assert world.keeper.problems() == ()


def test_what_it_finds_is_a_problem_and_no_reason_to_run_again(tmp_path: Path) -> None:
    """Damage does not go away by itself."""
    world = World(tmp_path, code=4)
    world.keeper.request("schedule")
    assert world.run(600) == 1
    assert [problem.code for problem in world.keeper.problems()] == ["verification_failed"]
    assert "x is damaged" in world.keeper.problems()[0].text


def test_a_child_that_could_not_run_is_tried_again_ever_less_often(tmp_path: Path) -> None:
    """After one minute, two, four."""
    world = World(tmp_path, code=6)
    world.keeper.request("schedule")
    assert world.run(50) == 1
    assert [problem.code for problem in world.keeper.problems()] == ["store_unavailable"]
    assert world.run(30) == 2
    assert world.run(100) == 2
    assert world.run(60) == 3


def test_a_killed_child_is_told() -> None:
    """With the signal that ended it."""
    problem = problems_of(TaskEnd("verify", -9, 1.0))[0]
    assert problem.code == "task_failed"
    assert "signal 9" in problem.text


def test_a_child_that_fell_silent_is_told() -> None:
    """It was ended because it said nothing any more, not by a signal of somebody's."""
    assert "no word for too long" in problems_of(TaskEnd("verify", -15, 1.0, silent=True))[0].text
