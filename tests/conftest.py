"""The whole suite: tests that can't run here are listed last with their reason; --require-all fails on them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, or is drawn, says nothing on a machine that has much else to do.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

#: Where the files that take long lie, the longest first.
_FIRST = (
    "e2e/test_s", "e2e/test_k", "e2e/", "replicas/test_replica", "format/", "verify/test_c", "verify/test_d", "daemon/",
    "stream/", "restore/", "cli/", "snapshot/", "doctor/", "upkeep/",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --require-all."""
    parser.addoption("--require-all", action="store_true", help="fail when a test could not run here")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that the workers end at about the same time."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix().rpartition("/tests/")[2]
        return next((at for at, start in enumerate(_FIRST) if path.startswith(start)), len(_FIRST))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List what could not run, with the reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    word = "FAILED: could not run here" if config.getoption("--require-all") else "could not run here"
    terminalreporter.section(word)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With --require-all a test that could not run is a failure."""
    if not session.config.getoption("--require-all"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
