"""WAL and histories that went from every store at once: the record of the last run remembers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.verify.inventory import Holdings
from replicator.verify.vanished import lost_wal, wal_json, wal_of_json
from tests.verify.holding import END, NAMES, SIZE, Holding, affected, make_holding, wrong


@pytest.fixture
def holding(tmp_path: Path) -> Holding:
    """Two stores that were found well."""
    made = make_holding(tmp_path / "repository")
    assert made.level(tmp_path, "objects").ok
    made.age()
    return made


def remove(holding: Holding, *kinds: str) -> None:
    """From every store."""
    for store in NAMES:
        for kind in kinds:
            holding.path(store, holding.names[kind]).unlink()


def test_a_segment_before_the_newest_snapshot_is_remembered(holding: Holding, tmp_path: Path) -> None:
    """The hole is closed by a snapshot that was there before, and still moments were lost: said with their range."""
    remove(holding, "wal3")
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("wal_vanished", store, None) for store in NAMES]
    assert "timeline 1 from 0/300000 to 0/400000" in result.findings[0].text


def test_all_wal_of_a_timeline_is_remembered(holding: Holding, tmp_path: Path) -> None:
    """Also when nothing of the timeline is left to say where it ended."""
    remove(holding, "new6", "new7", "new8", "piece", "tail")
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("wal_vanished", store, None) for store in NAMES]
    assert f"timeline 2 from 0/600000 to {END}" in result.findings[0].text


def test_a_history_is_remembered(holding: Holding, tmp_path: Path) -> None:
    """Without it no snapshot of the timeline before leads there."""
    remove(holding, "history")
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("history_vanished", store, None) for store in NAMES]
    assert affected(result)[None] == "recovery to timeline 2"


def test_a_piece_that_only_another_store_has_is_missed_and_mended(holding: Holding, tmp_path: Path) -> None:
    """The end of a timeline is a piece; the store that lost it is behind, and takes it from the other one."""
    for kind in ("tail", "piece"):
        holding.path("offsite", holding.names[kind]).unlink()
    missed = {("object_missing", "offsite", holding.names[kind]) for kind in ("tail", "piece")}
    assert set(wrong(holding.level(tmp_path, "objects"))) == missed
    assert holding.level(tmp_path, "objects", repair=True).ok
    assert holding.path("offsite", holding.names["tail"]).exists()


def test_what_is_remembered_reads_back() -> None:
    """Ranges by system id and timeline; what is held or accounted for is no loss."""
    held = Coverage.of([(1, 0, 4 * SIZE), (2, 2 * SIZE, 3 * SIZE)])
    before = wal_of_json(wal_json([Holdings(7, (), (), held)]))
    assert before == {7: held}
    assert list(lost_wal(before, {7: held})) == []
    now = {7: Coverage.of([(1, 0, SIZE), (2, 2 * SIZE, 3 * SIZE)])}
    taken = {7: Coverage.of([(1, SIZE, 2 * SIZE)])}
    assert list(lost_wal(before, now, taken)) == [LsnRange(1, Lsn(2 * SIZE), Lsn(4 * SIZE))]
    assert len(list(lost_wal(before, {}))) == 2
