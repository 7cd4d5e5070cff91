"""A base backup read from the data directory beside the server, by several threads.

Owns the order: files are found, read in parallel piece by piece, and placed by one thread; then global/pg_control, the
end of the backup, the server's label, and a backup manifest of our own. Files that look as they did when the parent was
taken are taken over unread; once a week all are read. Memory: a few pieces of 4 MiB per worker.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from replicator.core.progress import Progress
from replicator.errors import Interrupted
from replicator.postgres.beside import Beside, confirm_beside
from replicator.postgres.controlfile import read_control
from replicator.postgres.datadir import CONTROL_FILE, FoundSpace, tablespaces, walk
from replicator.postgres.manifestwriter import ManifestWriter
from replicator.postgres.query import SqlConnection
from replicator.postgres.sqlbackup import BackupEnd, SqlBackup
from replicator.snapshot.localplace import LocalPlacer
from replicator.snapshot.localplan import LocalPlan
from replicator.snapshot.localread import LocalFiles, Piece, PieceRead
from replicator.snapshot.pace import Pace
from replicator.snapshot.parentindex import CHECKED
from replicator.snapshot.scratch import Scratch
from replicator.snapshot.source import LABEL_FILE, Asked, Ended, Intake, ReadingProgress, Source, Totals
from replicator.snapshot.stamps import SETTLED_S, comparison_due
from replicator.tolerance import Clock, SystemClock

MAP_FILE = "tablespace_map"
#: What the index remembers: when everything was last read, in Unix seconds.
COMPARED = "compared"
_TICK = 0.1
_ALIVE_EVERY_S = 10.0
_PAUSE_S = 0.02
_MAP_LINE = re.compile(rb"^(\d+) ", re.MULTILINE)
_Pending = deque[tuple[list[Piece], "Future[list[PieceRead]]"]]


@dataclass(frozen=True, slots=True)
class BesideServer:
    """Reads the data directory that a policy names. `settled_s`: see stamps.py; `clock` is that of the files' times."""

    directory: Path
    settled_s: float = SETTLED_S
    clock: Clock = field(default_factory=SystemClock)

    def confirm(self, sql: SqlConnection) -> Beside:
        """The directory, proven to be that server's. Raises NotBeside."""
        return confirm_beside(sql, self.directory)

    @contextmanager
    def open(self, beside: Beside, sql: SqlConnection, asked: Asked) -> Iterator[Source]:
        """Start a base backup in that session, which is closed at the end. Raises NotBeside, and by SQLSTATE."""
        with sql:
            confirm_beside(sql, self.directory)  # another session may be on another host
            segment_pages = int(sql.execute("SELECT setting FROM pg_settings WHERE name = 'segment_size'")[0][0])
            system_id = sql.system_id()
            before = {space.oid for space in tablespaces(beside.directory)}
            asked_s = self.clock.now().timestamp()
            with SqlBackup(sql, label=asked.label, checkpoint=asked.checkpoint) as backup:
                spaces = tablespaces(beside.directory)
                fresh = frozenset(space.oid for space in spaces if space.location is not None) - before
                yield _LocalSource(
                    beside, sql, backup, asked, spaces, fresh, system_id, segment_pages, asked_s, self.settled_s
                )  # fmt: skip


@dataclass(frozen=True)
class _LocalSource:
    """One running backup. `fresh` are tablespaces made while it started: only its end tells whether it knows them."""

    beside: Beside
    sql: SqlConnection
    backup: SqlBackup
    asked: Asked
    spaces: tuple[FoundSpace, ...]
    fresh: frozenset[int]
    system_id: int
    segment_pages: int
    asked_s: float
    settled_s: float

    @property
    def page(self) -> int:
        """The server's page size in bytes."""
        return int(self.asked.settings.get("block_size", 8192))

    @property
    def root(self) -> Path:
        """The data directory."""
        return self.beside.directory

    def read(self, intake: Intake) -> tuple[Totals, Ended]:
        """All files, to the end of the backup. Raises Interrupted, HostLacks, IntegrityError, SourceUnavailable."""
        intake.report(Progress("snapshot", "source", facts={"data_directory": str(self.root)}))
        totals = Totals()
        expected = self.sql.bytes_in_all()
        progress = ReadingProgress(totals, expected, intake.report, intake.stop)
        with Scratch(intake.directory) as lines:
            manifest = ManifestWriter(lines, self.sql.server_version, self.system_id)
            placer = LocalPlacer(intake, totals, progress, manifest, self.fresh, self.asked_s, self.settled_s)
            self._files(intake, placer, expected)
            return totals, self._finish(intake, placer, manifest, lines)

    def _files(self, intake: Intake, placer: LocalPlacer, expected: int) -> None:
        files = LocalFiles(
            self.root, intake.key, page=self.page, segment_pages=self.segment_pages,
            check_below=self.backup.start_lsn if self.asked.settings.get("data_checksums") == "on" else None,
            pause=lambda: intake.stop.wait(_PAUSE_S),
        )  # fmt: skip
        plan = LocalPlan(
            intake,
            self.root,
            expected,
            page=self.page,
            trust=self._trust(intake),
            directory=placer.directory,
            take_over=placer.take_over,
        )
        pace = Pace(self.asked.rate_limit, intake.clock, intake.stop)
        pending: _Pending = deque()
        alive = intake.clock.monotonic()
        try:
            for batch in plan.batches(walk(self.root, self.spaces, self.beside.version)):
                pace.take(sum(piece.length for piece in batch))
                files.expect(batch)
                pending.append((batch, intake.executor.submit(files.read, batch)))
                if len(pending) > intake.workers + 1:
                    self._place(intake, plan, placer, pending)
                if intake.clock.monotonic() - alive >= _ALIVE_EVERY_S:
                    self.backup.alive()
                    alive = intake.clock.monotonic()
            while pending:
                self._place(intake, plan, placer, pending)
        finally:
            wait([future for _, future in pending if not future.cancel()])
            plan.close()

    def _trust(self, intake: Intake) -> bool:
        """Whether unchanged files need not be read; if not, all are, and the index remembers when."""
        now = intake.clock.now().timestamp()
        compared = intake.parent.recall(COMPARED) if intake.parent is not None else None
        if compared is None or comparison_due(compared, now):
            intake.index.remember(COMPARED, str(now).encode("ascii"))
            return False
        intake.index.remember(COMPARED, compared)
        return True

    @staticmethod
    def _place(intake: Intake, plan: LocalPlan, placer: LocalPlacer, pending: _Pending) -> None:
        batch, future = pending[0]
        while not wait([future], timeout=_TICK).done:
            if intake.stop.is_set():
                raise Interrupted("the snapshot was stopped")
        pending.popleft()
        for piece, read in zip(batch, future.result(), strict=True):
            plan.done(piece)
            placer.put(piece, read)

    def _finish(self, intake: Intake, placer: LocalPlacer, manifest: ManifestWriter, lines: Scratch) -> Ended:
        """pg_control after all that the backup holds and before its end, as the server itself reads it."""
        control = read_control(self.root, lambda: intake.stop.wait(_PAUSE_S))
        status = (self.root / CONTROL_FILE).stat()
        mode, mtime = status.st_mode & 0o777, int(intake.clock.now().timestamp())
        placer.bytes_file(CONTROL_FILE, mode, int(status.st_mtime), control)
        still_checked = self.sql.settings(["data_checksums"]).get("data_checksums") == "on"
        end = self.backup.stop()
        placer.bytes_file(LABEL_FILE, mode, mtime, end.label)
        if end.tablespace_map:
            placer.bytes_file(MAP_FILE, mode, mtime, end.tablespace_map)
        known = frozenset(int(oid) for oid in _MAP_LINE.findall(end.tablespace_map))
        placer.release(known)
        manifest.finish(end.timeline, self.backup.start_lsn, end.stop_lsn)
        lines.rewind()
        placer.finish(lines, mode, mtime)
        checked = still_checked and self.asked.settings.get("data_checksums") == "on"
        if checked and not placer.damage:
            intake.index.remember(CHECKED, b"1")
        return self._ended(end, known, tuple(placer.damage) if still_checked else ())

    def _ended(self, end: BackupEnd, known: frozenset[int], damage: tuple[str, ...]) -> Ended:
        spaces: tuple[dict[str, object], ...] = tuple(
            {
                "in_place": space.location is None,
                "location": space.location or f"pg_tblspc/{space.oid}",
                "oid": space.oid,
            }
            for space in self.spaces
            if space.location is None or space.oid in known
        )
        return Ended(end.timeline, self.backup.start_lsn, end.stop_lsn, spaces, damage)
