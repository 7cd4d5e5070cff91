"""What a server says of versions: of extensions and collations, as they were recorded and as this host has them."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.postgres.query import SqlConnection

_EXTENSIONS = """
SELECT e.extname, e.extversion, a.name IS NOT NULL,
       EXISTS (SELECT FROM pg_available_extension_versions v WHERE v.name = e.extname AND v.version = e.extversion)
FROM pg_extension e LEFT JOIN pg_available_extensions a ON a.name = e.extname ORDER BY 1
"""
_COLLATIONS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.collname), c.collversion, pg_collation_actual_version(c.oid)
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
WHERE c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid) AND c.collversion IS NOT NULL
  AND c.collencoding IN (-1, (SELECT encoding FROM pg_database WHERE datname = current_database())) ORDER BY 1
"""
_DATABASE = """
SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database
WHERE datname = current_database() AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
"""


@dataclass(frozen=True, slots=True)
class Extension:
    """One of a database: `available`: this host has it at all; `known`: in that very version."""

    name: str
    version: str
    available: bool
    known: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """A collation whose version here is not the one that was recorded when indexes were built."""

    name: str
    recorded: str | None
    actual: str | None


def extensions(connection: SqlConnection) -> list[Extension]:
    """Those of the session's database."""
    return [Extension(*row) for row in connection.execute(_EXTENSIONS)]


def changed_collations(connection: SqlConnection) -> list[Changed]:
    """Those of the session's database; the database's own default is called after the database (PostgreSQL 15)."""
    found = [Changed(*row) for row in connection.execute(_COLLATIONS)]
    if connection.server_version >= 150000:
        found += [Changed("the database's default", *row) for row in connection.execute(_DATABASE)]
    return found
