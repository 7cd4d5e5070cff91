"""The planner's probe over real WAL: segments fetched into a scratch directory and read with pg_waldump.

Owns the scratch directory and which segments lie in it. Use it in a with statement.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from replicator.core.lsn import Lsn, Segment
from replicator.core.moment import to_microseconds
from replicator.postgres.pages import HEADER_SIZE, parse_segment_header
from replicator.postgres.waldump import TransactionEnd, Waldump
from replicator.repository.repository import Repository
from replicator.restore.probe import Ended
from replicator.restore.route import Route
from replicator.restore.walfile import write_wal_file

#: Segments kept in the scratch directory.
_KEPT = 4


class WaldumpProbe:
    """WalProbe over the stores of `repository`. Needs a keyring that opens."""

    def __init__(self, repository: Repository, waldump: Waldump, scratch: Path | None = None) -> None:
        self._repository = repository
        self._waldump = waldump
        self._home = Path(tempfile.mkdtemp(prefix="replicator-wal-", dir=scratch))
        self._kept: OrderedDict[tuple[str, str, Lsn], Path] = OrderedDict()
        self._newest: dict[tuple[str, int, int, Lsn], Ended | None] = {}
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        shutil.rmtree(self._home, ignore_errors=True)

    def newest(self, route: Route, number: int) -> Ended | None:
        """As WalProbe."""
        key = (route.catalog.store, route.history.timeline, number, route.end)
        if key not in self._newest:
            best: TransactionEnd | None = None
            with self._ends(route, number) as ends:
                for ended in ends:
                    best = ended if best is None or ended.time > best.time else best
            self._newest[key] = _ended(best)
        return self._newest[key]

    def after(self, route: Route, number: int, us: int, *, inclusive: bool) -> Ended | None:
        """As WalProbe."""
        least = us + 1 if inclusive else us
        with self._ends(route, number) as ends:
            return _ended(next((ended for ended in ends if to_microseconds(ended.time) >= least), None))

    def xid(self, route: Route, number: int, xid: int, start: Lsn) -> Ended | None:
        """As WalProbe."""
        with self._ends(route, number) as ends:
            return _ended(next((ended for ended in ends if ended.xid == xid and ended.lsn >= start), None))

    def restore_point(self, route: Route, number: int, name: str, start: Lsn) -> Lsn | None:
        """As WalProbe."""
        with self._view(route, number) as directory:
            low, high = max(start, _start(route, number)), _start(route, number + 1)
            found = self._waldump.find_restore_point(directory, route.history.timeline, low, high, name)
            return found.lsn if found is not None else None

    def record(self, route: Route, start: Lsn) -> Lsn | None:
        """As WalProbe."""
        for number in route.numbers(start, route.end):
            with self._view(route, number) as directory:
                low, high = max(start, _start(route, number)), _start(route, number + 1)
                found = next(self._waldump.records(directory, route.history.timeline, low, high), None)
                if found is not None:
                    return found
        return None

    def last_record(self, route: Route) -> Lsn | None:
        """As WalProbe."""
        for number in reversed(route.numbers(route.snapshots[0].start, route.end)):
            with self._view(route, number) as directory:
                low, high = _start(route, number), _start(route, number + 1)
                found = self._waldump.records(directory, route.history.timeline, low, high)
                last = deque(found, maxlen=1)
                if last:
                    return last[0]
        return None

    @contextmanager
    def _ends(self, route: Route, number: int) -> Iterator[Iterator[TransactionEnd]]:
        with self._view(route, number) as directory:
            low, high = _start(route, number), _start(route, number + 1)
            yield self._waldump.transactions(directory, route.history.timeline, low, high)

    @contextmanager
    def _view(self, route: Route, number: int) -> Iterator[Path]:
        """A directory with segment `number` and those where its last record may go on, all under the route's timeline:
        pg_waldump reads one timeline's names, and the bytes are the path's. What follows is padded, for pg_waldump
        waits 5 s for a file that is not there: with the header of another place, which ends its reading, and
        from which it may learn the segment size as well as from any file.
        """
        self._count += 1
        directory = self._home / f"view-{self._count}"
        directory.mkdir(mode=0o700)
        try:
            held = self._fetched(route, number)
            wanted, goes_on = number, True
            while goes_on and _start(route, wanted) < route.end:
                found = held if wanted == number else self._fetched(route, wanted)
                _segment(directory, route, wanted).hardlink_to(found)
                whole = _start(route, wanted + 1) <= route.end
                goes_on = wanted == number or (whole and _filled(found))
                wanted += 1
            for beyond in (wanted, wanted + 1):
                _pad(_segment(directory, route, beyond), held, route.size)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _fetched(self, route: Route, number: int) -> Path:
        file = route.file(number)
        key = (route.catalog.store, file.name, file.end)
        if key not in self._kept:
            self._count += 1
            path = self._home / f"segment-{self._count}"
            store = self._repository.store(route.catalog.store)
            write_wal_file(store, self._repository.keyring, file, path, durable=False)
            self._kept[key] = path
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)[1].unlink(missing_ok=True)
        self._kept.move_to_end(key)
        return self._kept[key]


def _segment(directory: Path, route: Route, number: int) -> Path:
    return directory / Segment(route.history.timeline, number, route.size).name


def _filled(path: Path) -> bool:
    """Whether a record that began earlier takes the whole segment, or all but what page headers take, and may go on."""
    with path.open("rb") as file:
        header = parse_segment_header(file.read(HEADER_SIZE))
    return header.page.remaining > header.segment_size - header.segment_size // 64


def _pad(path: Path, like: Path, size: int) -> None:
    with like.open("rb") as file:
        path.write_bytes(file.read(HEADER_SIZE))
    os.truncate(path, size)


def _start(route: Route, number: int) -> Lsn:
    return Lsn(number * route.size)


def _ended(found: TransactionEnd | None) -> Ended | None:
    return Ended(found.lsn, to_microseconds(found.time)) if found is not None else None
