"""A take goes on where others died: what is durable is referred to, never under another key, and prune lets it be."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from replicator.core.progress import silent
from replicator.errors import SourceUnavailable
from replicator.repository.layout import PackName, packs_prefix, parse_name
from replicator.repository.manifests import read_summary
from replicator.repository.repository import Repository, Secrets, open_repository
from replicator.seal.document import open_document
from replicator.seal.header import Compression
from replicator.snapshot.job import TakeResult
from replicator.snapshot.take import take
from replicator.store.protocol import Store
from replicator.tolerance import SystemClock
from replicator.upkeep.keys import KeysJob, rotate
from replicator.upkeep.mirror import MirrorJob, mirror
from replicator.upkeep.prune_facts import read_facts
from replicator.upkeep.secrets import load_writer_key
from tests.clusters import TestCluster
from tests.snapshot.faults import FaultyStore
from tests.snapshot.support import IDENTITY, Shipping, shipping, take_job, verify_tree

pytestmark = pytest.mark.server

PACK = 2 * 2**20


@pytest.fixture(scope="module")
def filled(primary: TestCluster) -> TestCluster:
    """The primary with a table of some 10 MB."""
    primary.sql(
        "CREATE TABLE bukti AS SELECT g AS id, repeat(md5(g::text), 20) AS isi FROM generate_series(1, 15000) g"
    )
    primary.sql("CHECKPOINT")
    return primary


@pytest.fixture
def streaming(filled: TestCluster, repository: Repository) -> Iterator[Shipping]:
    """A stream into both stores."""
    with shipping(filled, repository) as found:
        yield found


class Dies:
    """A step callable that fails when a pack was closed for the `at`th time. `killed`: what is in the state directory
    stays as it was then, as a killed process leaves it.
    """

    def __init__(self, state: Path, at: int, *, killed: bool) -> None:
        self._state, self._at, self._killed = state / "snapshot", at, killed
        self._aside = state / "aside"

    def __call__(self, step: str) -> None:
        """Reached a step."""
        self._at -= step == "packed"
        if step == "packed" and self._at == 0:
            shutil.rmtree(self._aside, ignore_errors=True)
            shutil.copytree(self._state, self._aside)
            raise SourceUnavailable("for the test")

    def leave(self) -> None:
        """The process is dead."""
        if self._killed:
            shutil.rmtree(self._state)
            shutil.copytree(self._aside, self._state)


def taken(
    cluster: TestCluster, repository: Repository, state: Path, *, full: bool = False,
    steps: Callable[[str], None] = lambda _: None,
) -> TakeResult:  # fmt: skip
    """A take with small packs, not compressed."""
    job = take_job(cluster, repository, state, full=full, steps=steps)
    return take(replace(job, pack_size=PACK, compression=Compression.NONE), silent, Event())


def die(
    cluster: TestCluster, repository: Repository, state: Path, at: int, *, killed: bool = True, full: bool = False
) -> None:
    """A take that dies at its `at`th pack."""
    dies = Dies(state, at, killed=killed)
    with pytest.raises(SourceUnavailable):
        taken(cluster, repository, state, full=full, steps=dies)
    dies.leave()


def pack_bytes(store: Store, cluster: TestCluster, label: str = "") -> int:
    """The sealed bytes of all packs, or of one label."""
    listed = store.list(packs_prefix(cluster.system_id, label) if label else packs_prefix(cluster.system_id))
    return sum(info.size for info in listed if isinstance(parse_name(info.name), PackName))


def left(state: Path) -> list[str]:
    """The names in the directory of takes."""
    return sorted(path.name for path in (state / "snapshot").iterdir())


def test_a_full_goes_on(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """Three takes die, killed or of an error, each further on than the one before; hours later the fourth stores only
    what is missing, and its tree is what the server sent; a mirror copies all that it needs. Nothing is left behind.
    """
    state = tmp_path / "state"
    for at, killed in ((2, True), (3, False), (3, True)):
        before = pack_bytes(stores["local"], filled)
        die(filled, repository, state, at, killed=killed)
        assert pack_bytes(stores["local"], filled) > before
    durable = pack_bytes(stores["local"], filled)
    earlier = datetime.now(UTC) - timedelta(hours=2)
    for path in (state / "snapshot").iterdir():
        os.utime(path, (earlier.timestamp(), earlier.timestamp()))
    result = taken(filled, repository, state)
    assert result.exit_code == 0
    assert left(state) == ["parent.sqlite"]
    verify_tree(repository, stores["local"], result, tmp_path / "tree")
    for kind in ("packs", "snapshots"):
        for info in list(stores["offsite"].list(f"{filled.system_id}/{kind}/")):
            stores["offsite"].delete(info.name)
    mirrored = mirror(MirrorJob(repository, SystemClock(), tmp_path, ("local",), ("offsite",)), silent, Event())
    assert mirrored.stores["offsite"]["snapshots"] == 1
    verify_tree(repository, stores["offsite"], result, tmp_path / "mirrored")
    whole = taken(filled, repository, tmp_path / "other", full=True)
    assert durable > 4 * PACK
    assert result.row.added_bytes + durable < whole.row.added_bytes + 3 * PACK
    summary = read_summary(stores["local"], result.row.snapshot, repository.keyring)
    assert len({pack.label for pack in summary.packs}) == 4


def test_an_incremental_goes_on(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """Against its parent a take goes on as well; afterwards nothing more is to be stored. Who asks for a full one
    gets one: nothing that an incremental left is in it.
    """
    state, other = tmp_path / "state", tmp_path / "other"
    first = taken(filled, repository, state)
    filled.sql("UPDATE bukti SET id = id + 1 WHERE id < 12000")
    filled.sql("CHECKPOINT")
    before = pack_bytes(stores["local"], filled)
    die(filled, repository, state, 4)
    durable = pack_bytes(stores["local"], filled) - before
    shutil.copytree(state, other)
    result = taken(filled, repository, state)
    assert result.row.parent == first.row.snapshot.label
    assert durable > 2 * PACK
    assert taken(filled, repository, state).row.added_bytes < PACK
    verify_tree(repository, stores["offsite"], result, tmp_path / "tree")
    full = taken(filled, repository, other, full=True)
    assert result.row.added_bytes + durable < full.row.added_bytes
    summary = read_summary(stores["local"], full.row.snapshot, repository.keyring)
    assert {pack.label for pack in summary.packs} == {full.row.snapshot.label}


def test_never_under_an_old_key(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """After a rotation nothing that was sealed to the old key is referred to."""
    state = tmp_path / "state"
    die(filled, repository, state, 3)
    secrets = Secrets(identities=(IDENTITY,), writer=load_writer_key(tmp_path / "writer.key"))
    rotate(KeysJob(repository, secrets, datetime.now(UTC)))
    rotated = open_repository("frk", stores, secrets)
    assert rotated.keyring.current != repository.keyring.current
    result = taken(filled, rotated, state)
    summary = read_summary(stores["local"], result.row.snapshot, rotated.keyring)
    assert {pack.label for pack in summary.packs} == {result.row.snapshot.label}
    assert result.row.added_bytes > 20 * 2**20


def test_what_is_old_is_not_gone_on_from(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """Once a store's clock says that nothing was put there for twelve hours, all is stored again and forgotten."""
    state = tmp_path / "state"
    die(filled, repository, state, 3)
    old = datetime.now(UTC) - timedelta(hours=12, minutes=1)
    for path in (tmp_path / "offsite/frk").rglob("packs/*/*"):
        os.utime(path, (old.timestamp(), old.timestamp()))
    result = taken(filled, repository, state)
    assert result.row.added_bytes > 20 * 2**20
    assert left(state) == ["parent.sqlite"]


def test_what_one_store_lacks_is_stored_again(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """A pack that is missing or damaged in any store is not referred to; the others are."""
    state = tmp_path / "state"
    die(filled, repository, state, 5)
    packs = sorted(info.name for info in stores["offsite"].list("") if isinstance(parse_name(info.name), PackName))
    stores["offsite"].delete(packs[0])
    damaged = tmp_path / "local/frk" / packs[1]
    content = damaged.read_bytes()
    damaged.chmod(0o600)
    damaged.write_bytes(content[:-200] + bytes(100) + content[-100:])
    result = taken(filled, repository, state)
    verify_tree(repository, stores["offsite"], result, tmp_path / "tree")
    named = {pack.number for pack in read_summary(stores["local"], result.row.snapshot, repository.keyring).packs
             if pack.label != result.row.snapshot.label}  # fmt: skip
    assert named
    assert named.isdisjoint({0, 1})


class SlowTables(FaultyStore):
    """A store from which the first table of a pack comes eleven seconds later; counts them."""

    def __init__(self, inner: Store, clock: ShiftedClock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._lock, self.tables = threading.Lock(), 0

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As the inner store, late."""
        if isinstance(parse_name(name), PackName):
            with self._lock:
                self.tables += 1
                self._clock.shift = 11.0
        return super().get_tail(name, length)


class ShiftedClock(SystemClock):
    """A clock of which a test lets time pass."""

    shift = 0.0

    def monotonic(self) -> float:
        """Later than it is."""
        return super().monotonic() + self.shift


def test_many_packs_and_a_slow_store(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """A take doesn't look at what was left until its stores are given up: what it has not seen by half of their time is
    stored again. Else no take could ever go on from a large one that died.
    """
    state, clock = tmp_path / "state", ShiftedClock()
    dies = Dies(state, 11, killed=True)
    job = take_job(filled, repository, state, steps=dies)
    with pytest.raises(SourceUnavailable):
        take(replace(job, pack_size=1, compression=Compression.NONE), silent, Event())
    dies.leave()
    (label,) = {info.name.split("/")[2] for info in stores["local"].list(packs_prefix(filled.system_id))}
    slow = SlowTables(stores["local"], clock)
    job = take_job(filled, Repository("frk", repository.keyring, {"local": slow}), state)
    result = take(replace(job, clock=clock, pack_size=PACK, compression=Compression.NONE), silent, Event())
    assert result.exit_code == 0
    packs = read_summary(stores["local"], result.row.snapshot, repository.keyring).packs
    assert 0 < sum(pack.label == label for pack in packs) <= slow.tables <= 8  # as many at once


def test_prune_keeps_what_is_gone_on_from(
    filled: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """The mark of a take that goes on names the labels that it needs: they are alive as long as it is, however old."""
    state = tmp_path / "state"
    die(filled, repository, state, 2)
    (first,) = read_facts(stores["local"], repository.keyring, filled.system_id, datetime.now(UTC), ()).labels
    die(filled, repository, state, 2)
    marks = [info.name for info in stores["local"].list(packs_prefix(filled.system_id)) if "/begin-" in info.name]
    bodies = [open_document(repository.keyring, "begin", name, stores["local"].get(name)) for name in sorted(marks)]
    assert [body.get("continues") for body in bodies] == [None, [first]]
    old = datetime.now(UTC) - timedelta(days=3)
    for path in (tmp_path / "local/frk").rglob(f"packs/{first}/*"):
        os.utime(path, (old.timestamp(), old.timestamp()))
    facts = read_facts(stores["local"], repository.keyring, filled.system_id, datetime.now(UTC), ())
    assert first in facts.living
