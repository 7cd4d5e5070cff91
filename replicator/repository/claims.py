"""Which names of a catalog's WAL are to be believed: names are claims, and whoever can put can claim.

Owns the looking at signed tables, one suffix range each. Needs no private key; changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from dataclasses import replace

from replicator.core.coverage import Coverage
from replicator.core.lsn import Segment
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.catalog import StoreCatalog, list_pieces, ranges_of
from replicator.repository.layout import PieceName, piece_object, pieces_prefix, segment_prefix
from replicator.repository.objects import read_table
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

_log = logging.getLogger(__name__)

#: How often segments are listed again while their objects go.
_MOST_LISTS = 4


def verified(
    catalog: StoreCatalog, store: ReadableStore, keyring: Keyring, segments: Container[str] = ()
) -> StoreCatalog:
    """The catalog without WAL objects whose tables don't verify, one suffix range each: names are claims, and whoever
    can put can claim. Looked at are all that decides an end or a choice (pieces of segments that are not complete, the
    newest complete segment of each timeline, segments with two contents) and every object of `segments`.

    Raises StoreUnavailable. Where an object has gone meanwhile, its segment is listed again: pieces give way.
    """
    checks = _Checks(store, keyring)
    wal, pieces = dict(catalog.wal), dict(catalog.pieces)
    for _ in range(_MOST_LISTS):
        checks.gone.clear()
        kept_wal, kept_pieces = checks.keep(wal, pieces, segments)
        if not checks.gone:
            break
        for name in checks.gone:
            try:
                segment = Segment.parse(name, catalog.segment_size)
            except UsageError:  # a name that is no segment of this size
                continue
            # Pieces are listed first: they go once their segment is there.
            listed = list_pieces(store, pieces_prefix(catalog.system_id, segment))
            pieces[name] = listed.get(name, ())
            wal[name] = tuple(info.name for info in store.list(segment_prefix(catalog.system_id, segment)))
    return replace(
        catalog,
        wal=kept_wal,
        pieces=kept_pieces,
        coverage=Coverage.of(ranges_of(kept_wal, kept_pieces, catalog.segment_size)),
        damaged=(*catalog.damaged, *checks.damaged),
    )


class _Checks:
    """Which WAL objects' tables verify, each read once; `gone`: the segments of those that are no longer there."""

    def __init__(self, store: ReadableStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._good: dict[str, bool] = {}
        self.gone: set[str] = set()
        self.damaged: list[str] = []

    def keep(
        self,
        listed: Mapping[str, tuple[str, ...]],
        pieces: Mapping[str, tuple[PieceName, ...]],
        segments: Container[str],
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[PieceName, ...]]]:
        """What of the listed complete segments and pieces is to be believed."""
        wal: dict[str, tuple[str, ...]] = {}
        for segment, names in listed.items():
            looked = len(names) > 1 or segment in segments
            wal[segment] = tuple(name for name in names if self._holds(segment, name)) if looked else names
        wal = {segment: names for segment, names in wal.items() if names}
        for timeline in {segment[:8] for segment in wal}:
            for segment in sorted((found for found in wal if found[:8] == timeline), reverse=True):
                if any(self._holds(segment, name) for name in wal[segment]):
                    break
                del wal[segment]
        kept = {
            segment: tuple(piece for piece in held if segment in wal or self._holds(segment, piece_object(piece)))
            for segment, held in pieces.items()
        }
        return wal, {segment: held for segment, held in kept.items() if held}

    def _holds(self, segment: str, name: str) -> bool:
        if name not in self._good:
            self._good[name] = False
            try:
                self._good[name] = read_table(self._store, name, self._keyring).name == name
            except ObjectAbsent:
                self.gone.add(segment)
            except IntegrityError as error:
                _log.warning("store %s: ignored: %s", self._store.name, error.message)
                self.damaged.append(name)
        return self._good[name]
