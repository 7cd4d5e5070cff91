"""Two servers with the same data: every row of every table, every sequence, the large objects; and where they differ.
The catalogs are tables too: roles, rights, functions and views are rows of theirs.

Owns the findings' words. It needs both servers to stand still, and to be physical copies of one cluster: then a row is
at the same place in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator.core.finding import Finding
from replicator.core.progress import Progress, Report
from replicator.errors import ReplicatorError
from replicator.postgres.query import SqlConnection
from replicator.postgres.tables import (
    Table,
    databases,
    hash_each,
    hash_rows,
    key_at,
    sequence_state,
    sequences,
    tables,
)
from replicator.verify.table_reader import PART_PAGES, Part, Seen, TableReader

DIFFERS, UNREADABLE = "data_differs", "table_unreadable"
_LOCATED = 5
_SHOWN = 20
_HINT = "Find out which side is right before anything is thrown away, and keep the record of this comparison."


@dataclass(frozen=True)
class Side:
    """One of the two: its name for people, and a session in one of its databases."""

    name: str
    session: Callable[[str], SqlConnection]


@dataclass
class Comparison:
    """The work and its figures."""

    sides: tuple[Side, Side]
    report: Report
    affects: str
    workers: int | None = None
    tables: int = 0
    rows: int = 0
    bytes: int = 0
    by_text: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For the record. `by_text`: tables with values hashed by their text, for their type has no hash."""
        return {"tables": self.tables, "rows": self.rows, "bytes": self.bytes, "by_text": sorted(self.by_text)[:_SHOWN]}

    def findings(self, first: str) -> Iterator[Finding]:
        """Compare everything; `first` is a database that can be connected to."""
        lists = []
        for side in self.sides:
            with side.session(first) as session:
                lists.append(databases(session))
        yield from self._only_in_one("database", set(lists[0]), set(lists[1]))
        for name in sorted(set(lists[0]) & set(lists[1])):
            yield from self._database(name)

    def _database(self, name: str) -> Iterator[Finding]:
        place = f"of database {name}"
        with self.sides[0].session(name) as one, self.sides[1].session(name) as other:
            found = [{table.name: table for table in tables(each, catalogs=True)} for each in (one, other)]
            counters = [sequences(each) for each in (one, other)]
            yield from self._only_in_one("table", set(found[0]), set(found[1]), place)
            yield from self._only_in_one("sequence", set(counters[0]), set(counters[1]), place)
            for sequence in sorted(set(counters[0]) & set(counters[1])):
                yield from self._sequence((one, other), sequence, counters, place)
        both = sorted(set(found[0]) & set(found[1]))
        yield from self._rows(name, [(found[0][table], found[1][table]) for table in both])

    def _sequence(
        self, sessions: Sequence[SqlConnection], name: str, steps: Sequence[dict[str, int]], place: str
    ) -> Iterator[Finding]:
        states = []
        for side, session, step in zip(self.sides, sessions, steps, strict=True):
            try:
                states.append(sequence_state(session, name, step[name]))
            except ReplicatorError as error:
                text = f"sequence {name} {place} can't be read: {side.name}: {error.message}"
                yield Finding(UNREADABLE, text, _HINT, self.affects, object=name)
                return
        if states[0] != states[1]:
            values = " and ".join(str(value) for value, _ in states)
            yield self._differ(f"sequence {name} {place} stands at {values} in {self._names}", name)

    def _rows(self, database: str, pairs: Sequence[tuple[Table, Table]]) -> Iterator[Finding]:
        total = self.bytes + sum(pair[0].bytes for pair in pairs)
        self.tables += len(pairs)
        different: dict[str, Seen] = {}
        unread: dict[str, str] = {}
        with TableReader([lambda side=side: side.session(database) for side in self.sides], self.workers) as reader:  # type: ignore[misc]
            for seen in reader.read(pairs):
                self._count(seen, total)
                table = seen.part.tables[0].name
                for side, answer in zip(self.sides, seen.sides, strict=True):
                    if isinstance(answer, ReplicatorError):
                        unread.setdefault(table, f"{side.name}: {answer.message}")
                if table not in unread and seen.sides[0] != seen.sides[1]:
                    earlier = different.get(table)
                    if earlier is None or seen.part.first < earlier.part.first:
                        different[table] = seen
            for table, why in sorted(unread.items(), key=_catalogs_last)[:_SHOWN]:
                text = f"table {table} of database {database} can't be read: {why}"
                yield Finding(UNREADABLE, text, _HINT, self.affects, object=table)
            for number, (table, seen) in enumerate(sorted(different.items(), key=_catalogs_last)[:_SHOWN]):
                where = self._where(reader.sessions(), seen) if number < _LOCATED else ""
                text = f"table {table} of database {database} differs between {self._names}{where}"
                yield self._differ(text, table)
        if len(different) > _SHOWN or len(unread) > _SHOWN:
            yield self._differ(f"{len(different)} tables of database {database} differ, {len(unread)} can't be read")

    def _count(self, seen: Seen, total: int) -> None:
        self.bytes += seen.part.bytes
        answer = seen.sides[0]
        if not isinstance(answer, ReplicatorError):
            self.rows += answer.rows
        if seen.as_text and seen.part.tables[0].name not in self.by_text:
            self.by_text.append(seen.part.tables[0].name)
        self.report(Progress("verify", "compare", self.bytes, total))

    def _only_in_one(self, kind: str, one: set[str], other: set[str], place: str = "") -> Iterator[Finding]:
        for side, names in ((self.sides[0], one - other), (self.sides[1], other - one)):
            for name in sorted(names)[:_SHOWN]:
                yield self._differ(f"{kind} {name} {place}".rstrip() + f" is in {side.name} alone", name)

    def _differ(self, text: str, name: str | None = None) -> Finding:
        return Finding(DIFFERS, text, _HINT, self.affects, object=name)

    @property
    def _names(self) -> str:
        return f"{self.sides[0].name} and {self.sides[1].name}"

    def _where(self, sessions: Sequence[SqlConnection], seen: Seen) -> str:
        """The first row that differs, by its place and, where it tells nothing of a person, its key."""
        try:
            place = first_difference(sessions, seen.part, seen.how)
            if place is None:
                return ""
            keys = (key_at(session, table, place) for session, table in zip(sessions, seen.part.tables, strict=True))
            key = next((key for key in keys if key is not None), None)
        except ReplicatorError as error:
            return f" (where, can't be told: {error.message})"
        return f", first at {place}{f', {key}' if key else ''}"


def first_difference(sessions: Sequence[SqlConnection], part: Part, how: str) -> str | None:
    """The place of the first row of a part that differs: by halves to a page, then row by row. None where the table is
    too large for a server that finds no range of pages. Raises as SqlConnection.execute.
    """
    first, end = part.first, part.end or max(1, *(table.pages for table in part.tables))
    if any(session.server_version < 140000 for session in sessions):
        if end > PART_PAGES:
            return None
        first = end - 1  # a range is the whole table there
    while end - first > 1:
        middle = (first + end) // 2
        halves = [
            hash_rows(session, table, how, first, middle) for session, table in zip(sessions, part.tables, strict=True)
        ]
        first, end = (first, middle) if halves[0] != halves[1] else (middle, end)
    rows = [hash_each(session, table, how, first) for session, table in zip(sessions, part.tables, strict=True)]
    places = [place for place in rows[0].keys() | rows[1].keys() if rows[0].get(place) != rows[1].get(place)]
    return min(places, key=_in_order, default=None)


def _catalogs_last(found: tuple[str, object]) -> tuple[bool, str]:
    """What people made is named first."""
    return found[0].startswith("pg_catalog."), found[0]


def _in_order(place: str) -> tuple[int, int]:
    page, _, item = place.strip("()").partition(",")
    return int(page), int(item)
