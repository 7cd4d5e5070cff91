"""Windows and gaps of one store as JSON, with times from signed tables: one small read each, kept by name, but for
those that the store's ranges and summaries tell.

A window's `to_time` is the source's clock at its last byte: the last commit in it is not later.
"""

from __future__ import annotations

from typing import Any

from replicator.core.lsn import Segment
from replicator.core.moment import rfc3339_of
from replicator.core.windows import Gap, Window
from replicator.errors import ObjectAbsent
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import manifest_name, piece_name
from replicator.repository.objects import read_table
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

_KEPT = 1000


class Times:
    """Send times of objects' ends in one store, by name; forgotten when there are too many."""

    def __init__(self, store: ReadableStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._known: dict[str, int | None] = {}

    def of(self, name: str | None) -> str | None:
        """RFC 3339; None when it is not known. Raises StoreUnavailable, IntegrityError."""
        if name is None:
            return None
        if name not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[name] = self._read(name)
        return rfc3339_of(self._known[name])

    def _read(self, name: str) -> int | None:
        try:
            return read_table(self._store, name, self._keyring).last_us
        except ObjectAbsent:  # a piece that was listed and has been replaced since
            return None


def windows_json(catalog: StoreCatalog, times: Times) -> tuple[dict[str, Any], ...]:
    """The recoverable windows."""
    return tuple(_window(window, catalog, times) for window in catalog.windows)


def _window(window: Window, catalog: StoreCatalog, times: Times) -> dict[str, Any]:
    snapshot = window.snapshot
    summary = catalog.known.summaries.get(snapshot)
    begin = rfc3339_of(summary.stop_us) if summary is not None else times.of(manifest_name(snapshot))
    last = last_object(window, catalog)
    told = catalog.known.times(last) if last is not None else None
    return {
        "timeline": window.timeline,
        "from_lsn": str(window.start),
        "to_lsn": str(window.end),
        "from_time": begin,
        "to_time": rfc3339_of(told[1]) if told is not None else times.of(last),
        "snapshot": snapshot.label,
    }


def last_object(window: Window, catalog: StoreCatalog) -> str | None:
    """The name of the object that ends where the window ends; None when only a snapshot's own bytes are held."""
    if not catalog.segment_size:
        return None
    segment = Segment.holding(window.timeline, window.end - 1, catalog.segment_size)
    if segment.end == window.end and segment.name in catalog.wal:
        return catalog.wal[segment.name][0]
    for piece in catalog.pieces.get(segment.name, ()):
        if piece.end == window.end:
            return piece_name(piece.system_id, segment, piece.start, piece.end, piece.fingerprint)
    return None


def gap_json(gap: Gap) -> dict[str, Any]:
    """One gap."""
    return {"timeline": gap.timeline, "start_lsn": str(gap.start), "stop_lsn": str(gap.stop), "open": gap.open}
