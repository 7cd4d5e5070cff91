"""Progress is a sign of life, not a flood."""

from __future__ import annotations

import json

import pytest

from replicator.cli.common import Context
from replicator.cli.progress import amounts, describe, progress_reporter
from replicator.core.progress import Progress

Read = pytest.CaptureFixture[str]


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def reports(ctx: Context, steps: list[tuple[float, Progress]]) -> None:
    """Report each step at its time."""
    clock = Clock()
    with progress_reporter(ctx, "snapshot", clock=clock) as report:
        for at, progress in steps:
            clock.now = at
            report(progress)


def step(done: int, phase: str = "data", **facts: str) -> Progress:
    """Progress of one kind towards 100 MB."""
    return Progress("snapshot", phase, done * 2**20, 100 * 2**20, facts=dict(facts))


STEPS = [
    (0.0, step(0)),
    (0.1, step(1)),
    (0.2, step(2, stop_lsn="0/16B3748")),
    (5.0, step(50)),
    (12.0, step(60)),
    (12.1, step(61)),
    (12.2, step(100)),
    (12.3, step(0, "wal")),
]


def test_the_daemon_reads_json_lines(capsys: Read) -> None:
    """Phases, facts and the end come at once, the rest now and then, one object a line."""
    reports(Context(progress="json"), STEPS)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["done"] // 2**20 for line in lines] == [0, 2, 50, 60, 100, 0]
    assert lines[1] == {
        "event": "progress",
        "kind": "snapshot",
        "phase": "data",
        "done": 2 * 2**20,
        "total": 100 * 2**20,
        "unit": "bytes",
        "facts": {"stop_lsn": "0/16B3748"},
    }
    assert err == ""


def test_a_pipe_gets_sparse_lines_on_standard_error(capsys: Read) -> None:
    """A log shows phases and a line every ten seconds; standard output is for results."""
    reports(Context(), STEPS)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(", ")[0] for line in err.splitlines()] == ["snapshot: data"] * 4 + ["snapshot: wal"]
    assert "60.0 MB of 100 MB (60 %), 5.0 MB/s, 8.0 s left" in err


@pytest.mark.parametrize("ctx", [Context(quiet=True), Context(progress="none")])
def test_quiet_is_quiet(ctx: Context, capsys: Read) -> None:
    """Nobody asked for progress."""
    reports(ctx, STEPS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("progress", "elapsed_s", "text"),
    [
        (Progress("restore", "plan"), 3.0, "restore: plan"),
        (Progress("restore", "wal", 3, 12, "segments"), 0.5, "restore: wal, 3 segments of 12 segments (25 %)"),
        (Progress("restore", "wal", 3, 0, "segments"), 1.0, "restore: wal, 3 segments, 3 segments/s"),
        (
            Progress("restore", "wal", 12, 12, "segments"),
            4.0,
            "restore: wal, 12 segments of 12 segments (100 %), 3 segments/s",
        ),
    ],
)
def test_what_is_not_known_is_left_out(progress: Progress, elapsed_s: float, text: str) -> None:
    """No total gives no percentage, no time gives no rate."""
    assert describe(progress, elapsed_s) == text
    assert amounts(progress, elapsed_s) in text
