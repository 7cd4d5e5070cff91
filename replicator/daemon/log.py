"""The daemon's log on standard error: JSON lines or text, with stable event names.

Owns its form. Only our own loggers write, and the scheduler's when it warns: an HTTP library's lines would show
credentials, and without a handler of its own `logging` would print their warnings bare between ours.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from replicator.policy import LogPolicy

Logger = structlog.stdlib.BoundLogger


def configure(policy: LogPolicy, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's lines below `replicator` to `stream` (standard error)."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    last: structlog.types.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if policy.format == "json"
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, last]))
    logging.captureWarnings(True)
    for name, level in (("replicator", policy.level.upper()), ("apscheduler", "WARNING"), ("py.warnings", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def get_logger(name: str) -> Logger:
    """The logger of a module of ours."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger
