"""What a store must have before it gets a manifest; a manifest that is there already."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.errors import AlreadyExists, Interrupted, ObjectAbsent, StoreUnavailable
from replicator.repository.layout import ROOT, PackId, manifest_name, pack_name
from replicator.snapshot.manifest import SLICE, extend_locks, put_once
from replicator.snapshot.participants import Participants
from replicator.store import Prefixed, Store
from tests.clock import FakeClock
from tests.repositories import make_repository
from tests.upkeep.depot import Depot

LABEL, OLD = "20261122T120000Z", "20261121T120000Z"
SNAPSHOT = Snapshot(LABEL, 7, 1, Lsn(1), Lsn(2))
#: Two slices and a half, and one of this attempt's own.
OLDER = [PackId(OLD, 1, number) for number in range(SLICE * 5 // 2)]
PACKS = [*OLDER, PackId(LABEL, 2, 0)]


class Slow(Prefixed):
    """A store with locks, each of which takes 0.2 s of `clock` to extend; it sets `stop` at the first of a pack."""

    def __init__(self, inner: Store, clock: FakeClock, stop: Event) -> None:
        super().__init__(inner, "")
        self._clock, self._stop = clock, stop
        self.gone = ""
        self.extended: list[str] = []

    @property
    def locks(self) -> bool:
        """It does."""
        return True

    def extend_lock(self, name: str) -> None:
        """Note it."""
        if name == self.gone:
            raise ObjectAbsent(f"{name} is absent")
        self._clock.pass_(0.2)
        self.extended.append(name)
        if "/packs/" in name:
            self._stop.set()


class Extending:
    """A store with locks that has the packs, and what is asked of it."""

    def __init__(self, home: Path, *, stops: bool = False) -> None:
        repository = make_repository(home, names=("local",))
        self.clock, self._keyring = FakeClock(), repository.keyring
        stop = Event()
        self.store = Slow(repository.store("local"), self.clock, stop if stops else Event())
        folder = home / "stores/local/frk"
        for pack in PACKS:
            path = folder / pack_name(7, pack)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"pack")
        self._participants = Participants({"local": self.store}, self.clock, 180.0, stop)

    def extend(self) -> None:
        """As a take does before it puts the manifest."""
        extend_locks(self._participants, self._keyring, SNAPSHOT, 2, PACKS)


def test_locks_of_many_packs_have_more_than_one_deadline(tmp_path: Path) -> None:
    """Far more seconds pass than a store may take for one thing: every earlier pack, and every document, is extended;
    what this attempt put itself is not.
    """
    ground = Extending(tmp_path)
    ground.extend()
    assert ground.clock.monotonic() > 180
    extended = ground.store.extended
    assert len(extended) == len(set(extended))
    assert {name for name in extended if "/packs/" in name} == {pack_name(7, pack) for pack in OLDER}
    assert ROOT in extended


def test_a_stop_is_heard_between_slices(tmp_path: Path) -> None:
    """Asked to stop at the first pack: Interrupted, and the other slices are not begun."""
    ground = Extending(tmp_path, stops=True)
    with pytest.raises(Interrupted):
        ground.extend()
    assert not {pack_name(7, pack) for pack in OLDER[SLICE:]} & set(ground.store.extended)


def test_a_store_whose_packs_are_gone_does_not_get_the_manifest(tmp_path: Path) -> None:
    """One that does not list a pack is left out before a lock is extended; so is one whose pack goes meanwhile."""
    ground = Extending(tmp_path)
    ground.store.gone = pack_name(7, OLDER[-1])
    with pytest.raises(ObjectAbsent):
        ground.extend()
    other = Extending(tmp_path / "other")
    (tmp_path / "other/stores/local/frk" / pack_name(7, OLDER[0])).unlink()
    with pytest.raises(StoreUnavailable, match=f"lacks 1 of {len(PACKS)} packs") as failure:
        other.extend()
    assert "--full" in failure.value.hint
    assert other.store.extended == []


def test_a_mirror_may_be_quicker(tmp_path: Path) -> None:
    """The same attempt's manifest is well, wherever it came from; another attempt's is refused."""
    depot = Depot(tmp_path)
    pack = depot.pack("20260101T000000Z", 0, "local", "offsite")
    for number in (2, 3):
        depot.wal(number, "local", "offsite")
    name = manifest_name(depot.snapshot("20260101T000000Z", 2, 3, [pack], "local"))
    path = tmp_path / "manifest"
    path.write_bytes(depot.made[name])
    depot.mirror()
    store, keyring = depot.repository.store("offsite"), depot.repository.keyring
    put_once(store, name, path, keyring, 1)
    with pytest.raises(AlreadyExists):
        put_once(store, name, path, keyring, 2)
