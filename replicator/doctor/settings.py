"""The server's settings: is there enough of everything, and what do synchronous commits wait for?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import SNAPSHOTS, STREAM
from replicator.doctor.subject import Patient
from replicator.postgres.conninfo import application_name_of
from replicator.postgres.query import SqlConnection

#: One walsender streams, one takes a snapshot.
_SENDERS = 2
_NAMES = (
    "full_page_writes",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_level",
    "wal_sender_timeout",
)
_WORD = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')
_COUNTED = re.compile(r"\s*(?:(?:FIRST|ANY)\s+)?\d+\s*\((.*)\)\s*\Z", re.IGNORECASE | re.DOTALL)


def check_settings(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the server's settings."""
    found = sql.settings(_NAMES)
    if found["wal_level"] == "minimal":
        yield _setting("wal_level", "wal_level is minimal: no WAL can be streamed", "replica", STREAM)
    if int(found["max_wal_senders"]) < _SENDERS:
        text = f"max_wal_senders is {found['max_wal_senders']}: the stream and a snapshot need {_SENDERS}"
        yield _setting("max_wal_senders", text, "10", STREAM)
    if found["full_page_writes"] == "off":
        yield _setting("full_page_writes", "full_page_writes is off: a torn page is never repaired", "on", SNAPSHOTS)
    yield from _slots(patient, sql, int(found["max_replication_slots"]))
    yield from _synchronous(patient, sql, found)
    if found["max_slot_wal_keep_size"] == "-1":
        yield Finding(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is -1: while this host is away the primary keeps WAL until its disk is full",
            "Set it to what the primary's disk can spare; beyond it the slot is given up, as a recorded gap.",
        )


def _slots(patient: Patient, sql: SqlConnection, most: int) -> Iterator[Finding]:
    slot = patient.policy.source.slot
    names = [row[0] for row in sql.execute("SELECT slot_name FROM pg_replication_slots")]
    if slot not in names and len(names) >= most:
        text = f"all {most} replication slots are taken, and {slot} is none of them"
        yield _setting("max_replication_slots", text, str(most + 1), STREAM)


def _synchronous(patient: Patient, sql: SqlConnection, found: dict[str, str]) -> Iterator[Finding]:
    name = application_name_of(patient.policy.source.conninfo, patient.policy.source.slot)
    if not stands_in(name, found["synchronous_standby_names"]):
        return
    elsewhere = sql.execute(
        "SELECT count(*) FROM pg_db_role_setting WHERE 'synchronous_commit=remote_apply' = ANY(setconfig)"
    )[0][0]
    if found["synchronous_commit"] == "remote_apply" or elsewhere:
        yield Finding(
            "remote_apply",
            f"synchronous_commit is remote_apply while {name} stands in synchronous_standby_names: nothing is applied "
            "here, so every commit would hang",
            "Set synchronous_commit = on (also for roles and databases), or take the name out of the list.",
            STREAM,
        )
    yield Finding(
        "synchronous_standby",
        f"{name} is a synchronous standby: while the spool is full, or this host is away, commits on the primary wait",
        "Name a second standby in synchronous_standby_names (ANY 1 …), and give the spool room.",
    )


def stands_in(name: str, setting: str) -> bool:
    """Whether `name` is in a synchronous_standby_names: a list, FIRST n (…), ANY n (…), with * for everybody."""
    counted = _COUNTED.match(setting)
    listed = [
        quoted.replace('""', '"') if quoted else word
        for quoted, word in _WORD.findall(counted[1] if counted else setting)
    ]
    return any(entry == "*" or entry.lower() == name.lower() for entry in listed)


def _setting(name: str, text: str, value: str, affects: str) -> Finding:
    return Finding(name, text, f"Set {name} = {value} in postgresql.conf.", affects)
