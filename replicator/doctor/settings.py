"""The server's settings: is there enough of everything, and what do synchronous commits wait for?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from replicator.core.finding import Finding
from replicator.doctor.finding import REPLICAS, SNAPSHOTS, STREAM
from replicator.doctor.subject import Patient
from replicator.postgres.conninfo import application_name_of
from replicator.postgres.query import SqlConnection
from replicator.postgres.standby import slot_of_replica

#: We tell the server how we are this often at least, unasked, in milliseconds.
_ANSWERS_MS = 10_000
_NAMES = (
    "data_checksums",
    "full_page_writes",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_level",
    "wal_sender_timeout",
)
_RESTART = frozenset({"max_replication_slots", "max_wal_senders", "wal_level"})
_WORD = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')
_COUNTED = re.compile(r"\s*(?:(?:FIRST|ANY)\s+)?\d+\s*\((.*)\)\s*\Z", re.IGNORECASE | re.DOTALL)


def check_settings(patient: Patient, sql: SqlConnection) -> Iterator[Finding]:
    """Findings about the server's settings."""
    found = sql.settings(_NAMES)
    if found["wal_level"] == "minimal":
        yield _setting("wal_level", "wal_level is minimal: no WAL can be streamed", "replica", STREAM)
    yield from _senders(patient, sql, int(found["max_wal_senders"]))
    if found["full_page_writes"] == "off":
        yield _setting("full_page_writes", "full_page_writes is off: a torn page is never repaired", "on", SNAPSHOTS)
    yield from _slots(patient, sql, int(found["max_replication_slots"]))
    yield from _timeouts(sql)
    yield from _synchronous(patient, sql, found)
    if found["data_checksums"] == "off":
        yield Finding(
            "data_checksums",
            "the cluster has no page checksums: a page that its disk damaged is backed up as it is",
            "Stop the server once and run pg_checksums --enable.",
        )
    if found["max_slot_wal_keep_size"] == "-1":
        yield Finding(
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is -1: while this host is away the primary keeps WAL until its disk is full",
            "Set it to what the primary's disk can spare; beyond it the slot is given up, as a recorded gap.",
        )


def _slots(patient: Patient, sql: SqlConnection, most: int) -> Iterator[Finding]:
    slot = patient.policy.source.slot
    names = {row[0] for row in sql.execute("SELECT slot_name FROM pg_replication_slots")}
    if slot not in names and len(names) >= most:
        text = f"all {most} replication slots are taken, and {slot} is none of them"
        yield _setting("max_replication_slots", text, str(most + 1), STREAM)
        return
    wanted = names | {slot} | _replica_slots(patient)
    if len(wanted) > most:
        text = f"max_replication_slots is {most}: with the policy's replicas {len(wanted)} are needed"
        yield _setting("max_replication_slots", text, str(len(wanted)), REPLICAS)


def _replica_slots(patient: Patient) -> set[str]:
    """Those of the replicas that follow the primary."""
    found = (one for one in patient.policy.replicas if one.kind == "physical" and one.follow == "primary")
    return {slot_of_replica(patient.name, replica.name) for replica in found}


def _senders(patient: Patient, sql: SqlConnection, most: int) -> Iterator[Finding]:
    """Walsenders: those at work, ours if it is not, the policy's replicas, and one that takes a snapshot."""
    used = int(sql.execute("SELECT count(*) FROM pg_stat_replication")[0][0])
    active = {row[0] for row in sql.execute("SELECT slot_name FROM pg_replication_slots WHERE active")}
    needed = used + len(({patient.policy.source.slot} | _replica_slots(patient)) - active) + 1
    if most < needed:
        text = f"max_wal_senders is {most}: {used} are at work, and with ours and a snapshot {needed} are needed"
        yield _setting("max_wal_senders", text, str(max(10, needed)), STREAM)


def _timeouts(sql: SqlConnection) -> Iterator[Finding]:
    """Whether the server notices that we are gone, gives us the time to answer, and keeps the slot meanwhile."""
    names = ["wal_sender_timeout", "idle_replication_slot_timeout"]
    rows = sql.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (names,))
    found = {name: int(value) for name, value in rows}
    timeout = found["wal_sender_timeout"]
    if timeout == 0:
        text = "wal_sender_timeout is 0: a connection that died holds the slot until the server notices"
        yield _setting("wal_sender_timeout", text, "60s", None)
    elif timeout < _ANSWERS_MS:
        text = f"wal_sender_timeout is {timeout} ms: a short pause of this host cuts the stream off"
        yield _setting("wal_sender_timeout", text, "60s", None)
    if found.get("idle_replication_slot_timeout", 0):
        text = "idle_replication_slot_timeout is set: when this host is away for longer, its slot is lost"
        yield _setting("idle_replication_slot_timeout", text, "0", None)


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


def _setting(name: str, text: str, value: str, affects: str | None) -> Finding:
    how = "restart the server" if name in _RESTART else "reload it"
    return Finding(name, text, f"Set {name} = {value} in postgresql.conf, and {how}.", affects)
