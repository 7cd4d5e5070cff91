"""Every table of a server, read whole on the server's side, and hashed so that the order of rows does not matter.

Owns the SQL for it. A hash is equal where the types call their values equal; a value of a type without a hash of its
own is hashed by its text. Nothing of a row ever leaves the server but its hash and, for a surrogate key, that key.
No code of a table's owner runs: text is what a type's output function gives, never a cast, and no domain is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.conninfo import make_conninfo

from replicator.errors import ReplicatorError
from replicator.postgres.query import SqlConnection

#: "Could not identify a hash function for this type".
_UNDEFINED_FUNCTION = "42883"
#: Since then rows have a hash, and ranges of pages are found without reading the whole table.
_HASHES_SINCE = 140000
#: An alias that no column has: the whole row is meant.
_ROW = '"replicator: row"'
_PLACE = re.compile(r"\(\d+,\d+\)\Z")
_TABLES = """
SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text,
       pg_relation_size(c.oid), pg_table_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = ANY(%s) AND c.relpersistence = 'p' AND ({which})
ORDER BY 2
"""
_COLUMNS = """
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_OURS = "n.nspname <> ALL('{pg_catalog,information_schema,pg_toast}') OR c.oid IN (2613, 2995)"
#: Whole numbers and UUIDs tell nothing of a person: such a key may be named.
_KEY = """
SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place)
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s AND i.indisprimary HAVING bool_and(a.atttypid IN (20, 21, 23, 2950))
"""


@dataclass(frozen=True, slots=True)
class Table:
    """`name` is quoted. `pages`: those of the table alone; `bytes` with what is stored out of line."""

    oid: int
    name: str
    kind: str
    pages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RowHash:
    """The number of rows and the sum of their hashes: the same for the same rows in any order."""

    rows: int = 0
    total: int = 0

    def __add__(self, other: RowHash) -> RowHash:
        return RowHash(self.rows + other.rows, self.total + other.total)


def local_session(
    directory: str, port: int, user: str, database: str, *, timeout: float, options: Sequence[str] = ()
) -> SqlConnection:
    """A session over a server's local socket. `options` are settings, each `name=value` without spaces; `timeout`
    seconds for each statement. Raises SourceUnavailable and its kinds.
    """
    told = " ".join(f"-c {option}" for option in options)
    conninfo = make_conninfo(
        "", host=directory, port=port, user=user, dbname=database, target_session_attrs="any", options=told
    )
    return SqlConnection(conninfo, None, connect_timeout=min(timeout, 30.0), statement_timeout=timeout)


def databases(connection: SqlConnection) -> list[str]:
    """Those that can be connected to."""
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname"
    )
    return [row[0] for row in rows]


def closed_databases(connection: SqlConnection) -> list[str]:
    """Those that can't, but for the server's own template0 and what was half dropped."""
    rows = connection.execute(
        "SELECT datname FROM pg_database WHERE NOT datallowconn AND datconnlimit <> -2 AND datname <> 'template0'"
        " ORDER BY datname"
    )
    return [row[0] for row in rows]


def disable_event_triggers(connection: SqlConnection) -> None:
    """Those of the session's database, for good. They do not run for this. Raises as SqlConnection.execute."""
    rows = connection.execute("SELECT quote_ident(evtname) FROM pg_event_trigger WHERE evtenabled <> 'D'")
    for (name,) in rows:
        connection.execute(f"ALTER EVENT TRIGGER {name} DISABLE")


def superusers(connection: SqlConnection) -> list[str]:
    """The roles that may do all and log in, the first of the cluster's first."""
    rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid")
    return [row[0] for row in rows]


def tables(connection: SqlConnection, *, catalogs: bool) -> list[Table]:
    """The permanent tables and materialized views of the session's database; large objects are among them.

    `catalogs`: the system's own as well.
    """
    block = int(connection.execute("SELECT current_setting('block_size')")[0][0])
    query = _TABLES.format(which="true" if catalogs else _OURS)
    rows = connection.execute(query, (["r", "m"],))
    return [Table(oid, name, kind, -(-size // block), total or 0) for oid, name, kind, size, total in rows]


def sequences(connection: SqlConnection) -> dict[str, int]:
    """The permanent sequences, quoted, with their increments."""
    rows = connection.execute(_TABLES.format(which="true"), (["S"],))
    steps = dict(connection.execute("SELECT seqrelid::bigint, seqincrement FROM pg_sequence"))
    return {name: steps[oid] for oid, name, *_ in rows}


def sequence_state(connection: SqlConnection, name: str, increment: int) -> tuple[int, bool]:
    """How far a sequence may have been used according to the WAL, and whether it was used at all.

    A page copied by a backup holds the value itself and how many more the WAL has promised; replay leaves the sum.
    """
    query = f"SELECT last_value + log_cnt * {increment}::numeric, is_called FROM {name}"  # noqa: S608 quoted by the server
    value, called = connection.execute(query)[0]
    return int(value), called


def pages_range(connection: SqlConnection, first: int, end: int | None) -> str:
    """The condition for pages [first, end); the whole table where the server has no way to a range (before 14)."""
    if connection.server_version < _HASHES_SINCE or (first == 0 and end is None):
        return "true"
    return f"ctid >= '({first},0)'::tid" + (f" AND ctid < '({end},0)'::tid" if end is not None else "")


def whole_row(connection: SqlConnection) -> str:
    """The hash of a row by its types' own functions (PostgreSQL 14), else of its text: SQL for `hash_rows`."""
    if connection.server_version >= _HASHES_SINCE:
        return f"hash_record_extended({_ROW}.*, 0)"
    return f"hashtextextended(concat({_ROW}.*), 0)"


def by_columns(connection: SqlConnection, table: Table) -> str:
    """The same, with the text of those columns whose types have no hash of their own."""
    names = [name for (name,) in connection.execute(_COLUMNS, (table.oid,))]
    values = [f"{_ROW}.{name}" if _has_hash(connection, table, name) else _text(f"{_ROW}.{name}") for name in names]
    return f"hash_record_extended(ROW({', '.join(values)}), 0)"


def _text(value: str) -> str:
    """Null for a null, which a row of nulls is not. A cast to text may be of the type's owner's making."""
    return f"CASE num_nulls({value}) WHEN 0 THEN concat({value}) END"


def _has_hash(connection: SqlConnection, table: Table, column: str) -> bool:
    """Asked with a null of the column's type that is made without a look at what its domain allows."""
    value = f"(SELECT 1) one LEFT JOIN ONLY {table.name} {_ROW} ON false"
    try:
        connection.execute(f"SELECT hash_record_extended(ROW({_ROW}.{column}), 0) FROM {value}")  # noqa: S608 quoted by the server
    except ReplicatorError as error:
        if error.context.get("sqlstate") != _UNDEFINED_FUNCTION:
            raise
        return False
    return True


def hash_rows(
    connection: SqlConnection, table: Table, how: str, first: int = 0, end: int | None = None
) -> RowHash | None:
    """Read and hash the rows on pages [first, end) of a table, as `whole_row` or `by_columns` say; None where a type
    of its has no function for that. Raises as SqlConnection.execute.
    """
    condition = pages_range(connection, first, end)
    query = f"SELECT count(*), coalesce(sum({how}), 0) FROM ONLY {table.name} {_ROW} WHERE {condition}"  # noqa: S608 quoted by the server
    try:
        rows, total = connection.execute(query)[0]
    except ReplicatorError as error:
        if error.context.get("sqlstate") == _UNDEFINED_FUNCTION:
            return None
        raise
    return RowHash(rows, int(total))


def hash_each(connection: SqlConnection, table: Table, how: str, page: int) -> dict[str, int]:
    """The hash of every row of one page (of all, before 14), by its place."""
    condition = pages_range(connection, page, page + 1)
    query = f"SELECT ctid::text, {how} FROM ONLY {table.name} {_ROW} WHERE {condition}"  # noqa: S608
    return dict(connection.execute(query))


def key_at(connection: SqlConnection, table: Table, place: str) -> str | None:
    """The primary key of the row at a place, where it is a surrogate (whole numbers, UUIDs): "id = 7"."""
    columns = connection.execute(_KEY, (table.oid,))
    if not columns or not columns[0][0]:
        return None
    if not _PLACE.match(place):
        return None
    rows = connection.execute(f"SELECT ROW({columns[0][0]})::text FROM ONLY {table.name} WHERE ctid = '{place}'")  # noqa: S608
    return f"({columns[0][0]}) = {rows[0][0]}" if rows else None
