"""docs/tolerance.md: no mechanism without the test that breaks it (that they are there: tests/docs)."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rows(part: str = "") -> list[str]:
    """The table's rows, of one part or of all."""
    lines = (ROOT / "docs/tolerance.md").read_text().splitlines()
    found = [line for line in lines if line.startswith("| ")][1:]
    return [row for row in found if row.startswith(f"| {part}")]


def test_every_row_names_one() -> None:
    """No row is without a test."""
    assert rows()
    assert all("`tests/" in row for row in rows())


@pytest.mark.parametrize("part", ["timeouts", "deadline", "retry", "circuit breaker", "bulkhead"])
def test_each_mechanism_of_remote_calls_is_shown_by_its_harm(part: str) -> None:
    """Every timeout, deadline, budget, breaker and bulkhead has a test that turns it off first."""
    assert any("`tests/tolerance/test_harm" in row for row in rows(f"{part} |"))
