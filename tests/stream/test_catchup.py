"""What a store takes from another one: what it lacks, and nothing that retention took from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.repository.catalog import StoreCatalog
from replicator.repository.layout import wal_name
from replicator.spool import Spool
from replicator.stream.catchup import missing_objects
from replicator.stream.holdings import Holdings
from replicator.stream.naming import describer

SIZE = 2**20
SYSTEM = 7


def segments(numbers: Iterable[int]) -> dict[str, tuple[str, ...]]:
    """Complete segments, by name."""
    found = [Segment(1, number, SIZE) for number in numbers]
    return {one.name: (wal_name(SYSTEM, one, f"{one.number:016x}"),) for one in found}


def holdings(spool: Spool, numbers: Iterable[int], *, retired: LsnRange | None = None) -> Holdings:
    """A store that holds these segments."""
    wal = segments(numbers)
    coverage = Coverage.of((1, Segment.parse(name, SIZE).start, Segment.parse(name, SIZE).end) for name in wal)
    taken = (retired,) if retired is not None else ()
    catalog = StoreCatalog("local", SYSTEM, SIZE, (), wal, {}, {}, coverage, retired=taken)
    return Holdings(catalog, (), spool)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool."""
    return Spool(tmp_path, SYSTEM, describer, SIZE)


def test_what_retention_took_stays_away(spool: Spool) -> None:
    """Of the holes of a store only those are filled that retention did not make, though the other store has it all."""
    theirs = holdings(spool, range(1, 30))
    kept = [*range(1, 4), *range(20, 23), *range(25, 30)]
    assert missing_objects(holdings(spool, kept), theirs, spool) == [
        name for names in segments([*range(4, 20), 23, 24]).values() for name in names
    ]
    ours = holdings(spool, kept, retired=LsnRange(1, Lsn(4 * SIZE), Lsn(20 * SIZE)))
    assert missing_objects(ours, theirs, spool) == [name for names in segments([23, 24]).values() for name in names]
