"""Waiting for WAL: segments and pieces count, a hole does not, and standing still has a deadline."""

from __future__ import annotations

import time
from threading import Event, Thread

import pytest

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.progress import silent
from replicator.errors import Interrupted, StreamNotRunning
from replicator.repository.layout import piece_name, wal_name
from replicator.snapshot.participants import Participants
from replicator.snapshot.wal import StoreWal, WalNeed, wait_for_wal
from replicator.store.protocol import Store
from replicator.tolerance import SystemClock

MIB = 2**20
FINGERPRINT = "0123456789abcdef"


def need(start: int, end: int) -> WalNeed:
    """WAL of timeline 1 in segments of 1 MiB."""
    return WalNeed(77, MIB, LsnRange(1, Lsn(start), Lsn(end)))


def put_segment(store: Store, number: int, timeline: int = 1) -> None:
    """A complete segment, as far as its name tells."""
    store.put(wal_name(77, Segment(timeline, number, MIB), FINGERPRINT), b"x")


def put_piece(store: Store, start: int, end: int) -> None:
    """A piece, as far as its name tells."""
    segment = Segment.holding(1, start, MIB)
    store.put(piece_name(77, segment, Lsn(start), Lsn(end), FINGERPRINT), b"x")


def test_segments_and_pieces_count(stores: dict[str, Store]) -> None:
    """Complete segments, then overlapping pieces, up to the byte before the end."""
    store = stores["local"]
    seen = StoreWal(need(2 * MIB + 100, 5 * MIB + 500))
    assert not seen.look(store)
    put_segment(store, 2)
    put_segment(store, 4)
    assert seen.look(store)
    assert seen.reach == 3 * MIB
    put_segment(store, 3)
    assert seen.look(store)
    assert seen.reach == 5 * MIB
    put_piece(store, 5 * MIB, 5 * MIB + 300)
    put_piece(store, 5 * MIB + 200, 5 * MIB + 499)
    assert seen.look(store)
    assert not seen.complete
    put_piece(store, 5 * MIB + 499, 5 * MIB + 600)
    assert seen.look(store)
    assert seen.complete


def test_other_wal_does_not_count(stores: dict[str, Store]) -> None:
    """Another timeline's segment, a later one and a piece that begins too late are no coverage."""
    store = stores["local"]
    seen = StoreWal(need(2 * MIB, 2 * MIB + 100))
    put_segment(store, 2, timeline=2)
    put_segment(store, 3)
    put_segment(store, 1)
    put_piece(store, 2 * MIB + 50, 2 * MIB + 200)
    assert not seen.look(store)
    assert not seen.complete


def test_an_end_on_a_boundary_needs_nothing_after_it(stores: dict[str, Store]) -> None:
    """[start, end) ending where a segment ends is held by that segment."""
    seen = StoreWal(need(2 * MIB, 3 * MIB))
    put_segment(stores["local"], 2)
    seen.look(stores["local"])
    assert seen.complete


def wait(stores: dict[str, Store], *, deadline_s: float = 0.3, stop: Event | None = None) -> Participants:
    """Wait for one segment in every store."""
    stop = stop or Event()
    found = Participants(stores, SystemClock(), 5, stop)
    wait_for_wal(
        found, need(2 * MIB, 3 * MIB), clock=SystemClock(), stop=stop, deadline_s=deadline_s, report=silent
    )  # fmt: skip
    return found


def test_a_store_that_stands_still_is_left_out(stores: dict[str, Store]) -> None:
    """The other one goes on."""
    put_segment(stores["local"], 2)
    found = wait(stores)
    assert set(found.active) == {"local"}
    assert isinstance(found.left_out["offsite"], StreamNotRunning)


def test_a_store_that_works_off_a_backlog_is_waited_for(stores: dict[str, Store]) -> None:
    """Earlier WAL that comes is an advance, however long it takes; WAL beyond the need is none."""
    store = stores["local"]

    def catch_up() -> None:
        for number in range(2**16 - 8, 2**16 + 1):
            time.sleep(0.4)  # together longer than the deadline, each far from it
            put_segment(store, number)

    late = WalNeed(77, MIB, LsnRange(1, Lsn(2**16 * MIB), Lsn(2**16 * MIB + 100)))
    found = Participants({"local": store}, SystemClock(), 5, Event())
    worker = Thread(target=catch_up)
    worker.start()
    try:
        wait_for_wal(found, late, clock=SystemClock(), stop=Event(), deadline_s=3, report=silent)
    finally:
        worker.join()
    put_segment(store, 2**16 + 2)
    beyond = StoreWal(WalNeed(77, MIB, LsnRange(1, Lsn((2**16 + 1) * MIB), Lsn((2**16 + 1) * MIB + 1))))
    assert beyond.nearer(store)
    put_segment(store, 2**16 + 3)
    assert not beyond.nearer(store)


def test_when_all_stand_still_no_stream_runs(stores: dict[str, Store]) -> None:
    """StreamNotRunning (5), with the way to look."""
    with pytest.raises(StreamNotRunning) as failure:
        wait(stores)
    assert "replicator status" in failure.value.hint


def test_a_stop_ends_the_wait(stores: dict[str, Store]) -> None:
    """Interrupted, long before the deadline."""
    stop = Event()
    stop.set()
    with pytest.raises(Interrupted):
        wait(stores, deadline_s=60, stop=stop)
