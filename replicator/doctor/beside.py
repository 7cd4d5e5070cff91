"""Whether the data directory that the policy names can be read as the server's own, for snapshots."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import SNAPSHOTS, finding_of
from replicator.doctor.subject import Patient
from replicator.postgres.beside import NotBeside, confirm_beside
from replicator.postgres.query import SqlConnection


def check_beside(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """A finding when snapshots would come over the network although `data_directory` is set."""
    directory = patient.policy.source.data_directory
    if directory is None:
        return
    try:
        confirm_beside(sql, directory)
    except NotBeside as error:
        yield finding_of(error, SNAPSHOTS)
