"""What a store's ranges and summaries say, read in few requests: the largest first, each object once.

Owns which of them are read and believed. One that is not as it was signed, or that is about another store, is said in
the log and counts for nothing: what it would have told is listed. It decides nothing that a listing would not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from replicator.core.coverage import Coverage
from replicator.core.lsn import Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.earlier import read_document, read_sound
from replicator.repository.layout import (
    RangeName,
    RangesName,
    SummaryName,
    WalName,
    parse_name,
    range_name,
    ranges_prefix,
    segment_prefix,
    summary_name,
)
from replicator.repository.manifests import ManifestSummary
from replicator.repository.ranges import Span, parse_range
from replicator.repository.summaries import parse_summaries
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

_log = logging.getLogger(__name__)

#: With more names than this, or after so many wrong objects in one reading, all is listed instead.
_MOST_NAMES, _MOST_WRONG = 5000, 16

N = TypeVar("N", RangeName, SummaryName)
P = TypeVar("P", int, str)


@dataclass(frozen=True)
class Known:
    """What is known of one system id without a listing. `spans` ascending, of one segment size, disjoint in names of
    objects or equal where they overlap; `summaries` by snapshot.
    """

    spans: tuple[Span, ...] = ()
    summaries: Mapping[Snapshot, ManifestSummary] = field(default_factory=dict)

    @property
    def segment_size(self) -> int:
        """In bytes; 0 without spans."""
        return self.spans[0].segment_size if self.spans else 0

    def covers(self) -> tuple[tuple[str, str], ...]:
        """What no listing need look at: each (a text, a text) between which all names of a run of spans sort."""
        found: list[tuple[Segment, Segment]] = []
        for span in self.spans:
            first = Segment.holding(span.name.timeline, span.name.start, span.segment_size)
            last = Segment.holding(span.name.timeline, span.name.end - 1, span.segment_size)
            if found and found[-1][1].timeline == first.timeline and first.number <= found[-1][1].number + 1:
                found[-1] = (found[-1][0], max(found[-1][1], last))
            else:
                found.append((first, last))
        system_id = self.spans[0].name.system_id if self.spans else 0
        return tuple((segment_prefix(system_id, first), segment_prefix(system_id, last) + "~") for first, last in found)

    def times(self, name: str) -> tuple[int, int] | None:
        """First and last time of the table of a complete segment's object; None where no range names it."""
        place = parse_name(name)
        if not isinstance(place, WalName) or not self.spans:
            return None
        try:
            segment = Segment.parse(place.segment, self.segment_size)
        except UsageError:
            return None
        for span in self.spans:
            if span.name.timeline == segment.timeline and span.name.start <= segment.start < span.name.end:
                found = span.times(segment.number, place.fingerprint)
                if found is not None:
                    return found
        return None

    def triples(self, retired: Coverage) -> list[tuple[int, int, int]]:
        """(timeline, start, end) of all segments named, but for those that retention took."""
        return [part for span in self.spans for part in span.triples(retired)]


NOTHING = Known()


class KnownReader:
    """Of one store, again and again: what was read stays in memory while its name is listed. One thread at a time."""

    def __init__(self, store: ReadableStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._kept: dict[int, dict[RangesName, Span | tuple[ManifestSummary, ...]]] = {}
        self._doubted: dict[int, frozenset[RangesName]] = {}

    def doubt(self, system_id: int, names: Iterable[RangesName]) -> None:
        """From now on believe all but these, which a full listing has shown to be wrong."""
        self._doubted[system_id] = frozenset(names)

    def read(self, system_id: int) -> Known:
        """One listing, and what was not read before. Raises StoreUnavailable."""
        return self._read(system_id, spans=True)

    def summaries(self, system_id: int) -> Mapping[Snapshot, ManifestSummary]:
        """The same without spans."""
        return self._read(system_id, spans=False).summaries

    def _read(self, system_id: int, *, spans: bool) -> Known:
        infos = list(islice(self._store.list(ranges_prefix(system_id)), _MOST_NAMES + 1))
        if len(infos) > _MOST_NAMES:
            _log.warning("store %s: more than %d ranges: none is read", self._store.name, _MOST_NAMES)
            return NOTHING
        doubted = self._doubted.get(system_id, frozenset())
        places = [place for place in map(parse_name, (info.name for info in infos)) if place not in doubted]
        reading = _Reading(self._store, self._keyring, self._kept.get(system_id, {}))
        named = reading.spans([place for place in places if isinstance(place, RangeName)]) if spans else ()
        summaries = reading.summaries([place for place in places if isinstance(place, SummaryName)])
        self._kept[system_id] = reading.used
        return Known(named, {one.snapshot: one for one in summaries})


class _Reading:
    """One reading. `used`: what was believed, by name; `wrong`: what was not."""

    def __init__(
        self, store: ReadableStore, keyring: Keyring, kept: Mapping[RangesName, Span | tuple[ManifestSummary, ...]]
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._kept = kept
        self.used: dict[RangesName, Span | tuple[ManifestSummary, ...]] = {}
        self.wrong: set[RangesName] = set()

    def spans(self, names: list[RangeName]) -> tuple[Span, ...]:
        """The spans to believe, ascending: of the segment size of the first."""
        found: list[Span] = []
        for timeline in sorted({name.timeline for name in names}):
            of_it = [(int(name.start), int(name.end), name) for name in names if name.timeline == timeline]
            found += (span for span in self._cover(of_it, self._span) if isinstance(span, Span))
        return tuple(span for span in found if span.segment_size == found[0].segment_size)

    def summaries(self, names: list[SummaryName]) -> list[ManifestSummary]:
        """The summaries to believe."""
        found = self._cover([(name.first, name.last, name) for name in names], self._summary)
        return [one for part in found if isinstance(part, tuple) for one in part]

    def _cover(
        self, places: list[tuple[P, P, N]], read: Callable[[N], Span | tuple[ManifestSummary, ...]]
    ) -> list[Span | tuple[ManifestSummary, ...]]:
        """The objects of a smallest set that reaches as far as all that are well do."""
        while len(self.wrong) < _MOST_WRONG:
            chosen = smallest_cover([place for place in places if place[2] not in self.wrong])
            found: list[Span | tuple[ManifestSummary, ...]] = []
            for name in chosen:
                one = self._read(name, read)
                if one is not None:
                    found.append(one)
                elif len(self.wrong) >= _MOST_WRONG:
                    return []
            if len(found) == len(chosen):
                return found
        return []

    def _read(
        self, name: N, read: Callable[[N], Span | tuple[ManifestSummary, ...]]
    ) -> Span | tuple[ManifestSummary, ...] | None:
        if name not in self.used:
            try:
                self.used[name] = self._kept[name] if name in self._kept else read(name)
            except (IntegrityError, ObjectAbsent) as error:  # absent: a larger one has taken its place meanwhile
                _log.warning("store %s: ignored: %s", self._store.name, error.message)
                self.wrong.add(name)
                return None
        return self.used[name]

    def _span(self, name: RangeName) -> Span:
        span, about = read_range(self._store, name, self._keyring)
        if about != self._store.name:
            raise IntegrityError(f"{span.text}: is about store {about}", object=span.text)
        return span

    def _summary(self, name: SummaryName) -> tuple[ManifestSummary, ...]:
        return read_summaries(self._store, name, self._keyring)


def read_range(store: ReadableStore, name: RangeName, keyring: Keyring) -> tuple[Span, str]:
    """One range, verified, and the store that it is about. Raises ObjectAbsent, IntegrityError."""
    text = range_name(name)
    return read_sound(store, text, lambda found: parse_range(keyring, name, read_document(found, text)))


def read_summaries(store: ReadableStore, name: SummaryName, keyring: Keyring) -> tuple[ManifestSummary, ...]:
    """One summary, verified. Raises ObjectAbsent, IntegrityError."""
    text = summary_name(name)
    return read_sound(store, text, lambda found: parse_summaries(keyring, name, read_document(found, text)))


def smallest_cover(places: Iterable[tuple[P, P, N]]) -> list[N]:
    """Of (from, to, name): a smallest set of names that covers what all together cover, ascending."""
    ordered = sorted(places, key=lambda place: place[0])
    chosen: list[tuple[P, P, N]] = []
    at = 0
    while at < len(ordered):
        best = ordered[at]
        if chosen and best[1] <= chosen[-1][1]:  # covered already
            at += 1
            continue
        start = max(best[0], chosen[-1][1]) if chosen else best[0]
        while at < len(ordered) and ordered[at][0] <= start:
            best = max(best, ordered[at], key=lambda place: place[1])
            at += 1
        chosen.append(best)
    return [name for _, _, name in chosen]


__all__ = ["NOTHING", "Known", "KnownReader", "read_range", "read_summaries", "smallest_cover"]
