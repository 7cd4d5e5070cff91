"""The catalog of one store: what its names say it holds. One LIST per kind, no private key.

A value, replaced whole. It believes names only as far as listing goes: whoever uses an object verifies it then. Who
passes in a KnownReader has the WAL that signed ranges name without listing it; nobody who acknowledges or removes does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import Gap, Window, gaps, holes, windows
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.earlier import read_document, read_sound
from replicator.repository.known import NOTHING, Known, KnownReader
from replicator.repository.layout import (
    SYSTEM_ID,
    HistoryName,
    ManifestName,
    NoteName,
    PieceName,
    WalName,
    history_name,
    history_prefix,
    parse_name,
    piece_object,
    pieces_prefix,
    segment_prefix,
    snapshots_prefix,
    wal_prefix,
)  # fmt: skip
from replicator.repository.notes import CONFLICT, gap_of, list_notes, retired_ranges
from replicator.repository.objects import read_header
from replicator.seal.document import open_document
from replicator.seal.keyring import Keyring
from replicator.seal.signature import from_base64url
from replicator.store.protocol import ObjectInfo, ReadableStore

_log = logging.getLogger(__name__)

#: How often WAL is listed again while holes change.
_MOST_LISTS = 3
#: With more conflicts than this, all is listed.
_MOST_CONFLICTS = 16


@dataclass(frozen=True)
class StoreCatalog:
    """What one store holds of one system id. `wal` and `pieces` by 24-digit segment name; two names for a complete
    segment are a conflict. `segment_size` is 0 while there is no WAL. `damaged` are objects that were looked at and are
    not what their names say: they count for nothing. `retired`: WAL that retention took, which is no gap. `known`: what
    signed ranges and summaries say; what they name of WAL was not listed.
    """

    store: str
    system_id: int
    segment_size: int
    snapshots: tuple[Snapshot, ...]
    wal: Mapping[str, tuple[str, ...]]
    pieces: Mapping[str, tuple[PieceName, ...]]
    histories: Mapping[int, TimelineHistory]
    coverage: Coverage
    notes: tuple[NoteName, ...] = ()
    recorded_gaps: tuple[LsnRange, ...] = field(default=())
    damaged: tuple[str, ...] = ()
    retired: tuple[LsnRange, ...] = ()
    known: Known = NOTHING

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its recoverable windows."""
        return windows(self.snapshots, self.coverage, self.histories)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Its gaps, open and closed."""
        return gaps(self.snapshots, self.coverage, self.recorded_gaps, self.retired)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Segments with more than one content."""
        return tuple(sorted(name for name, objects in self.wal.items() if len(objects) > 1))

    def segment(self, name: str) -> Segment:
        """A segment of this system id by its 24-digit name."""
        return Segment.parse(name, self.segment_size)

    def objects_of(self, segment: Segment) -> tuple[str, ...]:
        """The complete segment's objects; empty when there is none."""
        return self.wal.get(segment.name, ())


def system_ids(store: ReadableStore) -> tuple[int, ...]:
    """Every system id a store holds something of, by one short LIST each."""
    found: list[int] = []
    after = ""
    while True:
        name = next((info.name for info in store.list("", after=after)), None)
        if name is None:
            return tuple(found)
        head = name.partition("/")[0]
        if SYSTEM_ID.match(head):
            found.append(int(head))
        elif head > "9":
            return tuple(found)
        after = f"{head}/~" if "/" in name else name


def _read_histories(
    store: ReadableStore, system_id: int, keyring: Keyring
) -> tuple[dict[int, TimelineHistory], tuple[str, ...]]:
    """Every timeline history that verifies, and the names of those that don't."""
    found: dict[int, TimelineHistory] = {}
    damaged: list[str] = []
    for info in store.list(history_prefix(system_id)):
        place = parse_name(info.name)
        if isinstance(place, HistoryName):
            try:
                content = read_history_file(store, system_id, place.timeline, keyring)
                found[place.timeline] = TimelineHistory.parse(place.timeline, content)
            except IntegrityError as error:
                _log.warning("store %s: ignored: %s", store.name, error.message)
                damaged.append(info.name)
    return found, tuple(damaged)


def read_history_file(store: ReadableStore, system_id: int, timeline: int, keyring: Keyring) -> bytes:
    """PostgreSQL's `.history` file, byte for byte. Raises ObjectAbsent, IntegrityError."""
    name = history_name(system_id, timeline)
    body = read_sound(store, name, lambda found: open_document(keyring, "history", name, read_document(found, name)))
    return from_base64url(body["content"])


def list_snapshots(store: ReadableStore, system_id: int) -> tuple[Snapshot, ...]:
    """Every snapshot that exists in a store, oldest label first: one LIST."""
    places = (parse_name(info.name) for info in store.list(snapshots_prefix(system_id)))
    return tuple(sorted(place.snapshot for place in places if isinstance(place, ManifestName)))


def read_catalog(
    store: ReadableStore, system_id: int, keyring: Keyring, *, segment_size: int = 0, ranges: KnownReader | None = None
) -> StoreCatalog:
    """The catalog of one system id. `segment_size` saves the one header it would be read from; `ranges` the listing of
    what signed ranges name.

    The order is that of promises: what is put later is listed earlier, so a stream that runs meanwhile can make the
    catalog older, never inconsistent. A hole is believed when it is seen twice: pieces may give way during a LIST.
    Raises StoreUnavailable, IntegrityError (a history or the header that is not as signed).
    """
    histories, damaged = _read_histories(store, system_id, keyring)
    notes = tuple(list_notes(store, system_id))
    snapshots = list_snapshots(store, system_id)
    known = ranges.read(system_id) if ranges is not None else NOTHING
    conflicts = sorted({note.subject for note in notes if note.kind == CONFLICT}) if known.spans else []
    if len(conflicts) > _MOST_CONFLICTS:
        known, conflicts = Known((), known.summaries), []
    size = segment_size or known.segment_size
    coverage = None
    for _ in range(_MOST_LISTS + 1):
        seen = coverage
        pieces, listed = _list_wal(store, system_id, known, conflicts)
        retired = retired_ranges(store, system_id, notes, keyring)
        taken = _coverage_of(retired)
        size = size or _segment_size(store, system_id, keyring, listed, pieces)
        coverage = Coverage.of([*ranges_of(listed, pieces, size), *known.triples(taken)])
        if all(len(pairs) == 1 for pairs in coverage.by_timeline.values()):
            break
        if seen is not None and holes(coverage) == holes(seen):
            break
    return StoreCatalog(
        store=store.name,
        system_id=system_id,
        segment_size=size,
        snapshots=snapshots,
        wal=_together(listed, known, taken),
        pieces=pieces,
        histories=histories,
        coverage=coverage or Coverage.of(),
        notes=notes,
        recorded_gaps=tuple(gap for gap in map(gap_of, notes) if gap is not None),
        damaged=damaged,
        retired=retired,
        known=known,
    )


def _coverage_of(parts: Iterable[LsnRange]) -> Coverage:
    return Coverage.of((part.timeline, part.start, part.end) for part in parts)


def _list_wal(
    store: ReadableStore, system_id: int, known: Known, conflicts: Iterable[str]
) -> tuple[dict[str, tuple[PieceName, ...]], dict[str, tuple[str, ...]]]:
    """Pieces, and the complete segments that `known` does not name, with those in conflict. Pieces first: a segment is
    put before its pieces go.
    """
    pieces = list_pieces(store, pieces_prefix(system_id))
    wal: dict[str, tuple[str, ...]] = {}
    for info in _listed(store, system_id, known, conflicts):
        place = parse_name(info.name)
        if isinstance(place, WalName) and info.name not in wal.get(place.segment, ()):
            wal[place.segment] = (*wal.get(place.segment, ()), info.name)
    return pieces, wal


def _listed(store: ReadableStore, system_id: int, known: Known, conflicts: Iterable[str]) -> Iterator[ObjectInfo]:
    """One LIST before, between and after the runs of spans, and one per conflict."""
    after, prefix = "", wal_prefix(system_id)
    for first, last in known.covers():
        for info in store.list(prefix, after=after):
            if info.name >= first:
                break
            yield info
        after = last
    yield from store.list(prefix, after=after)
    for text in conflicts:
        try:
            yield from store.list(segment_prefix(system_id, Segment.parse(text, known.segment_size)))
        except UsageError:  # a note about no segment of this size
            continue


def _together(listed: dict[str, tuple[str, ...]], known: Known, retired: Coverage) -> dict[str, tuple[str, ...]]:
    """What was listed and what ranges name, ascending; of a segment in both, what was listed."""
    if not known.spans:
        return listed
    named = {segment: (name,) for span in known.spans for segment, name in span.objects(retired)}
    return dict(sorted({**named, **listed}.items()))


def list_pieces(store: ReadableStore, prefix: str) -> dict[str, tuple[PieceName, ...]]:
    """Pieces below a prefix, by segment name."""
    pieces: dict[str, tuple[PieceName, ...]] = {}
    for info in store.list(prefix):
        place = parse_name(info.name)
        if isinstance(place, PieceName):
            pieces[place.segment] = (*pieces.get(place.segment, ()), place)
    return pieces


def _segment_size(
    store: ReadableStore, system_id: int, keyring: Keyring, wal: Mapping[str, tuple[str, ...]],
    pieces: Mapping[str, tuple[PieceName, ...]],
) -> int:  # fmt: skip
    """From the signed header of the first object still there; 0 when there is none."""
    for objects in wal.values():
        try:
            return read_header(store, objects[0], keyring).segment_size
        except ObjectAbsent:  # pruned since it was listed
            continue
    for held in pieces.values():
        for piece in held:
            try:
                return read_header(store, piece_object(piece), keyring).segment_size
            except ObjectAbsent:  # it has given way to its segment or to a larger piece
                continue
    if not pieces:
        return 0
    pieces, wal = _list_wal(store, system_id, NOTHING, ())
    return _segment_size(store, system_id, keyring, wal, pieces)


def ranges_of(
    wal: Mapping[str, tuple[str, ...]], pieces: Mapping[str, tuple[PieceName, ...]], segment_size: int
) -> Iterator[tuple[int, int, int]]:
    """(timeline, start, end) of everything listed."""
    for name in wal:
        try:
            segment = Segment.parse(name, segment_size)
        except UsageError:  # a name that is no segment of this size covers nothing
            continue
        yield segment.timeline, segment.start, segment.end
    for name, held in pieces.items():
        try:
            segment = Segment.parse(name, segment_size)
        except UsageError:
            continue
        for piece in held:
            if segment.start <= piece.start and piece.end <= segment.end:
                yield piece.timeline, piece.start, piece.end


def longest_chain(pieces: tuple[PieceName, ...], start: Lsn) -> tuple[PieceName, ...]:
    """The pieces to read, in order, for the longest gapless run from `start` on."""
    chain: list[PieceName] = []
    position = start
    ordered = sorted(pieces, key=lambda piece: (piece.start, piece.end))
    while True:
        usable = [piece for piece in ordered if piece.start <= position < piece.end]
        if not usable:
            return tuple(chain)
        best = max(usable, key=lambda piece: piece.end)
        chain.append(best)
        position = best.end
