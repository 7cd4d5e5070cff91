"""The level `objects` on a repository made by hand: whatever is done to an object is found, named, and mended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.manifests import FileEntry
from replicator.repository.notes import retired_note
from replicator.seal.digest import COMPARISON_SIZE
from tests.verify.holding import (
    FIRST,
    PACK_ONE,
    PACK_TWO,
    PAGE,
    PUT,
    SECOND,
    SIZE,
    SYSTEM,
    Holding,
    affected,
    codes,
    copy_of,
    make_holding,
    rewrite,
    seal_manifest,
    wrong,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Holding:
    """Two stores that are well."""
    return make_holding(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def holding(template: Holding, tmp_path: Path) -> Holding:
    """A copy of them."""
    return copy_of(template, tmp_path / "repository")


def test_a_whole_repository_is_proven(holding: Holding, tmp_path: Path) -> None:
    """Every object of every store is looked at and opened, and both stores are proven."""
    result = holding.level(tmp_path, "objects")
    assert result.ok, result.findings
    assert result.findings == ()
    assert result.checked == sum(len(holding.files(store)) - 1 for store in ("local", "offsite"))  # but the record
    assert result.facts["opened"] == result.checked
    assert set(result.proven) == {"local", "offsite"}


@pytest.mark.parametrize("kind", ["wal3", "tail", "pack1", "snap2"])
def test_a_flipped_bit_is_found_and_named(holding: Holding, tmp_path: Path, kind: str) -> None:
    """Anywhere in an object: header, key, frames, table, signature, trailer."""
    for at in (0, 40, 120, 200, -700, -90, -60, -10):
        holding.flip("offsite", holding.names[kind], at)
        result = holding.level(tmp_path, "objects")
        assert wrong(result) == [("object_damaged", "offsite", holding.names[kind])]
        assert set(result.proven) == {"local"}
        holding.flip("offsite", holding.names[kind], at)


@pytest.mark.parametrize("kind", ["history", "note", "begin1", "root", "key", "recipient", "writer"])
def test_a_flipped_bit_of_a_document_is_found(holding: Holding, tmp_path: Path, kind: str) -> None:
    """Signed documents too, and one document damaged makes no other object look so."""
    names = {
        "root": "replicator.json",
        "key": next(name for name in holding.files("local") if name.endswith("/public")),
        "recipient": next(name for name in holding.files("local") if "/x25519-" in name),
        "writer": next(name for name in holding.files("local") if name.startswith("writers/")),
    }
    name = names.get(kind) or holding.names[kind]
    holding.flip("local", name, 30)
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("object_damaged", "local", name)]


def test_what_depends_on_an_object_is_said(holding: Holding, tmp_path: Path) -> None:
    """A pack names every snapshot that needs it; WAL names snapshots and moments."""
    for kind in ("pack1", "pack2", "wal2", "wal5", "new7", "snap1"):
        holding.flip("local", holding.names[kind], 300)
    found = affected(holding.level(tmp_path, "objects"))
    names = holding.names
    assert found[names["pack1"]] == f"snapshots {FIRST.label}, {SECOND.label}"
    assert found[names["pack2"]] == f"snapshot {SECOND.label}"
    assert found[names["snap1"]] == f"snapshot {FIRST.label}"
    assert found[names["wal2"]] == f"snapshot {FIRST.label}"
    assert found[names["wal5"]] == "every moment from 0/500000 to 0/604000 on timeline 1"
    assert found[names["new7"]] == "every moment from 0/700000 to 0/903000 on timeline 2"


def test_truncated_swapped_renamed_and_foreign_objects_are_found(holding: Holding, tmp_path: Path) -> None:
    """Each is named, and what was moved away is missing."""
    names = holding.names
    stranger = make_holding(tmp_path / "stranger")
    cut = holding.path("local", names["wal2"])
    rewrite(cut, cut.read_bytes()[:-5000])
    one, two = (holding.path("local", names[kind]) for kind in ("wal3", "wal4"))
    first, second = one.read_bytes(), two.read_bytes()
    rewrite(one, second)
    rewrite(two, first)
    rewrite(holding.path("local", names["pack2"]), stranger.path("local", stranger.names["pack2"]).read_bytes())
    moved = holding.path("local", names["new6"])
    other = names["new6"].rpartition("-")[0] + "-0123456789abcdef"
    moved.rename(holding.path("local", other))
    result = holding.level(tmp_path, "objects")
    assert {(code, name) for code, _, name in wrong(result)} == {
        ("object_damaged", names["wal2"]),
        ("object_damaged", names["wal3"]),
        ("object_damaged", names["wal4"]),
        ("object_damaged", names["pack2"]),
        ("object_damaged", other),
        ("object_missing", names["new6"]),
    }


@pytest.mark.parametrize("kind", ["wal2", "wal4", "new8", "history", "pack1", "snap1", "snap2", "note"])
def test_what_one_store_lacks_is_missing(holding: Holding, tmp_path: Path, kind: str) -> None:
    """An object that another store has, or that a manifest names, is missed."""
    holding.path("offsite", holding.names[kind]).unlink()
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("object_missing", "offsite", holding.names[kind])]


def test_a_pack_that_no_store_has_is_missing(holding: Holding, tmp_path: Path) -> None:
    """The manifests that name it remember it."""
    for store in ("local", "offsite"):
        holding.path(store, holding.names["pack1"]).unlink()
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("object_missing", store, holding.names["pack1"]) for store in ("local", "offsite")]
    assert affected(result)[holding.names["pack1"]] == f"snapshots {FIRST.label}, {SECOND.label}"


def test_what_passes_by_itself_is_not_missed(holding: Holding, tmp_path: Path) -> None:
    """Pieces give way, begins are removed, and an unknown name is only a remark."""
    for kind in ("piece", "begin1"):
        holding.path("offsite", holding.names[kind]).unlink()
    holding.path("local", "stray").write_bytes(b"")
    result = holding.level(tmp_path, "objects")
    assert result.ok, wrong(result)
    assert codes(result) == {"object_unknown"}


def test_a_snapshot_and_wal_that_vanished_everywhere_are_remembered(holding: Holding, tmp_path: Path) -> None:
    """The record of the last run names the snapshot, and how far WAL reached."""
    assert holding.level(tmp_path, "objects").ok
    for store in ("local", "offsite"):
        for kind in ("snap2", "tail", "piece"):
            holding.path(store, holding.names[kind]).unlink()
    result = holding.level(tmp_path, "objects")
    stores = ("local", "offsite")
    assert sorted(wrong(result)) == sorted(
        (code, store, None) for store in stores for code in ("snapshot_vanished", "wal_vanished")
    )


def test_repair_takes_from_the_other_store(holding: Holding, tmp_path: Path) -> None:
    """Damaged and missing objects are put back, byte for byte what the other store holds, and the run is well."""
    damaged = ["wal3", "pack1", "snap2", "tail", "history", "note"]
    missing = ["wal4", "pack2", "snap1"]
    for kind in damaged:
        holding.flip("local", holding.names[kind], 100)
    for kind in missing:
        holding.path("local", holding.names[kind]).unlink()
    holding.flip("offsite", holding.names["wal5"], 200)
    result = holding.level(tmp_path, "objects", repair=True)
    assert result.ok, wrong(result)
    assert len([found for found in result.findings if found.code == "object_repaired"]) == 10
    for name in holding.files("offsite"):
        assert holding.path("local", name).read_bytes() == holding.path("offsite", name).read_bytes()
    assert holding.level(tmp_path, "objects").findings == ()


def test_repair_never_copies_what_is_damaged(holding: Holding, tmp_path: Path) -> None:
    """With both copies damaged nothing is touched, and both are named."""
    name = holding.names["pack1"]
    before = {}
    for store in ("local", "offsite"):
        holding.flip(store, name, 150)
        before[store] = holding.path(store, name).read_bytes()
    result = holding.level(tmp_path, "objects", repair=True)
    assert {found for found in wrong(result) if found[0] == "not_repaired"} == {
        ("not_repaired", store, name) for store in ("local", "offsite")
    }
    assert {store: holding.path(store, name).read_bytes() for store in before} == before


def test_an_empty_store_is_one_finding(holding: Holding, tmp_path: Path) -> None:
    """A store newly added to the policy lacks everything; that is said once."""
    shutil.rmtree(holding.base / "stores" / "offsite" / "frk")
    result = holding.level(tmp_path, "objects")
    assert wrong(result) == [("store_empty", "offsite", None)]
    assert set(result.proven) == {"local"}
    shutil.rmtree(holding.base / "stores" / "local" / "frk")
    assert {found[0] for found in wrong(holding.level(tmp_path, "objects"))} == {"store_empty"}


def test_blocks_that_lie_nowhere_are_found(holding: Holding, tmp_path: Path) -> None:
    """A manifest, signed as it should be, whose blocks are not in the packs that it names."""
    for run, packs in ((BlockRun(4, PACK_ONE, 7, 0), [PACK_ONE]), (BlockRun(4, PACK_ONE, 1, 3 * PAGE), [PACK_ONE]),
                       (BlockRun(4, PACK_TWO, 1, 0), [PACK_ONE])):  # fmt: skip
        chunk = MapChunk((run,), bytes(4 * COMPARISON_SIZE)).to_bytes()
        seal_manifest(holding, FIRST, None, packs, [FileEntry("base/0", 0o600, 4 * PAGE, 0, PAGE, (chunk,))])
        found = wrong(holding.level(tmp_path, "objects"))
        assert found == [("object_damaged", store, holding.names["snap1"]) for store in ("local", "offsite")]


def test_what_was_let_go_of_is_not_missed(holding: Holding, tmp_path: Path) -> None:
    """A `retired` note of any store says so, signed; notes about one store are needed by no other."""
    assert holding.level(tmp_path, "objects").ok
    keyring, gone = holding.repository.keyring, [holding.names[kind] for kind in ("snap1", "note")]
    for name in (*gone, holding.names["wal2"]):
        holding.path("offsite", name).unlink()
    assert len(wrong(holding.level(tmp_path, "objects"))) == 3
    name, data = retired_note(keyring, SYSTEM, "x", gone, None, PUT)
    holding.repository.store("offsite").put(name, data)
    taken = [LsnRange(1, Lsn(0), Lsn(3 * SIZE))]
    name, data = retired_note(keyring, SYSTEM, "gone", (), taken, PUT)
    holding.repository.store("offsite").put(name, data)
    holding.age()
    result = holding.level(tmp_path, "objects")
    assert result.ok, wrong(result)


def test_the_newest_snapshot_is_never_taken_by_retention(holding: Holding, tmp_path: Path) -> None:
    """An older one that vanished where retention works is a remark; the newest is wrong."""
    assert holding.level(tmp_path, "objects").ok
    name, data = retired_note(holding.repository.keyring, SYSTEM, "gone", (), [], PUT)
    holding.put(name, data)
    for store in ("local", "offsite"):
        holding.path(store, holding.names["snap1"]).unlink()
    result = holding.level(tmp_path, "objects")
    assert result.ok
    assert codes(result) == {"snapshot_vanished"}
    for store in ("local", "offsite"):
        holding.path(store, holding.names["snap2"]).unlink()
    assert wrong(holding.level(tmp_path, "objects")) == [("snapshot_vanished", s, None) for s in ("local", "offsite")]
