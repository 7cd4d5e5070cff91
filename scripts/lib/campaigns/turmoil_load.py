"""What happens to a cluster while the campaign of turmoil reads it: pgbench, and sessions that rewrite, make, drop,
shrink and grow. Owns no snapshot and no restore.

A session's statement that another one gets in the way of is counted and tried again in another shape.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from replicator.postgres.binaries import as_user, environment
from tests.clusters import OWNER, TestCluster, own, run_as_owner
from tests.e2e.shapes import literal, run

#: Pages of 8 KiB in a file of 1 GB, and where the large relation begins and ends beside that.
GIGABYTE = 131_072
_BELOW, _MORE = GIGABYTE - 800, 1600
_SCALE = 5
_PART = 100
_LARGE = "SELECT g, repeat(md5(g::text), 13) FROM generate_series(%s::int, %s) g"


class Load:
    """Everything that goes on. `directories` are the places of tablespaces, all that there ever were."""

    def __init__(self, cluster: TestCluster, chance: random.Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.done: Counter[str] = Counter()
        self.disturbed: Counter[str] = Counter()
        self.directories: list[Path] = []
        self.failure: Exception | None = None
        self._ending, self._number, self._lock = threading.Event(), 0, threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pgbench: subprocess.Popen[bytes] | None = None

    @property
    def _server(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.cluster.port), "-U", "postgres"]

    def fill(self) -> None:
        """What all of it works on, once."""
        self.cluster.sql("CREATE DATABASE bank")
        run_as_owner([self.cluster.binaries.program("pgbench"), "-i", "-q", "-s", _SCALE, *self._server, "bank"])
        self.cluster.sql("CREATE DATABASE contoh")
        self.cluster.sql("CREATE TABLE rencana AS SELECT g AS id, md5(g::text) AS isi FROM generate_series(1, 3000) g",
                         dbname="contoh")  # fmt: skip
        self.cluster.sql("CREATE TABLE susut (id int PRIMARY KEY, isi text)")
        self.cluster.sql("CREATE TABLE raksasa (id int, isi text) WITH (fillfactor = 10)")
        self.cluster.sql("ALTER TABLE raksasa ALTER isi SET STORAGE PLAIN")

    def prepare(self) -> None:
        """The large relation just below 1 GB, a row in a page."""
        self.cluster.sql("TRUNCATE raksasa")
        self.cluster.sql(f"INSERT INTO raksasa {_LARGE}", (1, _BELOW))
        self.cluster.sql("CHECKPOINT")

    @property
    def large(self) -> int:
        """The pages of the large relation."""
        return int(self.cluster.value("SELECT pg_relation_size('raksasa') / 8192"))

    def begin(self, *, in_place: bool) -> None:
        """All of it but the growing, which is to happen while files are read. `in_place`: tablespaces there, too."""
        self._ending.clear()
        self.done.clear()
        self.disturbed.clear()
        command = [self.cluster.binaries.program("pgbench"), "-n", "-c", "4", "-T", "3600", *self._server, "bank"]
        quiet = subprocess.DEVNULL
        self._pgbench = subprocess.Popen(
            [str(part) for part in command], stdin=quiet, stdout=quiet, stderr=quiet, env=environment(),
            **as_user(OWNER),
        )  # fmt: skip
        kinds: dict[str, Callable[[psycopg.Connection[Any]], None]] = {
            "rewritten": self._rewrite, "databases": self._database, "shrunk": self._shrink, "vanished": self._vanish,
            "tablespaces": lambda session: self._space(session, in_place=False),
        }  # fmt: skip
        if in_place:
            kinds["in_place"] = lambda session: self._space(session, in_place=True)
        self._threads = [threading.Thread(target=self._repeat, args=item, daemon=True) for item in kinds.items()]
        for thread in self._threads:
            thread.start()

    def grow(self) -> None:
        """Let the large relation pass 1 GB."""
        with self.cluster.session() as session:
            for first in range(_BELOW + 1, _BELOW + _MORE, _PART):
                session.execute(f"INSERT INTO raksasa {_LARGE}".encode(), (first, first + _PART - 1))

    def end(self) -> None:
        """Quiet. Raises what a session failed of."""
        self._ending.set()
        if self._pgbench is not None:
            self._pgbench.send_signal(signal.SIGINT)
            self._pgbench.wait(60)
            self._pgbench = None
        for thread in self._threads:
            thread.join(120)
        if self.failure is not None:
            raise self.failure

    def forget_in_place(self) -> None:
        """Drop tablespaces inside the data directory: not every server sends them over the network."""
        with self.cluster.session() as session:
            for (name,) in run(session, "SELECT spcname FROM pg_tablespace WHERE spcname LIKE 'setempat%'"):
                self._drop_space(session, name)

    def _repeat(self, kind: str, step: Callable[[psycopg.Connection[Any]], None]) -> None:
        try:
            with self.cluster.session() as session:
                run(session, "SET deadlock_timeout = '100ms'")
                run(session, "SET statement_timeout = '60s'")
                while not self._ending.wait(0.2):
                    try:
                        step(session)
                        self.done[kind] += 1
                    except psycopg.errors.Error:
                        if session.broken:
                            raise
                        self.disturbed[kind] += 1
        except Exception as error:  # noqa: BLE001  # raised again by `end`
            self.failure = error

    def _next(self) -> int:
        with self._lock:
            self._number += 1
            return self._number

    def _rewrite(self, _: psycopg.Connection[Any]) -> None:
        """Another file for what pgbench works on."""
        table = self.chance.choice(("accounts", "tellers", "branches", "history"))
        with self.cluster.session("bank") as session:
            if table == "history" and self.chance.random() < 0.5:
                run(session, "TRUNCATE pgbench_history")
            run(session, f"VACUUM FULL pgbench_{table}")

    def _database(self, session: psycopg.Connection[Any]) -> None:
        """A copied database that is written to; now and then an earlier one goes."""
        name = f"kerja_{self._next()}"
        how = f" STRATEGY {self.chance.choice(('wal_log', 'file_copy'))}" if self.cluster.binaries.major >= 15 else ""
        run(session, f"CREATE DATABASE {name} TEMPLATE contoh{how}")
        self.cluster.sql("UPDATE rencana SET isi = isi || 'x' WHERE id % 7 = 0", dbname=name)
        found = [row[0] for row in run(session, "SELECT datname FROM pg_database WHERE datname LIKE 'kerja%'")]
        for old in self.chance.sample(found, max(0, len(found) - 3)):
            run(session, f"DROP DATABASE {old} WITH (FORCE)")

    def _shrink(self, session: psycopg.Connection[Any]) -> None:
        """A relation that grows, and whose end is cut off by VACUUM or at once."""
        run(session, "INSERT INTO susut SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 8000) g")
        run(session, "CHECKPOINT")
        run(session, f"DELETE FROM susut WHERE id > {self.chance.randint(50, 4000)}")
        run(session, "VACUUM (TRUNCATE) susut")
        run(session, self.chance.choice(("TRUNCATE susut", "DELETE FROM susut")))

    def _vanish(self, session: psycopg.Connection[Any]) -> None:
        """Small relations that come and go."""
        for _ in range(10):
            number = self._next()
            run(session, f"CREATE TABLE hilang_{number} AS SELECT g FROM generate_series(1, 500) g")
            run(session, f"CREATE INDEX ON hilang_{number} (g)")
        found = [row[0] for row in run(session, "SELECT relname FROM pg_class WHERE relname ~ '^hilang_[0-9]+$'")]
        for old in self.chance.sample(found, max(0, len(found) - 15)):
            run(session, f"DROP TABLE {old}")

    def _space(self, session: psycopg.Connection[Any], *, in_place: bool) -> None:
        """A tablespace with a table and its index; now and then an earlier one is emptied and goes."""
        number = self._next()
        name = f"{'setempat' if in_place else 'ruang'}_{number}"
        place = ""
        if in_place:
            run(session, "SET allow_in_place_tablespaces = on")
        else:
            directory = self.cluster.home / name
            directory.mkdir()
            own(directory)
            with self._lock:
                self.directories.append(directory)
            place = str(directory)
        run(session, f"CREATE TABLESPACE {name} LOCATION {literal(place)}")
        run(session, f"CREATE TABLE di_{name} TABLESPACE {name} AS"
                     " SELECT g AS id, md5(g::text) AS isi FROM generate_series(1, 4000) g")  # fmt: skip
        run(session, f"CREATE INDEX ON di_{name} (id) TABLESPACE {name}")
        like = f"{name.rpartition('_')[0]}%"
        found = [row[0] for row in run(session, f"SELECT spcname FROM pg_tablespace WHERE spcname LIKE '{like}'")]
        for old in self.chance.sample(found, max(0, len(found) - 2)):
            self._drop_space(session, old)

    def _drop_space(self, session: psycopg.Connection[Any], name: str) -> None:
        """Half of what is in it moves out, the other half goes."""
        if self.chance.random() < 0.5:
            with suppress(psycopg.errors.UndefinedTable):
                run(session, f"ALTER TABLE di_{name} SET TABLESPACE pg_default")
                run(session, f"ALTER INDEX di_{name}_id_idx SET TABLESPACE pg_default")
        else:
            run(session, f"DROP TABLE IF EXISTS di_{name}")
        run(session, f"DROP TABLESPACE {name}")
