"""Which source a take reads: the policy's replica where it follows, else the primary, and why. Of the primary the data
directory where it is the server's own, else the network. Owns the choice and how it is told, never the reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from replicator.core.finding import Finding
from replicator.core.progress import Progress, Report
from replicator.errors import SourceUnavailable
from replicator.postgres.beside import Beside, NotBeside
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.following import Server
from replicator.postgres.query import SqlConnection
from replicator.snapshot.backup import network_source
from replicator.snapshot.job import FROM_PRIMARY, TakeJob
from replicator.snapshot.leftout import refuse_left_out
from replicator.snapshot.source import Asked, Source
from replicator.snapshot.standby import Standby, Stored, standby_source


def choose_source(job: TakeJob, sql: SqlConnection, report: Report) -> Beside | None:
    """The data directory to read; None for the network. Raises SourceRefused for what the network would leave out."""
    if job.local is not None:
        try:
            return job.local.confirm(sql)
        except NotBeside as error:
            _warn(report, f"{error.message}: the snapshot comes over the network", error.hint)
    refuse_left_out(sql)
    return None


@dataclass
class Sources:
    """One take's. `notes` are what the operator must know of how it was read."""

    job: TakeJob
    report: Report
    beside: Beside | None = None
    notes: list[Finding] = field(default_factory=list)

    def look(self, sql: SqlConnection) -> None:
        """Choose as soon as the primary was asked; where a replica is to be read, only once that can not be."""
        if self.job.standby is None:
            self.beside = choose_source(self.job, sql, self.report)

    @contextmanager
    def open(self, connection: ReplicationConnection, asked: Asked, stored: Stored) -> Iterator[Source]:
        """Start the base backup; `connection` is one to the primary."""
        with ExitStack() as stack:
            source = self._replica(stack, self.job.standby, asked, stored) if self.job.standby is not None else None
            yield source if source is not None else stack.enter_context(self._primary(connection, asked))

    def _replica(self, stack: ExitStack, standby: Standby, asked: Asked, stored: Stored) -> Source | None:
        job = self.job
        try:
            return stack.enter_context(standby_source(standby, Server(job.connect, job.sql), asked, stored))
        except SourceUnavailable as error:
            text = f"the snapshot was read from the primary: {error.message}"
            self.notes.append(Finding(FROM_PRIMARY, text, error.hint))
            _warn(self.report, f"{error.message}: the snapshot is read from the primary", error.hint)
        with job.sql() as sql:
            self.beside = choose_source(job, sql, self.report)
        return None

    @contextmanager
    def _primary(self, connection: ReplicationConnection, asked: Asked) -> Iterator[Source]:
        job = self.job
        if self.beside is None or job.local is None:
            with network_source(connection, asked) as source:
                yield source
        else:
            with job.local.open(self.beside, job.sql(), asked) as source:
                yield source


def _warn(report: Report, warning: str, hint: str) -> None:
    report(Progress("snapshot", "source", facts={"warning": warning, "hint": hint}))
