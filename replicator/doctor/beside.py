"""Whether snapshots can be read from where the policy says: from the server's own data directory, from a replica."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import SNAPSHOTS, finding_of
from replicator.doctor.subject import Patient
from replicator.errors import SourceUnavailable
from replicator.postgres.beside import NotBeside, confirm_beside
from replicator.postgres.following import Server, confirm_following
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


def check_replica(patient: Patient, _: SqlConnection) -> Iterator[Finding]:
    """A finding when snapshots would come from the primary although `read_from` names a replica."""
    name = patient.policy.snapshot.read_from
    replica = next((found for found in patient.policy.replicas if found.name == name), None)
    if patient.replica is None or replica is None:
        return
    try:
        confirm_following(name, patient.replica, Server(patient.replication, patient.sql), replica.max_lag)
    except SourceUnavailable as error:
        yield finding_of(error, SNAPSHOTS)
