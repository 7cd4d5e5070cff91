"""Children: their JSON lines, their ends, and that none outlives its task."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from threading import Event, Thread
from typing import Any

import pytest

from replicator.daemon.tasks import Task, TaskEnd
from replicator.errors import HostLacks
from replicator.tolerance import SystemClock


def task(program: str, facts: list[dict[str, Any]] | None = None, *, grace_s: float = 5.0) -> Task:
    """A child that runs Python text."""
    heard: list[dict[str, Any]] = [] if facts is None else facts
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return Task("snapshot", command, SystemClock(), heard.append, grace_s=grace_s)


def test_progress_facts_and_result() -> None:
    """Facts reach the daemon, progress is shown while it runs, the result is kept; foreign lines are passed over."""
    facts: list[dict[str, Any]] = []
    program = """
        import json
        print("not json")
        print(json.dumps({"event": "progress", "kind": "snapshot", "phase": "wal", "done": 5, "total": 10,
                          "unit": "bytes", "facts": {"stop_lsn": "0/3000028"}}), flush=True)
        print(json.dumps({"event": "result", "result": {"label": "20261122T020000Z"}}), flush=True)
    """
    end = task(program, facts).run(Event())
    assert facts == [{"stop_lsn": "0/3000028"}]
    assert (end.exit_code, end.result, end.error, end.stopped) == (0, {"label": "20261122T020000Z"}, None, False)


def test_status_while_it_runs() -> None:
    """A running child shows how far it is, and nothing once it has ended."""
    program = """
        import json, sys, time
        line = {"event": "progress", "done": 5, "total": 10, "unit": "bytes", "facts": {}}
        print(json.dumps(line), flush=True)
        time.sleep(300)
    """
    stop, running = Event(), task(program)
    ends: list[TaskEnd] = []
    thread = Thread(target=lambda: ends.append(running.run(stop)))
    thread.start()
    deadline = time.monotonic() + 60
    while ((shown := running.status()) is None or not shown.done) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shown is not None
    assert (shown.kind, shown.done, shown.total, shown.unit) == ("snapshot", 5, 10, "bytes")
    stop.set()
    thread.join(60)
    assert ends[0].stopped
    assert running.status() is None


def test_failure_keeps_the_child_s_own_words() -> None:
    """A failed child's error is the one that it printed, and the tail of its standard error is bounded."""
    program = """
        import json, sys
        for number in range(1000):
            print("line", number, file=sys.stderr)
        print(json.dumps({"event": "error", "error": {"type": "StoreUnavailable", "message": "m", "exit_code": 6}}))
        sys.exit(6)
    """
    end = task(program).run(Event())
    assert end.exit_code == 6
    assert end.error is not None
    assert end.error["type"] == "StoreUnavailable"
    assert end.stderr[-1] == "line 999"
    assert len(end.stderr) == 20


def test_child_that_ignores_sigterm_is_killed() -> None:
    """After the grace a child is killed; the task ends with it."""
    program = """
        import json, signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(json.dumps({"event": "progress", "facts": {"ignores": "it"}}), flush=True)
        time.sleep(300)
    """
    stop = Event()
    pids: list[int] = []
    facts: list[dict[str, Any]] = []
    running = task(program, facts, grace_s=0.5)
    running.started = pids.append
    ends: list[TaskEnd] = []
    thread = Thread(target=lambda: ends.append(running.run(stop)))
    thread.start()
    deadline = time.monotonic() + 60
    while not facts and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(60)
    assert facts
    assert ends[0].stopped
    assert ends[0].exit_code == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_child_whose_heir_keeps_the_pipes() -> None:
    """A child that has ended is not waited for because something it started still holds its pipes."""
    program = """
        import subprocess
        subprocess.Popen(["sleep", "40"])
    """
    began = time.monotonic()
    assert task(program).run(Event()).exit_code == 0
    assert time.monotonic() - began < 30


def test_endless_line_is_bounded() -> None:
    """A child that never ends its line does not fill the daemon's memory, and is no failure."""
    end = task("import sys; sys.stdout.write('x' * 5_000_000)").run(Event())
    assert (end.exit_code, end.result) == (0, None)


def test_program_that_is_not_there() -> None:
    """A command that can't be started is something that this host lacks."""
    with pytest.raises(HostLacks):
        Task("snapshot", ["/nonexistent/replicator"], SystemClock(), lambda _: None).run(Event())
