"""What the campaign of kills writes, and what must be equal afterwards. Owns no kill."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg

from tests.clusters import TestCluster

#: All that must be equal: the ledger's rows, and a table whose pages change here and there.
_FACTS = (
    b"SELECT (SELECT count(*) || ' ' || coalesce(sum(id), 0) FROM kegiatan),"
    b" (SELECT md5(string_agg(isi, '' ORDER BY id)) FROM bukti)"
)
BULK = (
    "CREATE TABLE bukti AS SELECT g AS id, (SELECT string_agg(md5(random()::text || k), '')"
    " FROM generate_series(1, 40) k WHERE g > 0) AS isi FROM generate_series(1, 12000) g"
)
SCATTER = "UPDATE bukti SET isi = md5(random()::text) || substr(isi, 33) WHERE random() < 0.02"


class Writer(threading.Thread):
    """Commits a row every few milliseconds until `end`, but not while somebody else holds `turn`."""

    def __init__(self, cluster: TestCluster) -> None:
        super().__init__(name="writer", daemon=True)
        self._cluster, self._ending, self.turn = cluster, threading.Event(), threading.Lock()

    def run(self) -> None:
        """Until `end`."""
        with self._cluster.session() as connection:
            while not self._ending.wait(0.02):
                with self.turn:
                    connection.execute(b"INSERT INTO kegiatan (isi) VALUES (md5(random()::text))")

    def end(self) -> None:
        """Stop and wait."""
        self._ending.set()
        self.join(30)


def facts_of(conninfo: str) -> list[str]:
    """What must be equal. Raises psycopg.Error."""
    with psycopg.connect(conninfo, connect_timeout=5) as connection:
        row = connection.execute(_FACTS).fetchone()
    assert row is not None
    return [str(value) for value in row]


def facts_of_recovered(directory: Path, port: int, deadline: float) -> list[str] | None:
    """The facts of a server once it has recovered, for which it has so many seconds; None when it ended."""
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        try:
            return facts_of(f"host=127.0.0.1 port={port} user=postgres dbname=postgres")
        except psycopg.Error:
            if not (directory / "postmaster.pid").exists():
                return None
            time.sleep(0.1)
    return [f"neither started nor ended within {deadline:.0f} s"]
