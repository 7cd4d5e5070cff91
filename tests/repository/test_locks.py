"""Whose locks a snapshot extends, and what it means when a store does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ObjectAbsent, StoreDenied
from replicator.repository.layout import KEYS, ROOT, WRITERS, PackId, pack_name
from replicator.repository.locks import extend_documents, extend_packs
from replicator.repository.repository import Repository
from replicator.store import Prefixed, Store
from tests.repositories import make_repository

OLD = "20261121T120000Z"


class Locked(Prefixed):
    """A store that takes locks and notes them; `gone` are absent when their turn comes, `denied` refuses all."""

    def __init__(self, inner: Store, gone: str = "", *, denied: bool = False) -> None:
        super().__init__(inner, "")
        self._gone, self._denied = gone, denied
        self.extended: list[str] = []

    @property
    def locks(self) -> bool:
        """It does."""
        return True

    def extend_lock(self, name: str) -> None:
        """Note it."""
        if self._denied:
            raise StoreDenied("no right to set locks")
        if self._gone and name.startswith(self._gone):
            raise ObjectAbsent(f"{name} is gone")
        self.extended.append(name)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository in a directory."""
    return make_repository(tmp_path)


def extend(repository: Repository, store: Store) -> int:
    """Of the documents and a pack."""
    return extend_packs(store, 7, [PackId(OLD, 1, 0)]) + extend_documents(store, repository.keyring, 7)


def test_packs_and_documents(repository: Repository) -> None:
    """The pack that was named and every document, each once. Nothing where there is no lock."""
    store = Locked(repository.store("local"))
    count = extend(repository, store)
    assert count == len(store.extended) == len(set(store.extended))
    assert pack_name(7, PackId(OLD, 1, 0)) in store.extended
    assert {ROOT} | {info.name for info in store.list(KEYS)} | {info.name for info in store.list(WRITERS)} < set(
        store.extended
    )
    assert extend(repository, repository.store("local")) == 0


def test_what_is_gone(repository: Repository) -> None:
    """A document that was removed meanwhile is no failure; a pack that is gone is."""
    assert extend(repository, Locked(repository.store("local"), KEYS)) > 0
    with pytest.raises(ObjectAbsent):
        extend(repository, Locked(repository.store("local"), "7/packs/"))


def test_a_refusal_is_not_swallowed(repository: Repository) -> None:
    """A store that does not extend does not get the snapshot: its lock was promised."""
    with pytest.raises(StoreDenied):
        extend(repository, Locked(repository.store("local"), denied=True))
