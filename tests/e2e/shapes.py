"""Clusters of every shape that PostgreSQL knows, and the question whether a restored one is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from tests.clusters import TestCluster, own, run_as_owner
from tests.e2e.site import Site

CONF = {
    "max_prepared_transactions": "10",
    "max_locks_per_transaction": "1024",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "wal_keep_size": "128MB",
}
#: Databases whose names need quotes, escapes and more than ASCII.
DATABASES = ('frk "rencana" kerja', "évaluasi diri — ﷽", "Sëmëster'25 \\n %s $1")
TABLE = 'bukti "kegiatan" — naïve\'s; DROP'
#: A page for each row: a table of this many pages is larger than one file of 1 GB.
PAGES_OVER_1_GB = 140_000


def quoted(name: str) -> str:
    """As an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """As a string."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@dataclass
class Shaped:
    """A cluster with something of everything. `directories`: an ordinary tablespace's OID and where it is."""

    cluster: TestCluster
    directories: dict[int, Path] = field(default_factory=dict)

    @contextmanager
    def on(self, database: str) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's session in a database of any name."""
        with connect(self.cluster.port, database) as connection:
            yield connection

    def databases(self) -> None:
        """Several, with odd names, each with an oddly named schema, table and column."""
        for name in DATABASES:
            self.cluster.sql(f"CREATE DATABASE {quoted(name)}")
            with self.on(name) as connection:
                run(connection, f"CREATE SCHEMA {quoted(name)}")
                table = f"{quoted(name)}.{quoted(TABLE)}"
                run(connection, f"CREATE TABLE {table} (id int PRIMARY KEY, {quoted('nilai ☂')} text)")
                run(connection, f"INSERT INTO {table} SELECT g, {literal(name)} || g FROM generate_series(1, 200) g")

    def tablespaces(self) -> None:
        """An ordinary one, in a directory with spaces, quotes and a backslash."""
        directory = self.cluster.home / 'ruang "tabel" \\ é'
        directory.mkdir()
        own(directory)
        self.cluster.sql(f"CREATE TABLESPACE {quoted('ruang é')} LOCATION {literal(str(directory))}")
        self.in_space("ruang é", "di_ruang")
        oid = self.cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = %s", ("ruang é",))
        self.directories[oid] = directory

    def in_place(self) -> None:
        """A tablespace inside the data directory."""
        with self.cluster.session() as session:
            run(session, "SET allow_in_place_tablespaces = on")
            run(session, "CREATE TABLESPACE setempat LOCATION ''")
        self.in_space("setempat", "di_tempat")

    def in_space(self, space: str, table: str) -> None:
        """A table in a tablespace, with an index there, too."""
        self.cluster.sql(f"CREATE TABLE {table} (id int, isi text) TABLESPACE {quoted(space)}")
        self.cluster.sql(f"CREATE INDEX ON {table} (id) TABLESPACE {quoted(space)}")
        self.cluster.sql(f"INSERT INTO {table} SELECT g, md5(g::text) FROM generate_series(1, 3000) g")

    def kinds(self) -> None:
        """An unlogged table with an index and a sequence, large objects, a sequence, values of many sizes."""
        self.cluster.sql("CREATE UNLOGGED TABLE sementara (id bigserial PRIMARY KEY, isi text)")
        self.cluster.sql("INSERT INTO sementara (isi) SELECT md5(g::text) FROM generate_series(1, 5000) g")
        self.cluster.sql("CREATE TABLE besar (id int PRIMARY KEY, isi bytea)")
        self.cluster.sql("ALTER TABLE besar ALTER isi SET STORAGE EXTERNAL")
        self.more()
        self.cluster.sql("SELECT lo_from_bytea(4711, decode(repeat('ab', 300000), 'hex'))")
        self.cluster.sql("CREATE SEQUENCE nomor")
        self.cluster.sql("SELECT setval('nomor', 12345)")

    def more(self) -> None:
        """More rows, and another large object."""
        self.cluster.sql(
            "INSERT INTO besar SELECT coalesce(max(id), 0) + g, decode(repeat(md5(g::text), 64 * g), 'hex') "
            "FROM besar, generate_series(1, 40) g GROUP BY g"
        )
        self.cluster.sql("SELECT lo_from_bytea(0, decode(repeat('cd', 5000), 'hex'))")

    def tables(self, first: int, last: int) -> None:
        """Small tables t_<first> to t_<last>, each with a row."""
        made = "EXECUTE format('CREATE TABLE t_%s AS SELECT %s AS id', n, n)"
        for begin in range(first, last + 1, 1000):
            end = min(begin + 999, last)
            self.cluster.sql(f"DO $$ BEGIN FOR n IN {begin} .. {end} LOOP {made}; END LOOP; END $$")

    def prepare(self, name: str) -> None:
        """Prepare a transaction, and leave it so."""
        with self.cluster.session() as session:
            run(session, "CREATE TABLE IF NOT EXISTS siap (nama text)")
            run(session, "BEGIN")
            run(session, f"INSERT INTO siap VALUES ('{name}')")
            run(session, f"PREPARE TRANSACTION '{name}'")

    def large(self) -> None:
        """A relation over 1 GB whose WAL is small: a short row fills a page."""
        self.cluster.sql("CREATE TABLE raksasa (id int, isi text) WITH (fillfactor = 10)")
        self.cluster.sql("ALTER TABLE raksasa ALTER isi SET STORAGE PLAIN")
        self.cluster.sql(
            "INSERT INTO raksasa SELECT g, repeat(md5(g::text), 13) FROM generate_series(1, %s) g", (PAGES_OVER_1_GB,)
        )
        path = self.cluster.value("SELECT pg_relation_filepath('raksasa')")
        assert (self.cluster.directory / f"{path}.1").exists(), "the relation has a second file"

    def change_large(self) -> None:
        """Change a row in a thousand, in both files of the large relation."""
        self.cluster.sql("UPDATE raksasa SET isi = 'lain' WHERE id % 1000 = 0")


def run(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    """Run one statement: its rows."""
    cursor = connection.execute(statement.encode())
    return cursor.fetchall() if cursor.description is not None else []


@contextmanager
def connect(port: int, database: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's session on a server of this host."""
    place = make_conninfo("", host="127.0.0.1", port=port, user="postgres", dbname=database)
    with psycopg.connect(place, autocommit=True, connect_timeout=10) as connection:
        yield connection


def dump(cluster: TestCluster, port: int) -> list[str]:
    """pg_dumpall's lines: no rows of unlogged tables, no place of a tablespace, nothing that differs each time."""
    command = [cluster.binaries.program("pg_dumpall"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    text = run_as_owner([*command, "--no-unlogged-table-data"], timeout=600)
    odd = ("\\restrict", "\\unrestrict")
    return [line.split(" LOCATION ")[0] for line in text.splitlines() if not line.startswith(odd)]


def first_difference(ours: list[str], theirs: list[str]) -> str:
    """Where two dumps part; empty when they are equal."""
    if ours == theirs:
        return ""
    pairs = enumerate(zip([*ours, "(end)"], [*theirs, "(end)"], strict=False))
    return next(f"line {number}: {one!r} is not {other!r}" for number, (one, other) in pairs if one != other)


def restore(site: Site, shaped: Shaped, store: str, name: str) -> dict[str, Any]:
    """Restore from one store to the end, its ordinary tablespaces beside it; started."""
    mapped = []
    for oid in shaped.directories:
        place = site.base / f'{name} "ruang" {oid} é'
        place.mkdir()
        own(place)
        mapped += ["--tablespace", f"{oid}={place}"]
    return site.restore("--latest", "--store", store, *mapped, name=name)


def assert_unlogged_is_empty(port: int) -> None:
    """The unlogged table is there, empty, and can be used."""
    with connect(port, "postgres") as connection:
        assert run(connection, "SELECT count(*) FROM sementara") == [(0,)]
        run(connection, "INSERT INTO sementara (isi) VALUES ('baru')")
        assert run(connection, "SELECT isi FROM sementara WHERE isi = 'baru'") == [("baru",)]


def assert_prepared(port: int, names: list[str]) -> None:
    """These transactions are prepared, not seen; committed, they are."""
    with connect(port, "postgres") as connection:
        held = run(connection, "SELECT gid FROM pg_prepared_xacts ORDER BY gid")
        assert held == [(name,) for name in sorted(names)]
        assert run(connection, "SELECT count(*) FROM siap") == [(0,)]
        for name in names:
            run(connection, f"COMMIT PREPARED '{name}'")
        assert run(connection, "SELECT nama FROM siap ORDER BY nama") == held


def assert_no_left_overs(directory: Path) -> None:
    """No file of a temporary table came along."""
    found = [path for path in directory.rglob("t[0-9]*_[0-9]*") if path.is_file()]
    assert found == []
