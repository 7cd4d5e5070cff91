"""What is asked of a restored cluster once its server runs: versions, every row, every index, every page.

Owns the order of the looks and the findings' words. Each look goes on after what it finds, to name all of it.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from replicator.core.finding import Finding
from replicator.core.progress import Progress, Report
from replicator.errors import BinariesMissing, DeadlineExceeded, HostLacks, ReplicatorError
from replicator.postgres.binaries import as_user, environment
from replicator.postgres.collations import changed_collations, extensions
from replicator.postgres.controldata import read_controldata
from replicator.postgres.tables import closed_databases, databases, disable_event_triggers, tables
from replicator.verify.drill_server import Restored
from replicator.verify.table_reader import TableReader

UNREADABLE, INDEX_CORRUPT, PAGE_CORRUPT = "table_unreadable", "index_corrupt", "page_corrupt"
EXTENSION_MISSING, COLLATION_CHANGED, NOT_CHECKED = "extension_missing", "collation_changed", "not_checked"
_SHOWN = 10
_MOST_OUTPUT = 65536
_TORN = "Compare with the source: if it is well there, take a new snapshot with --full; if not, repair it there."


@dataclass
class Looks:
    """What was looked at, and found."""

    restored: Restored
    report: Report
    checked: int = 0
    rows: int = 0
    bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    databases: list[str] = field(default_factory=list)

    @property
    def affects(self) -> str:
        """What does not work when a look goes wrong."""
        plan = self.restored.plan
        return f"a restore of snapshot {plan.snapshot.label} from store {plan.store} to {plan.target}"

    def versions(self) -> Iterator[Finding]:
        """Extensions that this host lacks, collations that are others here."""
        with self.restored.session("template1") as session:
            self.databases = databases(session)
            closed = closed_databases(session)
        for name in closed:
            text = f"database {name} was not read: it allows no connections"
            yield Finding(NOT_CHECKED, text, "Its pages' checksums were checked, where the cluster has them.")
        for database in self.databases:
            with self.restored.session(database) as session:
                found = extensions(session)
                collations = changed_collations(session)
            self.facts.setdefault("extensions", {})[database] = {each.name: each.version for each in found}
            for each in found:
                self.checked += 1
                if not each.available:
                    text = f"database {database} uses extension {each.name} {each.version}, which this host lacks"
                    hint = f"Install its package for PostgreSQL {self.restored.binaries.major} on this host."
                    yield Finding(EXTENSION_MISSING, text, hint, f"what database {database} does with {each.name}")
                elif not each.known:
                    text = f"extension {each.name} of database {database} is {each.version}; this host has others"
                    yield Finding(EXTENSION_MISSING, text, "Install the package of that version, or update it there.")
            for one in collations:
                text = (
                    f"collation {one.name} of database {database} was {one.recorded or 'without a version'},"
                    f" here it is {one.actual or 'without a version'}"
                )
                hint = "After a restore on this host run REINDEX and ALTER COLLATION … REFRESH VERSION."
                yield Finding(COLLATION_CHANGED, text, hint)

    def read(self) -> Iterator[Finding]:
        """Every row of every table of every database, out-of-line values included."""
        total = 0
        for database in self.databases:
            with self.restored.session(database) as session:
                found = tables(session, catalogs=True)
            total += sum(table.bytes for table in found)
            self.checked += len(found)
            wrong: dict[str, str] = {}
            with TableReader([lambda name=database: self.restored.session(name)]) as reader:  # type: ignore[misc]
                for seen in reader.read((table,) for table in found):
                    answer = seen.sides[0]
                    self.bytes += seen.part.bytes
                    self.report(Progress("verify", "tables", self.bytes, total))
                    if isinstance(answer, ReplicatorError):
                        wrong.setdefault(seen.part.tables[0].name, answer.message)
                    else:
                        self.rows += answer.rows
            for name, why in sorted(wrong.items())[:_SHOWN]:
                text = f"table {name} of database {database} can't be read: {why}"
                yield Finding(UNREADABLE, text, _TORN, f"table {name} in {self.affects}", object=name)
            if len(wrong) > _SHOWN:
                text = f"{len(wrong) - _SHOWN} more tables of database {database} can't be read"
                yield Finding(UNREADABLE, text, _TORN, self.affects)
        self.facts |= {"tables": self.checked, "rows": self.rows, "bytes": self.bytes, "databases": self.databases}

    def indexes(self) -> Iterator[Finding]:
        """pg_amcheck over every database, each index against its table."""
        restored = self.restored
        lacking = self._lacks_amcheck()
        self.facts["amcheck"] = lacking is None
        if lacking is not None:
            yield Finding(NOT_CHECKED, f"indexes were not checked: {lacking}", "Install PostgreSQL's contrib modules.")
            return
        command = [str(restored.binaries.program("pg_amcheck")), "--all", "--install-missing", "--heapallindexed"]
        command += ["--jobs=2", "-h", str(restored.run.data), "-p", str(restored.port), "-U", restored.superuser, "-w"]
        for database in self.databases:  # where the extension is made now, the source's triggers are not to run
            with restored.session(database) as session:
                disable_event_triggers(session)
        self.report(Progress("verify", "indexes"))
        code, said = _run(restored, command, {"PGOPTIONS": " ".join(f"-c {option}" for option in restored.quiet)})
        heads = [line for line in said if line and not line[0].isspace()]
        if code == 1:
            text = f"indexes were not checked: pg_amcheck says {'; '.join(said[:_SHOWN]) or 'nothing'}"
            yield Finding(NOT_CHECKED, text, "Run pg_amcheck on the source, and drill again.", self.affects)
        elif code != 0:
            told = [*heads[:_SHOWN], f"and {len(heads) - _SHOWN} more lines"] if len(heads) > _SHOWN else heads
            text = f"pg_amcheck found: {'; '.join(told) or f'exit code {code}'}"
            hint = "Rebuild a corrupt index with REINDEX at the source; a corrupt table needs an older snapshot."
            yield Finding(INDEX_CORRUPT, text, hint, self.affects)

    def _lacks_amcheck(self) -> str | None:
        try:
            self.restored.binaries.program("pg_amcheck")
        except BinariesMissing as error:
            return error.message
        with self.restored.session("template1") as session:
            there = session.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'")[0][0]
        return None if there else "this host has no extension amcheck"

    def pages(self) -> Iterator[Finding]:
        """The checksum of every page. The server is stopped."""
        restored = self.restored
        control = read_controldata(restored.binaries, restored.run.data, owner=restored.owner)
        self.facts["checksums"] = control.checksums
        if not control.checksums:
            hint = "Turn them on with pg_checksums --enable while the source is down, or make the next cluster with -k."
            yield Finding(NOT_CHECKED, "page checksums were not checked: the cluster has none", hint)
            return
        try:
            program = restored.binaries.program("pg_checksums")
        except BinariesMissing as error:
            yield Finding(NOT_CHECKED, f"page checksums were not checked: {error.message}", error.hint)
            return
        self.report(Progress("verify", "pages"))
        code, said = _run(restored, [str(program), "--check", "-D", str(restored.run.data)])
        if code != 0:
            wrong = [line.strip() for line in said if "rror" in line or "fail" in line][:_SHOWN] or said[:_SHOWN]
            text = f"page checksums are wrong: {'; '.join(wrong) or f'exit code {code}'}"
            yield Finding(PAGE_CORRUPT, text, _TORN, self.affects)


def _run(restored: Restored, command: list[str], extra: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """A program's exit code and its first lines. It works in the data directory, so that it ends with all else there.

    Raises HostLacks, DeadlineExceeded.
    """
    given = {**as_user(restored.owner), "cwd": restored.run.data}
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment(extra),
                timeout=max(1.0, restored.deadline.remaining()), check=False, **given,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"{command[0]} had no time to end") from error
        except OSError as error:
            raise HostLacks(f"{command[0]} can not be run") from error
        output.seek(0)
        return done.returncode, output.read(_MOST_OUTPUT).decode("utf-8", "replace").splitlines()
