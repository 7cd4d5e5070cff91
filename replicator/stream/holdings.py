"""What one store holds of the stream, as its shipper knows it: read from the catalog once, then kept up to date.

Forgotten and read again after any error. One thread changes it, but for gaps, which any may add; others read values
that are replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import NoteName, PieceName, note_name, parse_name, piece_name
from replicator.repository.notes import gap_of
from replicator.spool import Position, SealedFile, Spool
from replicator.stream.durable import Stretch, durable_position


class Holdings:
    """From a catalog, the spool as it is then, and the gaps that are recorded: lost WAL holds up no position."""

    def __init__(self, catalog: StoreCatalog, lost: Iterable[LsnRange], spool: Spool) -> None:
        self._lock = Lock()
        self.coverage = catalog.coverage
        self.histories = dict(catalog.histories)
        self.snapshots = catalog.snapshots
        self.wal: dict[str, set[str]] = {segment: set(names) for segment, names in catalog.wal.items()}
        self.pieces: dict[str, dict[str, PieceName]] = {}
        self._documents = {_note(note) for note in catalog.notes}
        self._starts = self._first_needed(spool)
        #: What retention took from this store: nobody brings it back.
        self.retired = _coverage(catalog.retired)
        self._accounted = self.coverage.union(_coverage([*catalog.recorded_gaps, *catalog.retired, *lost]))
        self._size = catalog.segment_size
        for segment, held in catalog.pieces.items():
            for piece in held:
                self._keep_piece(segment, piece)

    @property
    def accounted(self) -> Coverage:
        """What is here, or recorded as lost."""
        return self._accounted

    def _first_needed(self, spool: Spool) -> dict[int, Lsn]:
        """By timeline, the first byte that must be here for the store to be durable at all: the oldest in the spool, or
        the store's own end when it is behind that. What came before is here, or was pruned since.
        """
        oldest: dict[int, Lsn] = {}
        for held in spool.held():
            oldest.setdefault(held.segment.timeline, held.segment.start)
        found: dict[int, Lsn] = {}
        for timeline, _, end in spool.stretches():
            start = oldest.get(timeline, end)
            found[timeline] = min(start, self.coverage.end(timeline) or start)
        return found

    def _keep_piece(self, segment: str, piece: PieceName) -> None:
        place = Segment.holding(piece.timeline, piece.start, self._size)
        name = piece_name(piece.system_id, place, piece.start, piece.end, piece.fingerprint)
        self.pieces.setdefault(segment, {})[name] = piece

    def add(self, file: SealedFile) -> None:
        """The store has one more object."""
        if file.document:
            self._documents.add(file.name)
            note = parse_name(file.name)
            if isinstance(note, NoteName) and (gap := gap_of(note)) is not None:
                self.lose(gap)
            return
        if file.complete:
            self.wal.setdefault(file.segment, set()).add(file.name)
        elif isinstance(place := parse_name(file.name), PieceName):
            self.pieces.setdefault(file.segment, {})[file.name] = place
        self._cover(file.start.timeline, file.start.lsn, file.end.lsn)

    def _cover(self, timeline: int, start: Lsn, end: Lsn) -> None:
        with self._lock:
            self.coverage = self.coverage.add(timeline, start, end)
            self._accounted = self._accounted.add(timeline, start, end)

    def lose(self, lost: LsnRange) -> None:
        """A gap was recorded: nothing waits for its bytes any more."""
        with self._lock:
            self._accounted = self._accounted.add(lost.timeline, lost.start, lost.end)

    def holds(self, file: SealedFile) -> bool:
        """Whether the store has this object, or for a piece all that it holds."""
        if file.document:
            return file.name in self._documents
        if file.complete:
            return file.name in self.wal.get(file.segment, ())
        return self.coverage.holds(file.start.timeline, file.start.lsn, file.end.lsn)

    def holds_raw(self, segment: Segment, end: Lsn, name: str | None) -> bool:
        """Whether the store has the spool's bytes of a segment: a complete one as the object `name` (None: not sealed
        yet), since another's of the same segment may say something else; an incomplete one by any pieces.
        """
        if end == segment.end:
            return name is not None and name in self.wal.get(segment.name, ())
        return self.coverage.holds(segment.timeline, segment.start, end)

    def replaced_by(self, file: SealedFile) -> tuple[str, ...]:
        """The store's pieces that `file`, being durable there, makes needless."""
        names = self.pieces.get(file.segment, {})
        if file.complete:
            return tuple(names)
        first, last = file.start.lsn, file.end.lsn
        return tuple(
            name for name, piece in names.items() if name != file.name and first <= piece.start and piece.end <= last
        )

    def deleted(self, segment: str, name: str) -> None:
        """A piece is gone from the store."""
        held = self.pieces.get(segment, {})
        held.pop(name, None)
        if not held:
            self.pieces.pop(segment, None)

    def durable(self, stretches: Iterable[Stretch]) -> Position:
        """Up to where everything that the spool had is in this store. A store that was behind the spool when it was
        read must have what lies between as well.
        """
        wanted = [(timeline, self._starts.get(timeline, start), end) for timeline, start, end in stretches]
        return durable_position(wanted, self._accounted)

    def has_note(self, kind: str, subject: str) -> bool:
        """Whether a note of this kind and subject is there."""
        return any(f"-{kind}-{subject}-" in name for name in self._documents)


def _coverage(ranges: Iterable[LsnRange]) -> Coverage:
    return Coverage.of((lost.timeline, lost.start, lost.end) for lost in ranges)


def _note(note: NoteName) -> str:
    return note_name(note.system_id, note.time, note.kind, note.subject, note.fingerprint)
