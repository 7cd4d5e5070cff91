"""Routes: one gapless run of WAL in one store along one timeline path, and the files PostgreSQL asks for on it. Pure.

Owns the choice of objects for each file. A file may stand on several objects: pieces, and a segment of an ancestor
timeline up to the switch point, whose bytes the next timeline repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import history_of, run_of
from replicator.errors import WalConflict
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import piece_object


@dataclass(frozen=True, slots=True)
class WalSource:
    """The bytes [start, end) of a file come from object `name`. `whole`: it is a complete segment."""

    name: str
    start: Lsn
    end: Lsn
    whole: bool


@dataclass(frozen=True, slots=True)
class WalFile:
    """One segment file as restore_command delivers it: `sources` in order without a hole, zeros after the last."""

    name: str
    start: Lsn
    size: int
    sources: tuple[WalSource, ...]

    @property
    def end(self) -> Lsn:
        """Where the held bytes end; `start` when there are none."""
        return self.sources[-1].end if self.sources else self.start


@dataclass(frozen=True)
class Route:
    """From `snapshots` (ascending by stop) to `end` along `history`; `ends_on` is the timeline where it ends."""

    catalog: StoreCatalog
    history: TimelineHistory
    snapshots: tuple[Snapshot, ...]
    end: Lsn
    ends_on: int

    @property
    def size(self) -> int:
        """Bytes of a segment."""
        return self.catalog.segment_size

    def numbers(self, start: Lsn, end: Lsn) -> range:
        """The numbers of the segments that hold [start, end)."""
        return range(start // self.size, max(start // self.size, (end - 1) // self.size) + 1)

    def newest(self, position: Lsn) -> Snapshot | None:
        """The newest snapshot whose stop is at or before `position`."""
        return next((snapshot for snapshot in reversed(self.snapshots) if snapshot.stop <= position), None)

    def file(self, number: int) -> WalFile:
        """The file of segment `number`, named as PostgreSQL asks for it. Raises WalConflict."""
        path = self.history.path()
        timeline = next(stretch.timeline for stretch in reversed(path) if stretch.start // self.size <= number)
        segment = Segment(timeline, number, self.size)
        limit = min(segment.end, self.end)
        candidates: list[WalSource] = []
        for stretch in path:
            cut = limit if stretch.end is None else min(limit, stretch.end)
            candidates += self._held(Segment(stretch.timeline, number, self.size), cut)
        return WalFile(segment.name, segment.start, self.size, tuple(chain(candidates, segment.start)))

    def _held(self, segment: Segment, cut: Lsn) -> Iterator[WalSource]:
        names = self.catalog.objects_of(segment)
        if len(names) > 1 and segment.start < cut:
            raise WalConflict(
                f"segment {segment.name} has {len(names)} contents in store {self.catalog.store}",
                hint="Restore from another store, or to a target before that segment.",
                names=names,
            )
        for name in names:
            yield WalSource(name, segment.start, cut, whole=True)
        pieces = self.catalog.pieces.get(segment.name, ())
        if not names and segment.start < cut and len({(piece.start, piece.end) for piece in pieces}) < len(pieces):
            raise WalConflict(
                f"a piece of segment {segment.name} has two contents in store {self.catalog.store}",
                hint="Restore from another store, or to a target before that segment.",
                names=tuple(piece_object(piece) for piece in pieces),
            )
        for piece in pieces:
            yield WalSource(piece_object(piece), piece.start, min(piece.end, cut), whole=False)


def chain(candidates: list[WalSource], start: Lsn) -> Iterator[WalSource]:
    """The longest gapless chain from `start`: at each place what reaches furthest, a complete segment first."""
    position = start
    while True:
        usable = [source for source in candidates if source.start <= position < source.end]
        if not usable:
            return
        best = max(usable, key=lambda source: (source.end, source.whole))
        yield WalSource(best.name, position, best.end, best.whole)
        position = best.end


def routes(catalog: StoreCatalog, snapshots: tuple[Snapshot, ...], timeline: int | None) -> Iterator[Route]:
    """Every route of a store: the newest timeline first, on each the furthest end first.

    `timeline` demands that path, also when the run ends on an ancestor of it.
    """
    if not catalog.segment_size:
        return
    known = set(catalog.histories) | set(catalog.coverage.by_timeline) | {found.timeline for found in snapshots}
    if timeline is not None and timeline not in known:
        return
    for number in sorted(known, reverse=True) if timeline is None else [timeline]:
        history = history_of(number, catalog.histories)
        runs: dict[tuple[int, Lsn], list[Snapshot]] = {}
        for snapshot in sorted(snapshots, key=lambda found: (found.stop, found.label)):
            run = run_of(snapshot, history, catalog.coverage)
            if run is not None and (timeline is not None or run[0] == number):
                runs.setdefault(run, []).append(snapshot)
        for (ends_on, end), members in sorted(runs.items(), key=lambda item: item[0][1], reverse=True):
            yield Route(catalog, history, tuple(members), end, ends_on)
