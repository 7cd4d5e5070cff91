"""The connection, the privileges, the slot, and whether the server's clock is ours."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import STREAM
from replicator.doctor.subject import Patient
from replicator.errors import SourceRefused, SourceUnavailable
from replicator.postgres.query import SqlConnection

_SKEW_S = 5.0
#: A slot with less than two segments of the usual size left is worth knowing of.
_SAFE = 32 << 20


def check_privileges(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the role; pg_hba.conf is asked by really connecting."""
    role = sql.privileges()
    if not (role.replication or role.superuser):
        yield Finding(
            "no_replication_privilege",
            f"user {role.user} may not replicate",
            f"Run on the primary: ALTER ROLE {role.user} REPLICATION;",
            STREAM,
        )
    try:
        with patient.replication() as connection:
            connection.identify()
    except SourceRefused as error:
        yield Finding(
            "source_refused",
            f"a replication connection is refused: {error.message}",
            error.hint or "Add a line with the database `replication` for this user and host to pg_hba.conf.",
            STREAM,
        )
    except SourceUnavailable as error:
        yield Finding("source_unavailable", f"no replication connection: {error.message}", error.hint, STREAM)


def check_slot(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the slot."""
    name = patient.policy.source.slot
    slot = sql.slot_state(name)
    if slot is None and patient.may_create_slot():
        yield Finding("slot_missing", f"slot {name} is not there yet", "The daemon makes it when it starts.")
    elif slot is None:
        yield Finding("slot_missing", f"slot {name} is not there", f"Run `replicator init {patient.name}`.", STREAM)
    elif slot.wal_status == "lost":
        yield Finding(
            "slot_lost",
            f"slot {name} has lost WAL that it should keep",
            "The daemon records the gap and takes a snapshot; raise max_slot_wal_keep_size to avoid the next one.",
            STREAM,
        )
    elif slot.wal_status == "unreserved":
        text = f"slot {name} is about to lose WAL"
        yield Finding("slot_endangered", text, "Start the daemon, or see why it is behind.", STREAM)
    elif slot.safe_wal_size is not None and slot.safe_wal_size < _SAFE:
        text = f"slot {name} may fall behind by {slot.safe_wal_size >> 20} MB more, then it is given up"
        hint = "See why it is behind, or raise max_slot_wal_keep_size."
        yield Finding("slot_headroom", text, hint)
    elif not slot.active:
        text = f"slot {name} is not in use: no daemon streams"
        yield Finding("slot_inactive", text, f"Start `replicator daemon {patient.name}`.")


def check_clock(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the difference of clocks; half the round trip is the doubt."""
    before = patient.clock.now()
    theirs = sql.clock()
    after = patient.clock.now()
    skew = (theirs - (before + (after - before) / 2)).total_seconds()
    if abs(skew) > _SKEW_S + (after - before).total_seconds():
        yield Finding(
            "clock_skew",
            f"the server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host's",
            "Let both hosts keep time by NTP: a target time means the server's clock.",
            STREAM,
        )
