"""The level `coverage` on a repository made by hand: what each store can bring back, in exact LSNs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from tests.verify.holding import END, FIRST, SECOND, SWITCH, Holding, affected, copy_of, make_holding, wrong


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Holding:
    """Two stores that are well."""
    return make_holding(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def holding(template: Holding, tmp_path: Path) -> Holding:
    """A copy of them."""
    return copy_of(template, tmp_path / "repository")


def test_windows_on_every_timeline_are_told(holding: Holding, tmp_path: Path) -> None:
    """Per store, in exact LSNs, with the snapshot that each begins with."""
    result = holding.level(tmp_path, "coverage")
    assert result.ok, result.findings
    assert set(result.proven) == {"local", "offsite"}
    assert result.checked == 4
    windows = result.facts["stores"]["offsite"]["windows"]
    told = [(found["timeline"], found["from_lsn"], found["to_lsn"], found["snapshot"]) for found in windows]
    assert told == [
        (1, str(FIRST.stop), str(SWITCH), FIRST.label),
        (2, str(FIRST.stop), str(END), FIRST.label),
    ]


def test_wal_that_a_snapshot_needs_is_missed(holding: Holding, tmp_path: Path) -> None:
    """With the exact range, and the hole is an open gap of the moments behind it, closed by the later snapshot."""
    holding.path("local", holding.names["wal3"]).unlink()
    result = holding.level(tmp_path, "coverage")
    assert [found[:2] for found in wrong(result)] == [("snapshot_lacks_wal", "local")]
    text = next(found.text for found in result.findings)
    assert text.endswith(f"0/300000 to {FIRST.stop}")
    assert set(result.proven) == {"offsite"}


def test_a_hole_after_the_last_snapshot_is_an_open_gap(holding: Holding, tmp_path: Path) -> None:
    """The moments behind it can't be reached."""
    holding.path("offsite", holding.names["new7"]).unlink()
    result = holding.level(tmp_path, "coverage")
    assert ("open_gap", "offsite", None) in wrong(result)


def test_a_pack_and_a_history_that_are_gone_are_missed(holding: Holding, tmp_path: Path) -> None:
    """Packs by the snapshots that need them; without its history a timeline has no windows."""
    holding.path("local", holding.names["pack1"]).unlink()
    result = holding.level(tmp_path, "coverage")
    assert [found[:2] for found in wrong(result)] == [("snapshot_lacks_packs", "local")] * 2
    assert {found.affects for found in result.findings} == {f"snapshot {FIRST.label}", f"snapshot {SECOND.label}"}


def test_a_store_that_stayed_behind_is_named(holding: Holding, tmp_path: Path) -> None:
    """It ends earlier than another store, or than the stream that a daemon tells of."""
    for kind in ("tail", "piece", "new8"):
        holding.path("offsite", holding.names[kind]).unlink()
    result = holding.level(tmp_path, "coverage")
    assert wrong(result) == [("store_behind", "offsite", None)]
    assert affected(result) == {None: "every moment after 0/800000"}
    result = holding.level(tmp_path, "coverage", stream_position=lambda: (2, END + 1))
    assert wrong(result) == [("store_behind", store, None) for store in ("local", "offsite")]
    assert holding.level(tmp_path, "coverage", chosen=("local",), stream_position=lambda: (2, Lsn(END))).ok


def test_a_damaged_piece_counts_for_nothing(holding: Holding, tmp_path: Path) -> None:
    """Names are claims: what is not signed covers nothing, and is named."""
    holding.flip("local", holding.names["tail"], -60)
    result = holding.level(tmp_path, "coverage")
    assert ("object_damaged", "local", holding.names["tail"]) in wrong(result)
    assert result.facts["stores"]["local"]["windows"][1]["to_lsn"] == "0/902000"


def test_an_empty_store_brings_nothing_back(holding: Holding, tmp_path: Path) -> None:
    """A store without a snapshot is named, also when it holds WAL."""
    for kind in ("snap1", "snap2"):
        holding.path("offsite", holding.names[kind]).unlink()
    result = holding.level(tmp_path, "coverage")
    assert wrong(result) == [("no_snapshot", "offsite", None)]
    assert result.proven == {"local": result.proven["local"]}
    assert (datetime.now(UTC) - result.proven["local"]).total_seconds() < 60
