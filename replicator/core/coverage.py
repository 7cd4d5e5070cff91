"""Coverage: which LSN ranges of which timelines are held, and where the holes are.

Immutable sets of half-open byte ranges; adding returns a new value. Pure: the catalog fills it from object names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory, TimelineStretch


@dataclass(frozen=True, slots=True, order=True)
class LsnRange:
    """Half-open range of bytes [start, end) on one timeline."""

    timeline: int
    start: Lsn
    end: Lsn


@dataclass(frozen=True, slots=True)
class Coverage:
    """Disjoint ascending ranges by timeline. Build with `of`, extend with `add`."""

    by_timeline: Mapping[int, tuple[tuple[int, int], ...]]

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int, int]] = ()) -> Coverage:
        """From any (timeline, start, end) triples, overlapping or not, in any order."""
        found: dict[int, list[tuple[int, int]]] = {}
        for timeline, start, end in ranges:
            if end > start:
                found.setdefault(timeline, []).append((int(start), int(end)))
        return cls({timeline: _merge(sorted(pairs)) for timeline, pairs in sorted(found.items())})

    def add(self, timeline: int, start: int, end: int) -> Coverage:
        """This coverage with one more range. Cheap when the range extends the newest one."""
        if end <= start:
            return self
        held = self.by_timeline.get(timeline, ())
        if held and held[-1][0] <= start <= held[-1][1]:
            merged = (*held[:-1], (held[-1][0], max(held[-1][1], int(end))))
        else:
            merged = _merge(sorted([*held, (int(start), int(end))]))
        return Coverage({**self.by_timeline, timeline: merged})

    def union(self, other: Coverage) -> Coverage:
        """What at least one of the two holds."""
        return Coverage.of([*self.triples(), *other.triples()])

    def triples(self) -> Iterator[tuple[int, int, int]]:
        """Every (timeline, start, end), ascending."""
        for timeline, pairs in sorted(self.by_timeline.items()):
            for start, end in pairs:
                yield timeline, start, end

    def ranges(self) -> tuple[LsnRange, ...]:
        """The same as values."""
        return tuple(LsnRange(timeline, Lsn(start), Lsn(end)) for timeline, start, end in self.triples())

    def reach(self, timeline: int, start: int) -> Lsn:
        """The end of the gapless run of `timeline` from `start` on; `start` itself when its byte is not held."""
        pairs = self.by_timeline.get(timeline, ())
        index = bisect_right(pairs, (int(start), 2**64)) - 1
        if index >= 0 and pairs[index][0] <= start < pairs[index][1]:
            return Lsn(pairs[index][1])
        return Lsn(int(start))

    def reach_along(self, history: TimelineHistory, start: int) -> tuple[int, Lsn]:
        """The end of the gapless run from `start` along a timeline path: (timeline where it ends, LSN).

        Each timeline is cut at its switch point: bytes beyond it belong to an abandoned future (trap 17).
        """
        position = Lsn(int(start))
        path = history.path()
        for index, stretch in enumerate(path):
            if stretch.end is not None and stretch.end <= position:
                continue
            position = self._reach_within(path[index:], position)
            if stretch.end is None or position < stretch.end:
                return stretch.timeline, position
        return history.timeline, position

    def _reach_within(self, path: tuple[TimelineStretch, ...], position: Lsn) -> Lsn:
        """The end of the run within the first stretch of `path`. A later timeline's first segment repeats the bytes
        before its switch point (trap 16), so any timeline of the path may supply them.
        """
        limit = path[0].end
        while limit is None or position < limit:
            furthest = max(self.reach(stretch.timeline, position) for stretch in (path[:1] if limit is None else path))
            if furthest <= position:
                break
            position = furthest
        return position if limit is None else min(position, limit)

    def holds(self, timeline: int, start: int, end: int) -> bool:
        """Whether every byte of [start, end) of `timeline` is held."""
        return end <= start or self.reach(timeline, start) >= end

    def missing(self, timeline: int, start: int, end: int) -> tuple[LsnRange, ...]:
        """The holes within [start, end) of `timeline`."""
        holes: list[LsnRange] = []
        position = int(start)
        for low, high in self.by_timeline.get(timeline, ()):
            if high <= position:
                continue
            if low >= end:
                break
            if low > position:
                holes.append(LsnRange(timeline, Lsn(position), Lsn(min(low, int(end)))))
            position = max(position, high)
        if position < end:
            holes.append(LsnRange(timeline, Lsn(position), Lsn(int(end))))
        return tuple(holes)

    def end(self, timeline: int) -> Lsn | None:
        """The highest byte held of `timeline`, plus one; None when there is none."""
        pairs = self.by_timeline.get(timeline)
        return Lsn(pairs[-1][1]) if pairs else None


def _merge(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, end in pairs:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)
