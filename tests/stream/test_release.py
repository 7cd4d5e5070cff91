"""Letting go of what the stores have: how often all files are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replicator.core.lsn import Lsn, Segment
from replicator.stream.board import Board
from replicator.stream.release import release
from replicator.stream.settings import StreamSettings, no_step
from tests.clock import FakeClock
from tests.repositories import make_repository

S = 2**20


class Slow:
    """A store that has nothing. Each question takes a second."""

    def __init__(self, clock: FakeClock) -> None:
        self.asked = 0
        self._clock = clock

    def holds_raw(self, *_: Any) -> bool:
        """No."""
        self.asked += 1
        self._clock.pass_(1)
        return False


def test_a_long_look_is_not_repeated_after_every_put(tmp_path: Path) -> None:
    """With a long backlog a look takes long: it takes a tenth of the time at most, unless room is needed."""
    clock = FakeClock()
    board = Board(make_repository(tmp_path), tmp_path / "spool", StreamSettings(slot="s"), clock, no_step)
    spool, store = board.open_spool(7, S), Slow(clock)
    for number in (3, 4):
        segment = Segment(1, number, S)
        spool.append(segment, segment.start, [memoryview(bytes(S))], acknowledged=Lsn(0))
    holder: Any = next(iter(board.stores.values()))
    holder.holdings = store
    for _ in range(5):
        release(board)
    assert store.asked == 1
    release(board, pressing=True)
    assert store.asked == 2
    clock.pass_(8.9)
    release(board)
    assert store.asked == 2
    clock.pass_(0.2)
    release(board)
    assert store.asked == 3
