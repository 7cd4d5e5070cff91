"""When a snapshot is taken: by the schedule, for a missed run, for a gap, and again after a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.windows import Gap
from replicator.daemon.snapshots import SnapshotKeeper, problem_of
from replicator.daemon.tasks import TaskEnd
from replicator.errors import HostLacks
from replicator.policy import Schedule
from replicator.status.catalogs import StoreView
from tests.clock import FakeClock

_START = datetime(2026, 11, 22, tzinfo=UTC)
_GAP = {"timeline": 1, "start_lsn": "0/1000000", "stop_lsn": "0/2000000", "open": True}


def snapshot_of(moment: datetime) -> Snapshot:
    """A snapshot begun then."""
    return Snapshot(moment.strftime("%Y%m%dT%H%M%SZ"), 7, 1, Lsn(0x1000000), Lsn(0x2000000))


class World:
    """A stream and stores that a keeper sees; `turns` bounds the run."""

    def __init__(self, tmp_path: Path, *, schedule: str | None = "0 2 * * *", code: int = 0) -> None:
        self.clock = FakeClock()
        self.cuts: list[Lsn] = []
        self.on = True
        self.met: frozenset[Gap] = frozenset()
        self.busy = False
        self.view = StoreView("local", _START, (snapshot_of(_START - timedelta(hours=1)),))
        self.runs = tmp_path / "runs"
        lines = [{"event": "progress", "facts": {"stop_lsn": "0/3000000"}}]
        if code in (0, 6):
            lines.append({"event": "result", "result": {"label": "x", "findings": []}})
        else:
            lines.append({"event": "error", "error": {"type": "SourceUnavailable", "message": "m", "exit_code": code}})
        program = f"open({str(self.runs)!r}, 'a').write('x')\n"
        program += "".join(f"print({json.dumps(line)!r}, flush=True)\n" for line in lines) + f"raise SystemExit({code})"
        self.keeper = SnapshotKeeper(
            "frk",
            Schedule.parse(schedule) if schedule else None,
            [sys.executable, "-c", program],
            self.clock,
            self,
            lambda: {"local": self.view},
            self.refresh,
        )

    def streaming(self) -> bool:
        """As the keeper asks."""
        return self.on

    def strained(self) -> bool:
        """As the keeper asks."""
        return self.busy

    def gaps(self) -> frozenset[Gap]:
        """As the keeper asks."""
        return self.met

    def cut(self, lsn: Lsn) -> None:
        """As the keeper asks."""
        self.cuts.append(lsn)

    def refresh(self) -> None:
        """As the keeper asks."""
        self.view = StoreView("local", self.clock.now() + timedelta(seconds=1), (snapshot_of(self.clock.now()),))

    def turn(self, until: Callable[[], bool], most_s: float = 10_000) -> None:
        """Let the keeper run until something holds, or that much of its time has passed."""
        stop, end = Event(), self.clock.monotonic() + most_s
        wait = self.clock.wait

        def bounded(event: Event, seconds: float) -> bool:
            if event is stop and (until() or self.clock.monotonic() > end):
                stop.set()
            return wait(event, seconds)

        self.clock.wait = bounded  # type: ignore[method-assign]
        self.keeper.run(stop)
        self.clock.wait = wait  # type: ignore[method-assign]

    @property
    def taken(self) -> int:
        """How often the child ran."""
        return len(self.runs.read_text()) if self.runs.exists() else 0


def test_nothing_is_due(tmp_path: Path) -> None:
    """A snapshot that is younger than the schedule's last time is enough."""
    world = World(tmp_path)
    world.turn(lambda: False, 60)
    assert world.taken == 0


def test_missed_run_is_made_up_once(tmp_path: Path) -> None:
    """A run missed while the daemon was down is made up, however many were missed, and its stop is cut at once."""
    world = World(tmp_path)
    world.view = StoreView("local", _START, (snapshot_of(_START - timedelta(days=9)),))
    world.turn(lambda: False, 300)
    assert world.taken == 1
    assert world.cuts == [Lsn(0x3000000)]


def test_first_snapshot(tmp_path: Path) -> None:
    """A scheduled cluster without any snapshot gets its first at once; one without a schedule doesn't."""
    for schedule, taken in (("0 2 * * *", 1), (None, 0)):
        (tmp_path / str(taken)).mkdir()
        world = World(tmp_path / str(taken), schedule=schedule)
        world.view = StoreView("local", _START)
        world.turn(lambda: False, 120)
        assert world.taken == taken


def test_waits_for_the_stream(tmp_path: Path) -> None:
    """While nothing streams a request waits: the child would fail at once."""
    world = World(tmp_path)
    world.on = False
    world.keeper.request("schedule")
    world.turn(lambda: False, 60)
    assert world.taken == 0
    world.on = True
    world.turn(lambda: world.taken > 0, 60)
    assert world.taken == 1


def test_waits_while_the_slot_is_in_danger(tmp_path: Path) -> None:
    """While the slot is in danger a snapshot waits: it would be one more load."""
    world = World(tmp_path)
    world.busy = True
    world.keeper.request("schedule")
    world.turn(lambda: False, 60)
    assert world.taken == 0
    world.busy = False
    world.turn(lambda: world.taken > 0, 60)
    assert world.taken == 1


def test_gap_is_answered(tmp_path: Path) -> None:
    """An open gap is answered with one snapshot, without any schedule; what it closed is not answered again."""
    world = World(tmp_path, schedule=None)
    world.view = StoreView("local", _START, (snapshot_of(_START),), gaps=(_GAP,))
    world.turn(lambda: False, 300)
    assert world.taken == 1


def test_gap_that_the_stream_knows(tmp_path: Path) -> None:
    """A gap that no store's listing shows yet is answered too, once."""
    world = World(tmp_path, schedule=None)
    world.met = frozenset([Gap(1, Lsn(0x1000000), Lsn(0x2000000), open=True)])
    world.turn(lambda: False, 300)
    assert world.taken == 1


def test_failure_is_tried_again_with_back_off(tmp_path: Path) -> None:
    """A failed snapshot is tried again, ever less often, and shown as a problem meanwhile."""
    world = World(tmp_path, code=5)
    world.keeper.request("schedule")
    world.turn(lambda: False, 200)
    assert world.taken == 4  # after 0, 15, 45 and 105 seconds
    problem = world.keeper.problem()
    assert problem is not None
    assert problem.code == "source_unavailable"


def test_store_that_lacks_it_is_no_failure(tmp_path: Path) -> None:
    """A snapshot that one store lacks was taken: it is not tried again."""
    world = World(tmp_path, code=6)
    world.keeper.request("schedule")
    world.turn(lambda: False, 200)
    assert world.taken == 1
    assert world.keeper.problem() is not None


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (TaskEnd("snapshot", -9, 1.0), "task_failed"),
        (TaskEnd("snapshot", 0, 1.0, result={"findings": [{"code": "snapshot_from_primary", "text": "t"}]}), "remark"),
        (TaskEnd("snapshot", 4, 1.0, result={"findings": [{"code": "page_checksum", "text": "t"}]}), "page_checksum"),
        (TaskEnd("snapshot", 6, 1.0, error={"type": "StoreDenied", "message": "m"}), "store_denied"),
    ],
)
def test_problem_of_an_end(end: TaskEnd, code: str) -> None:
    """Each way of failing has its code."""
    problem: Any = problem_of(end)
    assert problem.code == code
    assert problem_of(TaskEnd("snapshot", 0, 1.0)) is None


def test_gap_that_stays_open_is_answered_ever_less_often(tmp_path: Path) -> None:
    """A store that lists but takes nothing keeps its gap: base backups don't follow each other without a pause."""
    world = World(tmp_path, schedule=None, code=6)
    world.view = StoreView("local", _START, (snapshot_of(_START),), gaps=(_GAP,))
    world.refresh = lambda: None  # type: ignore[method-assign]
    world.keeper.views = lambda: {
        "local": StoreView("local", world.clock.now() + timedelta(seconds=1), (snapshot_of(_START),), gaps=(_GAP,))
    }
    world.turn(lambda: False, 200)
    assert world.taken == 4  # after 0, 15, 45 and 105 seconds


def test_request_outlives_a_child_that_could_not_start(tmp_path: Path) -> None:
    """A host that can't start the child now is asked again: the run of the schedule is not lost."""
    world = World(tmp_path)
    command, world.keeper.command = world.keeper.command, [str(tmp_path / "absent")]
    world.keeper.request("schedule")
    with pytest.raises(HostLacks):
        world.turn(lambda: False, 60)
    world.keeper.command = command
    world.turn(lambda: world.taken > 0, 60)
    assert world.taken == 1


def test_a_snapshot_cut_short_is_still_owed(tmp_path: Path) -> None:
    """What was asked for, or was being taken when the worker was stopped, is known afterwards; nothing else is."""
    world, stop = World(tmp_path, schedule=None), Event()
    assert world.keeper.owed() is None
    world.keeper.request("gap")
    assert world.keeper.owed() == "gap"
    world.turn(lambda: world.taken == 1, 5)
    assert world.keeper.owed() is None
    line = json.dumps({"event": "progress", "facts": {"stop_lsn": "0/3000000"}})
    world.keeper.command = [sys.executable, "-c", f"import time; print({line!r}, flush=True); time.sleep(300)"]
    world.cuts = Stopping(stop)
    world.keeper.request("schedule")
    world.keeper.run(stop)
    assert world.keeper.owed() == "schedule"


class Stopping(list[Lsn]):
    """Cuts that end the keeper's run when the first one is asked for."""

    def __init__(self, stop: Event) -> None:
        super().__init__()
        self._stop = stop

    def append(self, lsn: Lsn, /) -> None:
        """A cut."""
        self._stop.set()
