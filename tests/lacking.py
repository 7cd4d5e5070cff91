"""A pytest plugin of scripts/matrix: a test that asks for a program this installation lacks is skipped, by name."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from replicator.errors import BinariesMissing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A missing program says nothing of the version: skipped, with the reason."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, BinariesMissing):
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (path, line or 0, f"Skipped: {call.excinfo.value}")
    return report
