"""Which of our errors a server's SQLSTATE is (PostgreSQL manual, appendix A). Pure.

Owns the mapping; decides by code alone, never by message text.
"""

from __future__ import annotations

from replicator.errors import (
    AlreadyExists,
    ProtocolViolation,
    ReplicatorError,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    WalRemoved,
)

UNDEFINED_FILE = "58P01"
OBJECT_IN_USE = "55006"
UNDEFINED_OBJECT = "42704"
DUPLICATE_OBJECT = "42710"
DATA_CORRUPTED = "XX001"
#: The server starts up, shuts down or recovers.
CANNOT_CONNECT_NOW = "57P03"

_BY_CODE: dict[str, type[ReplicatorError]] = {
    OBJECT_IN_USE: SlotBusy,
    UNDEFINED_OBJECT: SourceRefused,
    DUPLICATE_OBJECT: AlreadyExists,
    "42501": SourceRefused,
    "42601": SourceRefused,
    "3D000": SourceRefused,
    "53400": SourceRefused,
    "55000": SourceRefused,
    "08P01": ProtocolViolation,
}
_BY_CLASS: dict[str, type[ReplicatorError]] = {"28": SourceRefused, "22": SourceRefused, "0A": SourceRefused}

_HINTS = {
    "28P01": "Check the password that the policy's [source] names.",
    "28000": "Check the user in conninfo and the replication lines of pg_hba.conf on the source.",
    "42501": "Give the user the REPLICATION attribute: ALTER ROLE name REPLICATION.",
    "3D000": "Check dbname in conninfo.",
    "53300": "Raise max_wal_senders or max_connections on the source, or end a connection that is not needed.",
    "53400": "Raise max_replication_slots on the source, or drop a slot that is not needed.",
    OBJECT_IN_USE: "Another connection holds the slot; it may be our own that the server has not given up yet.",
    UNDEFINED_OBJECT: "The replication slot does not exist; `replicator init` creates it.",
    DUPLICATE_OBJECT: "Something of that name exists already; it was left as it is.",
}


def error_of(
    sqlstate: str | None, message: str, *, doing: str, wal: bool = False, **context: object
) -> ReplicatorError:
    """The error to raise for a server's answer; `doing` says what was asked.

    58P01 means removed WAL only where WAL was asked for (`wal`). An unknown or absent code is SourceUnavailable.
    The code is in the error's context as `sqlstate`.
    """
    kind: type[ReplicatorError] = SourceUnavailable
    if sqlstate is not None:
        kind = _BY_CODE.get(sqlstate) or _BY_CLASS.get(sqlstate[:2], SourceUnavailable)
        if wal and sqlstate == UNDEFINED_FILE:
            kind = WalRemoved
    hint = _HINTS.get(sqlstate or "", "")
    return kind(f"{doing}: {message.strip().rstrip('.')}", hint=hint, sqlstate=sqlstate, **context)
