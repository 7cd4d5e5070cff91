"""Reading WAL records through the server's own pg_waldump: commits, aborts, restore points.

Owns the running of pg_waldump and the parsing of its lines (LC_ALL=C, TZ=UTC); no record is parsed by us. Lines
stream past: memory does not grow with the WAL.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from replicator.core.lsn import Lsn, Segment
from replicator.errors import DeadlineExceeded, HostLacks, NotFound
from replicator.postgres.binaries import Binaries, as_user, environment
from replicator.postgres.pages import HEADER_SIZE, parse_segment_header

_RECORD = re.compile(r"rmgr: (\S+)\s.*?tx:\s+(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F]+/[0-9A-F]+, desc: (.*)\Z")
_END = re.compile(r"(COMMIT|ABORT)(_PREPARED)? (?:(\d+): )?(\d+-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC")
_RESTORE_POINT = "RESTORE_POINT "


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """A transaction's commit or abort: the record's start, and the time that recovery_target_time compares."""

    lsn: Lsn
    xid: int
    time: datetime
    committed: bool


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A point made by pg_create_restore_point: the record's start."""

    lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class Commits:
    """The first and the last transaction end in a range, in the WAL's order (times may step back a little)."""

    first: TransactionEnd | None
    last: TransactionEnd | None
    count: int


def parse_line(line: str) -> TransactionEnd | RestorePoint | None:
    """One line of pg_waldump's output; None for records that are neither."""
    record = _RECORD.match(line.rstrip("\n"))
    if record is None:
        return None
    if record[1] == "XLOG" and record[4].startswith(_RESTORE_POINT):
        return RestorePoint(Lsn.parse(record[3]), record[4].removeprefix(_RESTORE_POINT))
    ended = _END.match(record[4]) if record[1] == "Transaction" else None
    if ended is None:
        return None
    moment = datetime.fromisoformat(ended[4]).replace(tzinfo=UTC)
    return TransactionEnd(Lsn.parse(record[3]), int(ended[3] or record[2]), moment, ended[1] == "COMMIT")


class Waldump:
    """pg_waldump of one major version over directories that hold segment files.

    A directory may hold only some segments, and the last may be padded with zeros: reading ends quietly where no
    further record is. A range that begins in a segment that is not there is NotFound.
    """

    def __init__(self, binaries: Binaries, *, owner: str | None = None, time_limit: float = 3600.0) -> None:
        self._binaries = binaries
        self._owner = owner
        self._time_limit = time_limit

    def transactions(self, directory: Path, timeline: int, start: Lsn, end: Lsn | None) -> Iterator[TransactionEnd]:
        """Every commit and abort whose record starts in [start, end), in order; `start` need not be a record's."""
        for line in self._lines("Transaction", directory, timeline, start, end):
            found = parse_line(line)
            if isinstance(found, TransactionEnd):
                yield found

    def commits(self, directory: Path, timeline: int, start: Lsn, end: Lsn | None) -> Commits:
        """First and last transaction end of a range, aborts too: recovery stops at either."""
        first = last = None
        count = 0
        for ended in self.transactions(directory, timeline, start, end):
            first = first or ended
            last = ended
            count += 1
        return Commits(first, last, count)

    def find_xid(self, directory: Path, timeline: int, start: Lsn, end: Lsn | None, xid: int) -> TransactionEnd | None:
        """Where transaction `xid` ended within the range; None when it did not."""
        ended = self.transactions(directory, timeline, start, end)
        return next((found for found in ended if found.xid == xid), None)

    def find_restore_point(
        self, directory: Path, timeline: int, start: Lsn, end: Lsn | None, name: str
    ) -> RestorePoint | None:
        """The first restore point of that name within the range, where recovery would stop; None without."""
        for line in self._lines("XLOG", directory, timeline, start, end):
            found = parse_line(line)
            if isinstance(found, RestorePoint) and found.name == name:
                return found
        return None

    def records(self, directory: Path, timeline: int, start: Lsn, end: Lsn | None) -> Iterator[Lsn]:
        """The start of every whole record that starts in [start, end), in order; `start` need not be a record's."""
        for line in self._lines(None, directory, timeline, start, end):
            record = _RECORD.match(line.rstrip("\n"))
            if record is not None and Lsn.parse(record[3]) >= start:
                yield Lsn.parse(record[3])

    def _lines(self, rmgr: str | None, directory: Path, timeline: int, start: Lsn, end: Lsn | None) -> Iterator[str]:
        """The lines of records that start before `end`. pg_waldump's own --end would keep from us a record that starts
        before it and ends after it.
        """
        for line in self._read(rmgr, directory, timeline, start):
            record = _RECORD.match(line.rstrip("\n"))
            if record is not None and end is not None and Lsn.parse(record[3]) >= end:
                return
            yield line

    def _read(self, rmgr: str | None, directory: Path, timeline: int, start: Lsn) -> Iterator[str]:
        _check_start(directory, timeline, start)
        command = [str(self._binaries.program("pg_waldump")), "-p", str(directory), "-t", str(timeline)]
        command += ["-s", str(start), *(["-r", rmgr] if rmgr is not None else [])]
        expired = threading.Event()
        with tempfile.TemporaryFile() as errors, self._start(command, errors.fileno()) as process:

            def expire() -> None:
                expired.set()
                process.kill()

            limit = threading.Timer(self._time_limit, expire)
            limit.start()
            try:
                assert process.stdout is not None
                yield from process.stdout
            finally:
                limit.cancel()
                if process.poll() is None:
                    process.terminate()
                code = process.wait()
            if expired.is_set():
                raise DeadlineExceeded(f"pg_waldump did not end within {self._time_limit:g} s")
            if code < 0 or code > 1:  # 1 is what it says at the end of valid WAL
                errors.seek(0)
                told = errors.read(4096).decode("utf-8", "replace").strip().splitlines()
                raise HostLacks(f"pg_waldump ended with {code}: {told[-1] if told else 'it says nothing'}")

    def _start(self, command: list[str], errors: int) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="surrogateescape",
                env=environment(),
                **as_user(self._owner),
            )
        except OSError as error:
            raise HostLacks(f"pg_waldump cannot be run: {error.strerror}") from error


def _check_start(directory: Path, timeline: int, start: Lsn) -> None:
    """The segment that holds `start` must be there and be WAL: pg_waldump's own exit code tells neither."""
    for path in sorted(directory.glob(f"{timeline:08X}????????????????")):
        with path.open("rb") as file:
            size = parse_segment_header(file.read(HEADER_SIZE)).segment_size
        segment = Segment.holding(timeline, start, size)
        if (directory / segment.name).is_file():
            return
        break
    raise NotFound(f"the WAL of timeline {timeline} at {start} is not in {directory}")
