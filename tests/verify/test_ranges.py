"""Ranges and summaries under verification: a wrong one is named and removed, and none hides what a store has lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.core.lsn import Segment
from replicator.repository.layout import range_name, summary_name
from replicator.repository.manifests import read_summary
from replicator.repository.ranges import Held, sign_range
from replicator.repository.summaries import sign_summaries
from tests.verify.holding import FIRST, SECOND, SIZE, SYSTEM, Holding, copy_of, make_holding, wrong


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Holding:
    """Two stores that are well, the first with a range and a summary."""
    made = make_holding(tmp_path_factory.mktemp("template") / "repository")
    keyring, store = made.repository.keyring, made.repository.store("local")
    held = [Held(number, bytes.fromhex(made.names[f"wal{number}"][-16:]), 5, 6) for number in (2, 3, 4)]
    name, content = sign_range(keyring, "local", SYSTEM, 1, SIZE, held)
    store.put(range_name(name), content)
    made.names["range"] = range_name(name)
    told = [read_summary(store, found, keyring) for found in (FIRST, SECOND)]
    for summary, content in sign_summaries(keyring, SYSTEM, told):
        store.put(summary_name(summary), content)
        made.names["summary"] = summary_name(summary)
    made.age()
    return made


@pytest.fixture
def holding(template: Holding, tmp_path: Path) -> Holding:
    """A copy of them."""
    return copy_of(template, tmp_path / "repository")


def test_only_one_store_has_them(holding: Holding, tmp_path: Path) -> None:
    """They are looked at, and another store lacks nothing without them."""
    result = holding.level(tmp_path, "objects")
    assert result.findings == ()
    assert set(result.proven) == {"local", "offsite"}


@pytest.mark.parametrize("kind", ["range", "summary"])
def test_a_damaged_one_is_named_and_removed(holding: Holding, tmp_path: Path, kind: str) -> None:
    """It is damage like any other; a repair removes it, for nothing needs it."""
    holding.flip("local", holding.names[kind], 50)
    assert wrong(holding.level(tmp_path, "objects")) == [("object_damaged", "local", holding.names[kind])]
    repaired = holding.level(tmp_path, "objects", repair=True)
    assert [finding.code for finding in repaired.findings] == ["object_repaired"]
    assert holding.names[kind] not in holding.files("local")
    assert holding.level(tmp_path, "objects").findings == ()


def test_a_range_hides_no_loss(holding: Holding, tmp_path: Path) -> None:
    """A segment that a range names and the store has lost is missing."""
    holding.path("local", holding.names["wal3"]).unlink()
    assert Segment(1, 3, SIZE).name in holding.names["wal3"]
    assert wrong(holding.level(tmp_path, "objects")) == [("object_missing", "local", holding.names["wal3"])]
