"""All subjects, one after the other. What the server must tell is asked on one connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from replicator.core.finding import Finding
from replicator.doctor.beside import check_beside, check_replica
from replicator.doctor.finding import PROOFS, STORES, STREAM, Report, finding_of
from replicator.doctor.host import check_binaries, check_directories, check_scratch
from replicator.doctor.keys import check_keys
from replicator.doctor.places import check_places
from replicator.doctor.settings import check_settings
from replicator.doctor.source import check_clock, check_privileges, check_slot
from replicator.doctor.stores import check_stores
from replicator.doctor.subject import Patient
from replicator.errors import Interrupted, ReplicatorError
from replicator.postgres.query import SqlConnection

_ON_SERVER: tuple[Callable[[Patient, SqlConnection], Iterator[Finding]], ...] = (
    check_settings,
    check_privileges,
    check_slot,
    check_beside,
    check_replica,
    check_clock,
    check_binaries,
)
_HERE: tuple[tuple[Callable[[Patient], Iterator[Finding]], str], ...] = (
    (check_stores, STORES),
    (check_places, STORES),
    (check_keys, STORES),
    (check_directories, STREAM),
    (check_scratch, PROOFS),
)


def examine(patient: Patient) -> Report:
    """Check everything. Raises Interrupted only."""
    findings: list[Finding] = []
    try:
        with patient.sql() as sql:
            for ask in _ON_SERVER:
                findings += _safely(ask(patient, sql), STREAM)
    except Interrupted:
        raise
    except ReplicatorError as error:
        findings.append(finding_of(error, STREAM))
    for look, affects in _HERE:
        findings += _safely(look(patient), affects)
    return Report(tuple(dict.fromkeys(findings)))


def _safely(found: Iterator[Finding], affects: str) -> list[Finding]:
    """What a subject found; its own failure is one more finding."""
    findings: list[Finding] = []
    try:
        findings.extend(found)
    except Interrupted:
        raise
    except ReplicatorError as error:
        findings.append(finding_of(error, affects))
    return findings
