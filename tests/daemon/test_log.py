"""The log: JSON lines with stable names, text for people, other libraries silent, docs current."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from replicator.daemon import events
from replicator.daemon.log import configure, get_logger
from replicator.policy import LogPolicy


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the logger is as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("replicator", "apscheduler", "py.warnings")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield io.StringIO()
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_json_lines(stream: io.StringIO) -> None:
    """One object a line: event, level, timestamp, fields; our other modules' lines too, foreign libraries' not."""
    configure(LogPolicy(format="json", level="info"), stream)
    get_logger("replicator.daemon.x").info(events.TASK_STARTED, cluster="frk", pid=7)
    logging.getLogger("replicator.store").warning("store %s is slow", "local")
    logging.getLogger("botocore").error("Authorization: secret")
    get_logger("replicator.daemon.x").debug("never")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["cluster"], first["pid"], first["level"]) == ("task_started", "frk", 7, "info")
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("store local is slow", "warning")


def test_nothing_bare_between_the_lines() -> None:
    """Where a library has no handler, Python would print its warnings as they are; a warning of Python is a line."""
    program = (
        "import logging, warnings\n"
        "from replicator.daemon.log import configure\n"
        "from replicator.policy import LogPolicy\n"
        "configure(LogPolicy(format='json', level='info'))\n"
        "logging.getLogger('urllib3.connectionpool').warning('Connection pool is full')\n"
        "logging.getLogger('apscheduler.scheduler').warning('missed by 2 s')\n"
        "warnings.warn('soon gone')\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    first, second = (json.loads(line) for line in told.stderr.splitlines())
    assert first["event"] == "missed by 2 s"
    assert "soon gone" in second["event"]


def test_traceback_of_a_bug(stream: io.StringIO) -> None:
    """A bug's traceback stands in its line."""
    configure(LogPolicy(format="json", level="info"), stream)
    try:
        raise ValueError("oops")
    except ValueError:
        get_logger("replicator.daemon.x").exception(events.BUG)
    line = json.loads(stream.getvalue())
    assert "ValueError: oops" in line["exception"]


def test_text(stream: io.StringIO) -> None:
    """Text is for people, without colours."""
    configure(LogPolicy(format="text", level="info"), stream)
    get_logger("replicator.daemon.x").info(events.TASK_STARTED, cluster="frk")
    assert "task_started" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_reference_is_current() -> None:
    """docs/events.md is what the table says, and every name is in the table."""
    root = Path(__file__).parents[2]
    assert (root / "docs/events.md").read_text("utf-8") == events.reference()
    names = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    assert names == set(events.TABLE)
