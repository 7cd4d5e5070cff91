"""The demo's replica: made from the repository while its primary is written, and shown to follow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import servers

NAME = "frk-replica"


def policy(base: Path, port: int) -> str:
    """The [[replica]] of a cluster's policy."""
    return f"""
[[replica]]
name = "{NAME}"
data_directory = "{base}/{NAME}"
port = {port}
follow = "primary"
"""


def make(policies: Path, primary: str, replica: str) -> dict[str, Any]:
    """Make it and wait until it has replayed what its primary had a moment ago; both connect by their conninfo."""
    owner = ["--owner", servers.OWNER] if servers.OWNER else []
    made = servers.replicator(policies, "replica", "create", "frk", NAME, *owner)
    with psycopg.connect(primary, autocommit=True) as one, psycopg.connect(replica, autocommit=True) as other:
        lsn = _value(one, "SELECT pg_current_wal_flush_lsn()")
        asked = time.monotonic()
        while not _value(other, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"):
            if time.monotonic() - asked > 30:
                raise RuntimeError(f"the replica has not replayed {lsn} within 30 s")
            time.sleep(0.01)
        followed = time.monotonic() - asked
        rows = _value(other, "SELECT count(*) FROM kegiatan")
    (listed,) = servers.replicator(policies, "replica", "list", "frk")
    return {
        "create_s": round(made["elapsed_s"], 2),
        "snapshot": made["snapshot"],
        "store": made["store"],
        "state": listed["state"],
        "lag_bytes": listed["lag_bytes"],
        "replay_s": round(followed, 3),
        "rows": int(rows),
    }


def _value(connection: psycopg.Connection, sql: str) -> Any:
    row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]
