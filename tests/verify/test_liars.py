"""The level `objects` against stores that lie, and against who can only put: everything is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import ObjectAbsent
from replicator.repository.layout import note_name, pack_name
from replicator.repository.notes import sign_note
from replicator.store import Store
from replicator.store.protocol import ObjectInfo
from tests.verify.holding import PACK_ONE, PUT, SYSTEM, Holding, affected, make_holding, wrong


@dataclass
class Lies:
    """What a store says instead of the truth; by default the truth."""

    store: str = "offsite"
    body: Callable[[str, bytes], bytes] = lambda _name, data: data
    listing: Callable[[ObjectInfo], ObjectInfo | None] = lambda info: info
    absent: str = ""


class Liar:
    """A store around another one."""

    def __init__(self, inner: Store, lies: Lies) -> None:
        self._inner = inner
        self._lies = lies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _told(self, name: str, data: bytes) -> bytes:
        if self._inner.name != self._lies.store:
            return data
        if self._lies.absent and name.endswith(self._lies.absent):
            raise ObjectAbsent(f"{name} is not there")
        return self._lies.body(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As Store."""
        return self._told(name, self._inner.get(name, offset, length))

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As Store."""
        data, size = self._inner.get_tail(name, length)
        return self._told(name, data), size

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As Store."""
        truth = self._inner.list(prefix, after=after)
        if self._inner.name != self._lies.store:
            yield from truth
            return
        yield from (found for found in map(self._lies.listing, truth) if found is not None)


@pytest.fixture(scope="module")
def told() -> Lies:
    """The lies of the store `offsite`, changed by each test."""
    return Lies()


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory, told: Lies) -> Holding:
    """A repository whose stores can lie."""
    base = tmp_path_factory.mktemp("liars") / "repository"
    return make_holding(base, wrap=lambda store: Liar(store, told))


@pytest.fixture
def lies(told: Lies) -> Iterator[Lies]:
    """The truth, before and after."""
    fresh = Lies()
    for name, value in vars(fresh).items():
        setattr(told, name, value)
    yield told
    for name, value in vars(fresh).items():
        setattr(told, name, value)


def about(liars: Holding, kind: str) -> Callable[[str], bool]:
    """Whether a driver's name is that of this object."""
    return lambda name: name.endswith(liars.names[kind])


@pytest.mark.parametrize("kind", ["wal3", "pack1", "snap2", "tail", "history"])
def test_a_wrong_range_is_found(liars: Holding, lies: Lies, tmp_path: Path, kind: str) -> None:
    """The right number of bytes, of another place."""
    mine = about(liars, kind)
    lies.body = lambda name, data: data[1:] + data[:1] if mine(name) else data
    assert wrong(liars.level(tmp_path, "objects")) == [("object_damaged", "offsite", liars.names[kind])]


@pytest.mark.parametrize("kind", ["wal3", "pack1", "snap2", "tail", "note"])
def test_a_wrong_length_is_found(liars: Holding, lies: Lies, tmp_path: Path, kind: str) -> None:
    """Fewer bytes than there are, with success."""
    mine = about(liars, kind)
    lies.body = lambda name, data: data[:-3] if mine(name) else data
    assert wrong(liars.level(tmp_path, "objects")) == [("object_damaged", "offsite", liars.names[kind])]


def test_a_stale_list_is_found(liars: Holding, lies: Lies, tmp_path: Path) -> None:
    """What it leaves out another store has."""
    missing = [liars.names[kind] for kind in ("new8", "snap2", "pack2", "note")]
    lies.listing = lambda info: None if info.name.endswith(tuple(missing)) else info
    found = wrong(liars.level(tmp_path, "objects"))
    assert [(code, store) for code, store, _ in found] == [("object_missing", "offsite")] * len(missing)
    assert {name for _, _, name in found} == set(missing)


def test_a_list_with_wrong_sizes_is_found(liars: Holding, lies: Lies, tmp_path: Path) -> None:
    """A size that is not the object's."""
    mine = about(liars, "pack1")
    lies.listing = lambda info: info._replace(size=info.size + 1) if mine(info.name) else info
    assert wrong(liars.level(tmp_path, "objects")) == [("object_damaged", "offsite", liars.names["pack1"])]


def test_what_is_listed_and_not_delivered_is_missing(liars: Holding, lies: Lies, tmp_path: Path) -> None:
    """Unless it may go by itself, as pieces do."""
    lies.absent = liars.names["wal4"]
    assert wrong(liars.level(tmp_path, "objects")) == [("object_missing", "offsite", liars.names["wal4"])]
    lies.absent = liars.names["piece"]
    assert liars.level(tmp_path, "objects").ok


def test_who_can_only_put_forges_nothing(liars: Holding, lies: Lies, tmp_path: Path) -> None:
    """Objects of another writer, another repository, or under names of ours: each is named and depends on nothing."""
    stranger = make_holding(tmp_path / "stranger")
    names = stranger.names
    forged = {
        names["wal5"].rpartition("-")[0] + "-00000000000000aa": stranger.path("local", names["wal5"]).read_bytes(),
        names["tail"].rpartition("-")[0] + "-00000000000000aa": stranger.path("local", names["tail"]).read_bytes(),
        pack_name(SYSTEM, PACK_ONE._replace(number=9)): stranger.path("local", names["pack1"]).read_bytes(),
        "writers/00000000000000aa": b"{}\nsigned root x\n",
    }
    note, data = sign_note(stranger.repository.keyring, SYSTEM, "gap", "x", {}, PUT + timedelta(days=1))
    forged[note] = data
    store = liars.repository.store("offsite")
    for name, content in forged.items():
        store.put(name, content)
    try:
        result = liars.level(tmp_path, "objects")
        assert {(code, name) for code, _, name in wrong(result)} == {("object_damaged", name) for name in forged}
        assert affected(result)[pack_name(SYSTEM, PACK_ONE._replace(number=9))] == "no snapshot: none names it"
    finally:
        for name in forged:
            store.delete(name)


def test_an_older_object_under_a_newer_name_is_found(liars: Holding, lies: Lies, tmp_path: Path) -> None:
    """Replayed: the first piece's bytes under the second one's name, and a note's under another time."""
    piece, tail = liars.path("local", liars.names["piece"]), liars.path("local", liars.names["tail"])
    before = tail.read_bytes()
    try:
        tail.write_bytes(piece.read_bytes())
        assert wrong(liars.level(tmp_path, "objects")) == [("object_damaged", "local", liars.names["tail"])]
    finally:
        tail.write_bytes(before)
    parts = liars.names["note"].split("/")[2].split("-")
    later = note_name(SYSTEM, "20261121T000000000000Z", parts[1], parts[2], parts[3])
    liars.repository.store("local").put(later, liars.path("local", liars.names["note"]).read_bytes())
    found = wrong(liars.level(tmp_path, "objects"))
    liars.repository.store("local").delete(later)
    assert found == [("object_damaged", "local", later)]
