"""Where the bytes of a snapshot come from: over the network, or from the data directory beside the server.

Owns the words that both share. A source is a base backup that runs: it reads itself into an intake, then says how it
ended; leaving it early ends the backup on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from replicator.core.lsn import Lsn
from replicator.core.progress import Progress, Report
from replicator.errors import Interrupted
from replicator.postgres.beside import Beside
from replicator.postgres.query import SqlConnection
from replicator.repository.layout import PackId
from replicator.snapshot.blocks import Placer
from replicator.snapshot.index import IndexWriter, ParentIndex
from replicator.tolerance import Clock

LABEL_FILE = "backup_label"
_REPORT_EVERY = 8 * 2**20


@dataclass
class Totals:
    """What was read: bytes of files, files, and every pack that they need."""

    bytes: int = 0
    files: int = 0
    packs: set[PackId] = field(default_factory=set)


@dataclass(frozen=True)
class Intake:
    """What a source reads itself into. `key` is the comparison key, `page` the server's page size (at least 8 KiB).

    `executor` has `workers` threads, which also seal. `directory` may hold temporary files of names and checksums.
    """

    index: IndexWriter
    placer: Placer
    key: bytes
    parent: ParentIndex | None
    page: int
    executor: Executor
    workers: int
    directory: Path
    clock: Clock
    report: Report
    stop: Event
    step: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a base backup ended: its range of WAL, the tablespaces for a manifest's facts, and damaged pages as text."""

    timeline: int
    start: Lsn
    stop: Lsn
    tablespaces: tuple[dict[str, object], ...]
    damage: tuple[str, ...]


class Source(Protocol):
    """A base backup that runs."""

    def read(self, intake: Intake) -> tuple[Totals, Ended]:
        """All of it, to the backup's end. The packer that stands behind `intake.placer` is left open."""
        ...


@dataclass(frozen=True)
class Asked:
    """The base backup wanted. `rate_limit` in bytes per second. `settings` are the server's, by name."""

    label: str
    checkpoint: str
    rate_limit: int | None
    settings: Mapping[str, str]


class LocalReader(Protocol):
    """Reads the data directory beside the server."""

    def confirm(self, sql: SqlConnection) -> Beside:
        """The directory, proven to be that server's. Raises NotBeside."""
        ...

    def open(self, beside: Beside, sql: SqlConnection, asked: Asked) -> AbstractContextManager[Source]:
        """Start a base backup in that session, which is the source's from now on."""
        ...


class ReadingProgress:
    """Counts what was read, and tells it now and then."""

    def __init__(self, totals: Totals, expected: int, report: Report, stop: Event) -> None:
        self._totals = totals
        self._expected = expected
        self._report = report
        self._stop = stop
        self._reported = 0

    def add(self, count: int) -> None:
        """So many bytes more. Raises Interrupted once asked to stop."""
        if self._stop.is_set():
            raise Interrupted("the snapshot was stopped")
        self._totals.bytes += count
        if self._totals.bytes - self._reported >= _REPORT_EVERY:
            self._reported = self._totals.bytes
            total = max(self._expected, self._totals.bytes)
            self._report(Progress("snapshot", "read", self._totals.bytes, total))

    def finish(self) -> None:
        """All was read."""
        self._report(Progress("snapshot", "read", self._totals.bytes, self._totals.bytes))
