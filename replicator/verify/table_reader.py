"""Reading and hashing every row of a database, on one server or on two at once, by parts of tables.

Owns the parts and the threads: each has a session of its own on every side and runs one statement at a time, so that
as many processors are busy as there are threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock, local

from replicator.errors import ReplicatorError
from replicator.postgres.query import SqlConnection
from replicator.postgres.tables import RowHash, Table, by_columns, hash_rows, whole_row

#: 64 MB of a table with pages of 8 KiB.
PART_PAGES = 8192
#: A server before 14 finds no range of pages without reading the whole table.
_RANGES_SINCE = 140000
#: How values without a hash look, whatever a database or a role says: two sides have to say the same.
_LOOKS = {
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
}
Connect = Callable[[], SqlConnection]


@dataclass(frozen=True, slots=True)
class Part:
    """Pages [first, end) of a table that has a page in every side; `end` None: to its end."""

    tables: tuple[Table, ...]
    first: int
    end: int | None

    @property
    def bytes(self) -> int:
        """About so much is read, on one side."""
        table = self.tables[0]
        last = table.pages if self.end is None else self.end
        return table.bytes * (last - self.first) // max(1, table.pages)


@dataclass(frozen=True, slots=True)
class Seen:
    """What each side said of a part: a hash, or the error in its place. `as_text`: not all by the types' own hashes."""

    part: Part
    how: str
    as_text: bool
    sides: tuple[RowHash | ReplicatorError, ...]


def parts_of(tables: Sequence[Table], *, ranges: bool) -> Iterator[Part]:
    """The parts of one table, given as each side has it."""
    pages = max(table.pages for table in tables)
    starts = list(range(0, pages, PART_PAGES)) if ranges and pages else [0]
    for first in starts:
        yield Part(tuple(tables), first, None if first == starts[-1] else first + PART_PAGES)


class TableReader:
    """Reads parts on every side with `workers` threads. Close it, or use it in a with statement."""

    def __init__(self, sides: Sequence[Connect], workers: int | None = None) -> None:
        self._sides = sides
        self._workers = workers or os.cpu_count() or 1
        self._own = local()
        self._open: list[SqlConnection] = []
        self._lock = Lock()
        self._by_columns: dict[str, str] = {}

    def __enter__(self) -> TableReader:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._open:
            session.close()

    def read(self, tables: Iterable[tuple[Table, ...]]) -> Iterator[Seen]:
        """Every part of these tables, as they are done. Raises when no session can be opened."""
        sessions = self._sessions()
        ranges = all(session.server_version >= _RANGES_SINCE for session in sessions)
        parts = (part for found in tables for part in parts_of(found, ranges=ranges))
        running: set[Future[Seen]] = set()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="read")
        try:
            for part in parts:
                running.add(pool.submit(self.look, part))
                if len(running) >= 4 * self._workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            for future in running:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def look(self, part: Part) -> Seen:
        """One part on every side, hashed the same way. Raises when a session can't be opened."""
        sessions = self._sessions()
        oldest = min(sessions, key=lambda session: session.server_version)
        table = part.tables[0]
        how = self._by_columns.get(table.name) or whole_row(oldest)
        found = [_hash(session, one, part, how) for session, one in zip(sessions, part.tables, strict=True)]
        if None in found:
            try:
                how = self._by_columns[table.name] = by_columns(sessions[0], table)
            except ReplicatorError as error:
                return Seen(part, how, True, (error,) * len(found))
            found = [_hash(session, one, part, how) for session, one in zip(sessions, part.tables, strict=True)]
        as_text = table.name in self._by_columns or oldest.server_version < _RANGES_SINCE
        return Seen(part, how, as_text, tuple(one for one in found if one is not None))

    def sessions(self) -> Sequence[SqlConnection]:
        """This thread's sessions, one for each side."""
        return self._sessions()

    def _sessions(self) -> Sequence[SqlConnection]:
        held: list[SqlConnection] = getattr(self._own, "sessions", [])
        if not held or any(session.closed for session in held):
            held = []
            for connect in self._sides:
                held.append(connect())
                with self._lock:
                    self._open.append(held[-1])
                held[-1].execute("SET max_parallel_workers_per_gather = 0")
                held[-1].execute("SET jit = off")
                for name, value in _LOOKS.items():
                    held[-1].execute(f"SET {name} = '{value}'")
            self._own.sessions = held
        return held


def _hash(session: SqlConnection, table: Table, part: Part, how: str) -> RowHash | ReplicatorError | None:
    try:
        return hash_rows(session, table, how, part.first, part.end)
    except ReplicatorError as error:
        return error
