"""When stores are pruned: after a snapshot, and once a day; and what a failure means."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.daemon.pruning import AGAIN_S, FIRST_S, PruneKeeper, problem_of
from replicator.daemon.tasks import TaskEnd
from replicator.status.catalogs import StoreView
from tests.clock import FakeClock

_START = datetime(2026, 11, 22, tzinfo=UTC)


class World:
    """A store whose newest snapshot a test sets; the child ends with `code`."""

    def __init__(self, tmp_path: Path, *, code: int = 0, prunes: bool = True) -> None:
        self.clock = FakeClock()
        self.newest = "20261121T000000Z"
        self.at_work = False
        self.runs = tmp_path / "runs"
        line: dict[str, Any] = {"event": "result", "result": {"stores": {}, "findings": [], "silent": {}}}
        program = f"open({str(self.runs)!r}, 'a').write('x')\nprint({json.dumps(line)!r})\nraise SystemExit({code})"
        command = [sys.executable, "-c", program] if prunes else []
        self.keeper = PruneKeeper("frk", command, self.clock, self.views, lambda: self.at_work, lambda: None)

    def views(self) -> dict[str, StoreView]:
        """As the keeper asks."""
        return {"local": StoreView("local", _START, (Snapshot(self.newest, 7, 1, Lsn(16), Lsn(32)),))}

    def turn(self, seconds: float) -> int:
        """Let so much time pass; how often the child has run."""
        stop, end = Event(), self.clock.monotonic() + seconds
        wait = self.clock.wait

        def bounded(event: Event, seconds: float) -> bool:
            if event is stop and self.clock.monotonic() > end:
                stop.set()
            return wait(event, seconds)

        self.clock.wait = bounded  # type: ignore[method-assign]
        self.keeper.run(stop)
        self.clock.wait = wait  # type: ignore[method-assign]
        return len(self.runs.read_text()) if self.runs.exists() else 0


def test_after_each_snapshot(tmp_path: Path) -> None:
    """A new snapshot is followed by one prune, once nothing else is at work; a start alone by none."""
    world = World(tmp_path)
    assert world.turn(30) == 0
    world.newest = "20261122T000000Z"
    world.at_work = True
    assert world.turn(30) == 0
    world.at_work = False
    assert world.turn(30) == 1
    world.newest = "20261121T000000Z"
    assert world.turn(30) == 1


def test_once_a_day(tmp_path: Path) -> None:
    """What waits for its day goes without a snapshot, too."""
    world = World(tmp_path)
    assert world.turn(FIRST_S + 5) == 1
    assert world.turn(AGAIN_S - 60) == 1
    assert world.turn(120) == 2


def test_a_failure_is_tried_again_ever_less_often(tmp_path: Path) -> None:
    """A store that is away is no reason for one prune after the other."""
    world = World(tmp_path, code=6)
    world.turn(5)
    world.newest = "20261122T000000Z"
    assert world.turn(450) == 4  # after 0, 60, 180 and 420 seconds
    assert world.keeper.problem() is None


def test_not_from_here(tmp_path: Path) -> None:
    """Where nothing is pruned from here the worker ends at once."""
    world = World(tmp_path, prunes=False)
    assert world.turn(FIRST_S + 5) == 0
    assert world.clock.monotonic() == 0


_DENIED = {"silent": {"a": {"type": "StoreDenied", "message": "no", "hint": "h"}}, "findings": []}
_AWAY = {"silent": {"a": {"type": "StoreUnavailable", "message": "away"}}, "findings": []}
_DAMAGED = {"silent": {}, "findings": [{"code": "object_damaged", "text": "t", "affects": "x"}]}


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (TaskEnd("prune", -9, 1.0), "task_failed"),
        (TaskEnd("prune", 7, 1.0, error={"type": "KeysError", "message": "m"}), "keys_error"),
        (TaskEnd("prune", 4, 1.0, result=_DAMAGED), "object_damaged"),
        (TaskEnd("prune", 6, 1.0, result=_DENIED), "store_denied"),
        (TaskEnd("prune", 6, 1.0, result=_AWAY), None),
        (TaskEnd("prune", 8, 1.0, error={"type": "Conflict", "message": "another prune"}), None),
        (TaskEnd("prune", 0, 1.0), None),
    ],
)
def test_problem_of_an_end(end: TaskEnd, code: str | None) -> None:
    """Each way of failing has its code; that a store is away is said already, and another's prune does the same."""
    problem = problem_of(end)
    assert (problem.code if problem is not None else None) == code
