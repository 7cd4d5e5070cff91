"""What makes a server a standby: its connection string, written for its own version, and what it says of itself.

Owns which keywords a walreceiver of each major version knows: an unknown one stops it. Pure but for `standby_facts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import make_conninfo

from replicator.core.lsn import Lsn
from replicator.errors import UsageError
from replicator.postgres.conninfo import keywords_of
from replicator.postgres.query import SqlConnection

#: Keyword → the first major version whose libpq knows it. What is in neither table is left out.
_SINCE = {
    "channel_binding": 13,
    "ssl_max_protocol_version": 13,
    "ssl_min_protocol_version": 13,
    "sslpassword": 13,
    "sslcrldir": 14,
    "sslsni": 14,
    "load_balance_hosts": 16,
    "require_auth": 16,
    "sslcertmode": 16,
    "gssdelegation": 17,
    "sslnegotiation": 17,
    "max_protocol_version": 18,
    "min_protocol_version": 18,
    "sslkeylogfile": 18,
}
_ALWAYS = frozenset(
    {
        "connect_timeout", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count",
        "keepalives_idle", "keepalives_interval", "krbsrvname", "options", "passfile", "port", "requirepeer", "service",
        "sslcert", "sslcompression", "sslcrl", "sslkey", "sslmode", "sslrootcert", "tcp_user_timeout", "user",
    }
)  # fmt: skip
#: A dead primary is noticed within half a minute, also while nothing is sent.
_DEFAULTS = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3", "connect_timeout": "10"}


@dataclass(frozen=True, slots=True)
class StandbyFacts:
    """What a server says of itself. `streaming`: its walreceiver runs; False for a primary."""

    in_recovery: bool
    streaming: bool
    replay_lsn: Lsn | None


def primary_conninfo(conninfo: str, major: int, *, application_name: str, passfile: Path | None) -> str:
    """The setting for a standby of version `major` that follows the server of `conninfo`: without password and
    database, and without keywords that it does not know. Raises UsageError when conninfo cannot be read.
    """
    given = keywords_of(conninfo)
    told = {
        **_DEFAULTS,
        **{key: value for key, value in given.items() if key in _ALWAYS or _SINCE.get(key, 99) <= major},
        "application_name": application_name,
    }
    if any("," in given.get(key, "") for key in ("host", "hostaddr")):
        told["target_session_attrs"] = "primary" if major >= 14 else "read-write"
    if passfile is not None:
        told["passfile"] = str(passfile)
    return make_conninfo("", **dict(sorted(told.items())))


def slot_of_replica(cluster: str, name: str) -> str:
    """A replica's slot on its primary: small letters, digits and underscores, at most 63."""
    return f"replicator_{cluster}_{name}".replace("-", "_")[:63]


def passfile_line(password: bytes) -> bytes:
    """The one line of a password file, for whichever server and user asks. Raises UsageError for a line end."""
    if b"\n" in password or b"\r" in password or b"\0" in password:
        raise UsageError(
            "the source's password holds a line end, which no password file can",
            hint="Give the replication user a password without line ends.",
        )
    return b"*:*:*:*:" + password.replace(b"\\", b"\\\\").replace(b":", b"\\:") + b"\n"


def facts_of_slot(sql: SqlConnection, slot: str) -> StandbyFacts | None:
    """What a primary knows of the standby that uses `slot` now, some seconds late; None when none does. Raises
    SourceUnavailable and its kinds.
    """
    rows = sql.execute(
        "SELECT r.state, r.replay_lsn::text FROM pg_stat_replication r JOIN pg_replication_slots s"
        " ON s.active_pid = r.pid WHERE s.slot_name = %s",
        (slot,),
    )
    if not rows:
        return None
    return StandbyFacts(True, rows[0][0] == "streaming", Lsn.parse(rows[0][1]) if rows[0][1] else None)


def standby_facts(sql: SqlConnection) -> StandbyFacts:
    """Ask a server. Raises SourceUnavailable and its kinds."""
    row = sql.execute(
        "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') ="
        " 'streaming'), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn()"
        " END::text"
    )[0]
    return StandbyFacts(bool(row[0]), bool(row[1]), Lsn.parse(row[2]) if row[2] else None)
