"""Packs in stores: every placed byte is found at its place, in each store the same, and failures leave a store out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from replicator.errors import Interrupted, StoreUnavailable
from replicator.repository.blockmap import BlockRun
from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import open_object
from replicator.repository.repository import Repository
from replicator.seal.header import FRAME_SIZE, Compression
from replicator.snapshot.channels import Channels
from replicator.snapshot.packer import Packer, PackPlace
from replicator.snapshot.participants import Participants
from replicator.store.protocol import Store
from replicator.tolerance import SystemClock
from tests.snapshot.faults import FaultyStore

LABEL = "20261122T000000Z"


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Two sealing threads."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def place_of(repository: Repository) -> PackPlace:
    """Packs of one attempt."""
    return PackPlace(repository.keyring, 77, LABEL, 5, Compression.ZSTD, 1)


def read_runs(repository: Repository, store: Store, runs: list[BlockRun], unit: int) -> bytes:
    """The bytes of whole blocks."""
    found = b""
    for run in runs:
        assert run.pack is not None
        frame = open_object(store, pack_name(77, run.pack), repository.keyring).frame(run.frame)
        found += frame[run.offset : run.offset + run.blocks * unit]
    return found


def test_placed_bytes_are_found(repository: Repository, executor: ThreadPoolExecutor) -> None:
    """Across frames and packs, in both stores, blocks are never cut."""
    random.seed(5)
    participants = Participants(repository.stores, SystemClock(), 10, Event())
    placed: list[tuple[bytes, list[BlockRun]]] = []
    with Channels(participants, SystemClock(), 10, Event()) as channels:
        packer = Packer(place_of(repository), channels, executor, ahead=2, pack_size=3 * 2**20)
        for size in (8192 * 300, 8192 * 3, 8192, 8192 * 400, 8192 * 256):
            data = random.randbytes(size)
            placed.append((data, packer.append(memoryview(data), 8192)))
        chunk = random.randbytes(50_000)
        reference = packer.append_map(chunk)
        packer.finish()
        channels.finish()
    packs = {run.pack for _, runs in placed for run in runs}
    assert len(packs) > 1
    for store in repository.stores.values():
        for data, runs in placed:
            assert read_runs(repository, store, runs, 8192) == data
        frame = open_object(store, pack_name(77, reference.pack), repository.keyring).frame(reference.frame)
        assert frame[reference.offset : reference.offset + reference.length] == chunk
        sizes = [info.size for info in store.list("77/packs/")]
        assert sum(sizes) == packer.added_bytes
    for name in (pack_name(77, pack) for pack in packs if pack is not None):
        tables = [open_object(store, name, repository.keyring).table for store in repository.stores.values()]
        assert tables[0] == tables[1]
        assert all(entry.plain_size <= FRAME_SIZE for entry in tables[0].frames)


def test_large_parts_are_frames_of_their_own(repository: Repository, executor: ThreadPoolExecutor) -> None:
    """A part that fills a frame is one, whatever came before; each pack that is closed is told, with its bytes."""
    random.seed(6)
    told: list[tuple[PackId, int, int]] = []
    participants = Participants(repository.stores, SystemClock(), 10, Event())
    parts = [random.randbytes(size) for size in (8192, FRAME_SIZE, FRAME_SIZE + 3 * 8192, 8192, 2 * FRAME_SIZE)]
    with Channels(participants, SystemClock(), 10, Event()) as channels:
        packer = Packer(
            place_of(repository),
            channels,
            executor,
            ahead=2,
            pack_size=4 * 2**20,
            packed=lambda *pack: told.append(pack),
        )
        runs = [packer.append(memoryview(part), 8192) for part in parts]
        packer.finish()
        channels.finish()
    assert [[run.offset for run in found] for found in runs] == [[0], [0], [0, 0], [3 * 8192], [0, 0]]
    for part, found in zip(parts, runs, strict=True):
        assert read_runs(repository, repository.stores["local"], found, 8192) == part
    assert [pack for pack, _, _ in told] == sorted({run.pack for found in runs for run in found if run.pack})
    assert sum(plain for _, plain, _ in told) == sum(len(part) for part in parts)
    sizes = {info.name: info.size for info in repository.stores["local"].list("77/packs/")}
    assert {pack_name(77, pack): sealed for pack, _, sealed in told} == sizes


def test_nothing_placed_is_no_pack(repository: Repository, executor: ThreadPoolExecutor) -> None:
    """A packer that placed nothing puts nothing."""
    participants = Participants(repository.stores, SystemClock(), 10, Event())
    with Channels(participants, SystemClock(), 10, Event()) as channels:
        packer = Packer(place_of(repository), channels, executor, ahead=2)
        packer.finish()
        channels.finish()
    assert [info.name for info in repository.stores["local"].list("77/")] == []
    assert packer.added_bytes == 0


def send(participants: Participants, stop: Event, *, deadline_s: float = 5.0, frames: int = 20) -> None:
    """One object of some frames."""
    with Channels(participants, SystemClock(), deadline_s, stop) as channels:
        channels.open("77/x")
        for number in range(frames):
            channels.write(bytes([number]) * 1000)
        channels.commit()
        channels.finish()


def test_a_store_that_fails_is_left_out(stores: dict[str, Store]) -> None:
    """The other store gets everything; the failed one shows nothing; why is remembered."""
    broken = FaultyStore(stores["offsite"], fail_write_at=3)
    participants = Participants({"local": stores["local"], "offsite": broken}, SystemClock(), 5, Event())
    send(participants, Event())
    assert set(participants.active) == {"local"}
    assert isinstance(participants.left_out["offsite"], StoreUnavailable)
    assert stores["local"].stat("77/x").size == 20_000
    assert list(stores["offsite"].list("77/")) == []


def test_a_commit_that_fails_is_seen(stores: dict[str, Store]) -> None:
    """An object that did not become durable leaves its store out, though every write went well."""
    broken = FaultyStore(stores["offsite"], fail_commit=True)
    participants = Participants({"local": stores["local"], "offsite": broken}, SystemClock(), 5, Event())
    send(participants, Event())
    assert set(participants.left_out) == {"offsite"}


def test_a_store_that_hangs_holds_up_no_other(stores: dict[str, Store]) -> None:
    """A store that takes nothing for its deadline is left out, and it is let go of."""
    release = Event()
    broken = FaultyStore(stores["offsite"], hang_write_at=1, release=release)
    participants = Participants({"local": stores["local"], "offsite": broken}, SystemClock(), 5, Event())
    send(participants, Event(), deadline_s=0.3)
    release.set()
    assert set(participants.left_out) == {"offsite"}
    assert stores["local"].stat("77/x").size == 20_000


def test_the_last_store_raises(stores: dict[str, Store]) -> None:
    """When every store fails the error is theirs (6)."""
    broken = {name: FaultyStore(store, fail_write_at=0) for name, store in stores.items()}
    participants = Participants(broken, SystemClock(), 5, Event())
    with pytest.raises(StoreUnavailable):
        send(participants, Event())


def test_a_stop_aborts_what_is_open(stores: dict[str, Store], tmp_path: Path) -> None:
    """Interrupted, and no store shows the object."""
    stop = Event()
    participants = Participants(stores, SystemClock(), 5, stop)
    with Channels(participants, SystemClock(), 5, stop) as channels:
        channels.open("77/x")
        channels.write(bytes(3_000_000))
        stop.set()
        with pytest.raises(Interrupted):
            channels.write(b"more")
    assert all(list(store.list("77/")) == [] for store in stores.values())
    assert not [path for path in tmp_path.rglob("*.tmp*") if path.is_file()]


def test_a_bug_in_a_store_is_no_store_failure(stores: dict[str, Store]) -> None:
    """What is not one of our errors is raised as it is."""
    broken = FaultyStore(stores["offsite"], fail_write_at=2, error=ZeroDivisionError("bug"))
    participants = Participants({"local": stores["local"], "offsite": broken}, SystemClock(), 5, Event())
    with pytest.raises(ZeroDivisionError):
        send(participants, Event())
