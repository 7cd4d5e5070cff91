"""Which cluster is followed: said by an operator, signed, the newest counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicator.errors import StoreUnavailable
from replicator.repository.catalog import system_ids
from replicator.repository.notes import accepted_system, system_note
from replicator.repository.repository import Repository
from replicator.upkeep.accept import accept_system
from tests.repositories import make_repository

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def followed(repository: Repository, store: str = "one") -> int | None:
    """What a store says."""
    place = repository.store(store)
    found = accepted_system(place, system_ids(place), repository.keyring)
    return found[1] if found is not None else None


def test_the_newest_counts(tmp_path: Path) -> None:
    """Each store says whom it follows; the same said twice changes nothing; a later word counts, whatever the clock of
    the host that says it.
    """
    repository = make_repository(tmp_path, names=("one", "two"))
    assert followed(repository) is None
    assert accept_system(repository, 7, NOW).stores == {"one": "accepted", "two": "accepted"}
    assert accept_system(repository, 7, NOW + timedelta(days=1)).stores == {"one": "unchanged", "two": "unchanged"}
    assert (followed(repository), followed(repository, "two")) == (7, 7)
    accept_system(repository, 18_000_000_000_000_000_000, NOW - timedelta(days=300))
    assert followed(repository) == followed(repository, "two") == 18_000_000_000_000_000_000
    accept_system(repository, 7, NOW - timedelta(days=300))
    assert followed(repository) == 7


def test_a_store_that_is_away_holds_up_no_other(tmp_path: Path) -> None:
    """The others take the note, the one that is away is named; without any store it is an error."""
    repository = make_repository(tmp_path, names=("one", "two"))
    (tmp_path / "stores" / "two").rename(tmp_path / "away")
    result = accept_system(repository, 7, NOW)
    assert result.stores == {"one": "accepted"}
    assert list(result.failed) == ["two"]
    (tmp_path / "away").rename(tmp_path / "stores" / "two")
    assert accept_system(repository, 7, NOW).stores == {"one": "unchanged", "two": "accepted"}
    for name in ("one", "two"):
        (tmp_path / "stores" / name).rename(tmp_path / f"{name}-away")
    with pytest.raises(StoreUnavailable):
        accept_system(repository, 7, NOW)


def test_who_can_only_put_decides_nothing(tmp_path: Path) -> None:
    """A note that no writer of the repository signed counts for nothing, however new it is."""
    repository = make_repository(tmp_path / "ours", names=("one",))
    other = make_repository(tmp_path / "theirs", names=("one",))
    accept_system(repository, 7, NOW)
    name, data = system_note(other.keyring, 8, NOW + timedelta(days=1))
    repository.store("one").put(name, data)
    repository.store("one").put(name.replace("8/notes", "9/notes").replace("-8-", "-9-"), data)
    assert followed(repository) == 7
