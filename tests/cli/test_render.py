"""Results look the same to every program, and well to people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import pytest

from replicator.cli.common import Context
from replicator.cli.render import cell, human_duration, human_size, print_json, print_result, print_table
from replicator.core.lsn import Lsn

Read = pytest.CaptureFixture[str]


class _Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class _Facts:
    lsn: Lsn
    time: datetime
    path: Path
    names: frozenset[str]
    colour: _Colour


FACTS = _Facts(
    Lsn(0x16B3748), datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC), Path("/x"), frozenset({"b", "a"}), _Colour.RED
)
PLAIN = {"lsn": "0/16B3748", "time": "2026-11-22T01:02:03Z", "path": "/x", "names": ["a", "b"], "colour": "red"}


def test_json_has_the_interfaces_notations(capsys: Read) -> None:
    """LSNs and times are strings, everything else is what JSON has."""
    print_json({"facts": (FACTS,), "bytes": 1, "none": None})
    assert json.loads(capsys.readouterr().out) == {"facts": [PLAIN], "bytes": 1, "none": None}


@pytest.mark.parametrize(
    ("ctx", "expected"),
    [
        (Context(json=True), PLAIN),
        (Context(progress="json"), {"event": "result", "result": PLAIN}),
        (Context(json=True, progress="json"), {"event": "result", "result": PLAIN}),
    ],
)
def test_a_result_fits_who_asked(ctx: Context, expected: object, capsys: Read) -> None:
    """A child prints it as one line's event, --json as one value."""
    print_result(ctx, FACTS)
    out = capsys.readouterr().out
    assert json.loads(out) == expected
    assert ctx.progress != "json" or out.count("\n") == 1


def test_people_get_no_json(capsys: Read) -> None:
    """Without --json the verb prints its own words."""
    print_result(Context(), FACTS)
    assert capsys.readouterr().out == ""


def test_a_table_in_a_pipe_is_tab_separated(capsys: Read) -> None:
    """One line a row, a header, no escape codes, nothing that breaks a column."""
    print_table(Context(), ["name", ">bytes", "stores"], [["a\tb\n", 5, ("x", "y")], [None, True, ()]])
    assert capsys.readouterr().out == "name\tbytes\tstores\na b\t5\tx, y\n-\tyes\t-\n"


@pytest.mark.parametrize(("value", "text"), [(Lsn(1), "0/1"), (False, "no"), ("", "-"), (0, "0"), ([1, None], "1, -")])
def test_cells(value: object, text: str) -> None:
    """Nothing is a dash, and zero isn't nothing."""
    assert cell(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (1536, "1.5 kB"), (200 * 2**20, "200 MB"), (2**50, "1.0 PB")],
)
def test_human_sizes(size: int, text: str) -> None:
    """Powers of 1024, three digits at most before the unit changes."""
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.35, "350 ms"), (12.34, "12.3 s"), (245, "4m 05s"), (12000, "3h 20m"), (190000, "2d 4h")],
)
def test_human_durations(seconds: float, text: str) -> None:
    """Two units at most."""
    assert human_duration(seconds) == text
