"""Which source a take reads: the data directory where it is the server's own, else the network, and why."""

from __future__ import annotations

from contextlib import AbstractContextManager

from replicator.core.progress import Progress, Report
from replicator.postgres.beside import Beside, NotBeside
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.snapshot.backup import network_source
from replicator.snapshot.job import TakeJob
from replicator.snapshot.leftout import refuse_left_out
from replicator.snapshot.source import Asked, Source


def choose_source(job: TakeJob, sql: SqlConnection, report: Report) -> Beside | None:
    """The data directory to read; None for the network. Raises SourceRefused for what the network would leave out."""
    if job.local is not None:
        try:
            return job.local.confirm(sql)
        except NotBeside as error:
            warning = f"{error.message}: the snapshot comes over the network"
            report(Progress("snapshot", "source", facts={"warning": warning, "hint": error.hint}))
    refuse_left_out(sql)
    return None


def open_source(
    job: TakeJob, beside: Beside | None, connection: ReplicationConnection, asked: Asked
) -> AbstractContextManager[Source]:
    """Start the base backup."""
    if beside is None or job.local is None:
        return network_source(connection, asked)
    return job.local.open(beside, job.sql(), asked)
