"""What the stores hold, read now and then: one view per store, replaced whole.

Owns reading the catalogs for status. A store that does not answer keeps its last view, with the error beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.errors import ReplicatorError
from replicator.repository.catalog import StoreCatalog, read_catalog, system_ids
from replicator.repository.known import KnownReader
from replicator.repository.layout import RangeName, range_name
from replicator.repository.ranges import Span
from replicator.repository.records import Record, RecordReader
from replicator.repository.repository import Repository
from replicator.status.windows import Times, gap_json, windows_json
from replicator.tolerance import Clock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreView:
    """One store at `read_at` (None: never read). `error` is the failure of the last try, if it failed."""

    store: str
    read_at: datetime | None = None
    snapshots: tuple[Snapshot, ...] = ()
    windows: tuple[dict[str, Any], ...] = ()
    gaps: tuple[dict[str, Any], ...] = ()
    conflicts: tuple[str, ...] = ()
    end: Lsn | None = None
    error: ReplicatorError | None = None
    records: tuple[Record, ...] = ()


class CatalogReader:
    """Reads one store's view again and again; all is listed first and then every so many seconds, which shows where
    ranges are wrong (None: never). One thread at a time.
    """

    def __init__(
        self, repository: Repository, store: str, clock: Clock, *, listed_every_s: float | None = None
    ) -> None:
        self._repository = repository
        self._store = repository.store(store)
        self._clock = clock
        self._ranges = KnownReader(self._store, repository.keyring)
        self._times = Times(self._store, repository.keyring)
        self._records = RecordReader(self._store, repository.keyring)
        self._listed_every_s = listed_every_s
        self._listed_at = float("-inf")
        self.view = StoreView(store)

    def refresh(self) -> StoreView:
        """Read it; a failure is part of the view. Anything but our own errors is a bug and raised."""
        try:
            self.view = self._read()
        except ReplicatorError as error:
            self.view = replace(self.view, error=error)
        return self.view

    def _read(self) -> StoreView:
        """A listing takes time while shippers replace pieces: a hole counts when a second listing shows it too."""
        view = self._read_once()
        if any(gap["open"] and gap not in self.view.gaps for gap in view.gaps):
            again = self._read_once()
            view = replace(again, gaps=tuple(gap for gap in again.gaps if not gap["open"] or gap in view.gaps))
        return view

    def _read_once(self) -> StoreView:
        now, began = self._clock.now(), self._clock.monotonic()
        all_listed = self._listed_every_s is not None and began - self._listed_at >= self._listed_every_s
        read = self._compared if all_listed else self._quick
        catalogs = [read(system) for system in system_ids(self._store)]
        if all_listed:
            self._listed_at = began
        return StoreView(
            store=self._store.name,
            read_at=now,
            snapshots=tuple(sorted(snapshot for catalog in catalogs for snapshot in catalog.snapshots)),
            windows=tuple(window for catalog in catalogs for window in windows_json(catalog, self._times)),
            gaps=tuple(gap for catalog in catalogs for gap in _gaps_json(catalog, catalogs)),
            conflicts=tuple(name for catalog in catalogs for name in catalog.conflicts),
            end=max((end for catalog in catalogs if (end := coverage_end(catalog)) is not None), default=None),
            records=self._records.newest(
                (catalog.system_id for catalog in catalogs), tuple(self._repository.stores), now
            ),
        )

    def _quick(self, system_id: int) -> StoreCatalog:
        return read_catalog(self._store, system_id, self._repository.keyring, ranges=self._ranges)

    def _compared(self, system_id: int) -> StoreCatalog:
        """All of it listed. Ranges that say something else are not believed any more."""
        doubted: set[RangeName] = set()
        self._ranges.doubt(system_id, doubted)
        known = self._ranges.read(system_id)  # before the listing: a newer range may name what it has not seen
        catalog = read_catalog(self._store, system_id, self._repository.keyring)
        taken = Coverage.of((part.timeline, part.start, part.end) for part in catalog.retired)
        while wrong := {span.name for span in known.spans if not _agrees(span, catalog, taken)}:
            for name in sorted(wrong):
                _log.warning("store %s: %s says something else than the store", self._store.name, range_name(name))
            doubted |= wrong
            self._ranges.doubt(system_id, doubted)
            known = self._ranges.read(system_id)
        return replace(catalog, known=known)


def _agrees(span: Span, catalog: StoreCatalog, taken: Coverage) -> bool:
    """Whether each segment that a range names is listed under that name alone."""
    return all(catalog.wal.get(segment) == (name,) for segment, name in span.objects(taken))


def _gaps_json(catalog: StoreCatalog, catalogs: Iterable[StoreCatalog]) -> Iterable[dict[str, Any]]:
    """Its gaps. Those of a former cluster are closed by the first snapshot of the one that took its place."""
    newest = max((snapshot.label for snapshot in catalog.snapshots), default="")
    followed = any(snapshot.label > newest for other in catalogs for snapshot in other.snapshots)
    for gap in catalog.gaps:
        yield gap_json(replace(gap, open=gap.open and not followed))


def coverage_end(catalog: StoreCatalog) -> Lsn | None:
    """The last byte held on the newest timeline; None when there is no WAL."""
    held = catalog.coverage.by_timeline
    if not held:
        return None
    pairs = held[max(held)]
    return Lsn(pairs[-1][1]) if pairs else None


def labels(views: Iterable[StoreView]) -> tuple[str, ...]:
    """The labels of all snapshots, oldest first."""
    return tuple(sorted({snapshot.label for view in views for snapshot in view.snapshots}))


def open_gaps(views: Iterable[StoreView]) -> tuple[dict[str, Any], ...]:
    """Gaps that are open in any store, each once."""
    found = {(gap["timeline"], gap["start_lsn"]): gap for view in views for gap in view.gaps if gap["open"]}
    return tuple(found[key] for key in sorted(found))
