"""Views of a store: windows with times, gaps that two listings agree on, and a store that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import StoreUnavailable
from replicator.repository.catalog import read_catalog
from replicator.repository.notes import gap_note
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.header import Compression
from replicator.status.catalogs import CatalogReader, labels, open_gaps
from replicator.status.windows import Times, last_object, windows_json
from replicator.store import ObjectInfo, Prefixed, Store
from replicator.tolerance import SystemClock
from tests.repositories import make_repository

SIZE = 1 << 20
SYSTEM = 7
US = 1_795_305_600_000_000  # 2026-11-22T00:00:00Z


class Shifting(Prefixed):
    """A store whose names in `hidden` are missing from as many listings of them as it says, or that is away."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, "")
        self.hidden: dict[str, int] = {}
        self.away = False

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As Store."""
        if self.away:
            raise StoreUnavailable("store local: away")
        for info in super().list(prefix, after=after):
            if self.hidden.get(info.name, 0) > 0 and prefix.endswith("/"):
                self.hidden[info.name] -= 1
            else:
                yield info


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository whose one store shifts."""
    made = make_repository(tmp_path)
    return replace(made, stores={"local": Shifting(made.store("local"))})


def put(repository: Repository, segment: Segment, *, end: int = 0) -> str:
    """Put a whole segment, or a piece of it from its start to `end` bytes."""
    stop = Lsn(segment.start + end) if end else segment.end
    part = WalPart(SYSTEM, segment, segment.start, stop, US, US + segment.number * 1_000_000, not end)
    out: list[bytes] = []
    name = seal_part(
        repository.keyring, Compression.ZSTD, 3, part, lambda _at, size: bytes(size), lambda data: out.append(data)
    )
    repository.store("local").put(name, b"".join(out))
    return name


def reader(repository: Repository) -> tuple[CatalogReader, Shifting]:
    """A reader, and the store that it reads."""
    store = repository.store("local")
    assert isinstance(store, Shifting)
    return CatalogReader(repository, "local", SystemClock()), store


def test_holes_and_recorded_gaps(repository: Repository) -> None:
    """A hole between segments is an open gap, a recorded one too; the view ends where the WAL does."""
    first, third = Segment(1, 3, SIZE), Segment(1, 5, SIZE)
    for segment in (first, third):
        put(repository, segment)
    found, _ = reader(repository)
    view = found.refresh()
    hole = {"timeline": 1, "start_lsn": str(first.end), "stop_lsn": str(third.start), "open": True}
    assert view.gaps == (hole,)
    assert view.end == third.end
    assert open_gaps([view, view]) == (hole,)
    assert labels([view]) == ()
    later = LsnRange(1, third.end, Lsn(third.end + SIZE))
    name, data = gap_note(repository.keyring, SYSTEM, later, "lost", SystemClock().now())
    repository.store("local").put(name, data)
    assert len(found.refresh().gaps) == 2


def test_hole_of_one_listing_is_none(repository: Repository) -> None:
    """What one listing misses while objects are replaced is no gap when the next one has it."""
    names = [put(repository, Segment(1, number, SIZE)) for number in (3, 4, 5)]
    found, store = reader(repository)
    store.hidden[names[1]] = 1
    assert found.refresh().gaps == ()
    assert store.hidden[names[1]] == 0


def test_store_goes_away(repository: Repository) -> None:
    """A store that doesn't answer keeps its last view, with the error beside it, until it is back."""
    put(repository, Segment(1, 3, SIZE))
    found, store = reader(repository)
    seen = found.refresh()
    store.away = True
    away = found.refresh()
    assert isinstance(away.error, StoreUnavailable)
    assert (away.end, away.read_at) == (seen.end, seen.read_at)
    store.away = False
    assert found.refresh().error is None


def test_window_s_end_and_its_time(repository: Repository) -> None:
    """A window's last time is the send time of the object it ends with, a piece or a segment."""
    piece = put(repository, Segment(1, 4, SIZE), end=1000)
    segment = put(repository, Segment(1, 3, SIZE))
    store = repository.store("local")
    times = Times(store, repository.keyring)
    catalog = read_catalog(store, SYSTEM, repository.keyring)
    snapshot = Snapshot("20261122T000000Z", SYSTEM, 1, Lsn(3 * SIZE + 40), Lsn(3 * SIZE + 400))
    catalog = replace(catalog, snapshots=(snapshot,))
    window = catalog.windows[0]
    assert last_object(window, catalog) == piece
    (shown,) = windows_json(catalog, times)
    assert shown["to_lsn"] == str(Lsn(4 * SIZE + 1000))
    assert shown["to_time"] == "2026-11-22T00:00:04Z"
    assert shown["from_time"] is None
    assert shown["snapshot"] == snapshot.label
    alone = replace(catalog, pieces={}, coverage=Coverage.of([(1, 3 * SIZE, 4 * SIZE)]))
    assert last_object(alone.windows[0], alone) == segment
