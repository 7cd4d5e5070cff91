"""When stores are mirrored: when one is back, and when one lacks snapshots for a while; and what a failure means."""

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
from replicator.daemon.mirroring import SETTLED_S, MirrorKeeper, lacking, problem_of
from replicator.daemon.tasks import TaskEnd
from replicator.errors import StoreUnavailable
from replicator.status.catalogs import StoreView
from replicator.tolerance import BreakerState, BreakerStatistics
from tests.clock import FakeClock

_START = datetime(2026, 11, 22, tzinfo=UTC)
_OLD, _NEW = (Snapshot(f"2026112{day}T000000Z", 7, 1, Lsn(16), Lsn(32)) for day in (1, 2))


class World:
    """Two stores and their breakers; the child ends with `code` and, when it can, completes them."""

    def __init__(self, tmp_path: Path, *, code: int = 0, mends: bool = True) -> None:
        self.clock = FakeClock()
        self.breaker = BreakerStatistics(BreakerState.CLOSED, 0, 0)
        self.held: dict[str, tuple[Snapshot, ...]] = {"local": (_OLD, _NEW), "offsite": (_OLD, _NEW)}
        self.error: StoreUnavailable | None = None
        self.taking = False
        self.mends = mends
        self.runs = tmp_path / "runs"
        line: dict[str, Any] = {"event": "result", "result": {"stores": {}, "findings": []}}
        program = f"open({str(self.runs)!r}, 'a').write('x')\nprint({json.dumps(line)!r})\nraise SystemExit({code})"
        self.keeper = MirrorKeeper(
            "frk", [sys.executable, "-c", program], self.clock, lambda: {"offsite": self.breaker}, self.views,
            lambda: self.taking, self.refresh,
        )  # fmt: skip

    def views(self) -> dict[str, StoreView]:
        """As the keeper asks."""
        found = {name: StoreView(name, _START, snapshots) for name, snapshots in self.held.items()}
        if self.error is not None:
            found["offsite"] = StoreView("offsite", _START, error=self.error)
        return found

    def refresh(self) -> None:
        """As the keeper asks."""
        if self.mends:
            self.held["offsite"] = self.held["local"]

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


def test_nothing_is_lacking(tmp_path: Path) -> None:
    """Stores that hold the same are left alone."""
    assert World(tmp_path).turn(600) == 0


def test_store_that_is_back(tmp_path: Path) -> None:
    """A breaker that closes after having been open asks for one mirror, each time."""
    world = World(tmp_path)
    world.breaker = BreakerStatistics(BreakerState.OPEN, 5, 1)
    assert world.turn(30) == 0
    world.breaker = BreakerStatistics(BreakerState.CLOSED, 0, 1)
    assert world.turn(30) == 1
    world.breaker = BreakerStatistics(BreakerState.CLOSED, 0, 2)
    assert world.turn(30) == 2


def test_snapshot_that_is_lacking_for_a_while(tmp_path: Path) -> None:
    """A snapshot that reaches the stores one after another is none; one that stays away is completed."""
    world = World(tmp_path)
    world.held["offsite"] = (_OLD,)
    assert world.turn(SETTLED_S - 5) == 0
    world.held["offsite"] = (_OLD, _NEW)
    assert world.turn(SETTLED_S) == 0
    world.held["offsite"] = (_OLD,)
    world.taking = True
    assert world.turn(SETTLED_S + 60) == 0
    world.taking = False
    assert world.turn(10) == 1
    assert world.turn(600) == 1


@pytest.mark.parametrize("code", [0, 6])
def test_what_stays_lacking_is_tried_ever_less_often(tmp_path: Path, code: int) -> None:
    """What a mirror could not complete, or need not since retention took it, is no reason for one after the other."""
    world = World(tmp_path, code=code, mends=False)
    world.held["offsite"] = (_OLD,)
    assert world.turn(SETTLED_S + 480) == 4  # after 0, 60, 180 and 420 seconds
    assert world.keeper.problem() is None


def test_store_that_does_not_answer_lacks_nothing(tmp_path: Path) -> None:
    """A view that could not be read says nothing of what is missing."""
    world = World(tmp_path)
    world.held["offsite"] = ()
    world.error = StoreUnavailable("away")
    assert not lacking(world.views())
    world.error = None
    assert {(store, label) for store, _, label in lacking(world.views())} == {
        ("offsite", _OLD.label),
        ("offsite", _NEW.label),
    }


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (TaskEnd("mirror", -9, 1.0), "task_failed"),
        (TaskEnd("mirror", 7, 1.0, error={"type": "UntrustedRepository", "message": "m"}), "untrusted_repository"),
        (TaskEnd("mirror", 4, 1.0, result={"findings": [{"code": "object_damaged", "text": "t"}]}), "object_damaged"),
        (TaskEnd("mirror", 8, 1.0, error={"type": "Conflict", "message": "another mirror"}), None),
        (TaskEnd("mirror", 6, 1.0, result={"findings": []}), None),
        (TaskEnd("mirror", 0, 1.0), None),
    ],
)
def test_problem_of_an_end(end: TaskEnd, code: str | None) -> None:
    """Each way of failing has its code; that a store is away is said already, and another's mirror does the same."""
    problem = problem_of(end)
    assert (problem.code if problem is not None else None) == code
