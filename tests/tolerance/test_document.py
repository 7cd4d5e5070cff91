"""docs/tolerance.md names tests; each of them must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+(?:::\w+)*)`", (ROOT / "docs/tolerance.md").read_text())))


@pytest.mark.parametrize("named", NAMED)
def test_named_tests_are_there(named: str) -> None:
    """A mechanism without the test that breaks it has no row."""
    path, *names = named.split("::")
    text = (ROOT / path).read_text()
    for name in names:
        assert re.search(rf"^\s*(?:def|class) {name}\b", text, re.MULTILINE), named


def test_every_row_names_one() -> None:
    """No row is without a test."""
    rows = [line for line in (ROOT / "docs/tolerance.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert rows
    assert all("`tests/" in row for row in rows)


@pytest.mark.parametrize("part", ["timeouts", "deadline", "retry", "circuit breaker", "bulkhead"])
def test_each_mechanism_of_remote_calls_is_shown_by_its_harm(part: str) -> None:
    """Every timeout, deadline, budget, breaker and bulkhead has a test that turns it off first."""
    rows = [line for line in (ROOT / "docs/tolerance.md").read_text().splitlines() if line.startswith(f"| {part} |")]
    assert any("`tests/tolerance/test_harm" in row for row in rows)
