"""Watching our slot: how much WAL the source still keeps for it, long before it gives it up (trap 7).

Owns two facts in status. It changes nothing: a lost slot ends the stream, and the receiver deals with that.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from replicator.errors import Interrupted, ReplicatorError
from replicator.postgres.query import SqlConnection
from replicator.stream.board import Board
from replicator.stream.statistics import Problem

_EVERY = 10.0


class SlotWatcher:
    """One per stream. `sql` opens a SQL session on the primary."""

    def __init__(self, board: Board, sql: Callable[[], SqlConnection]) -> None:
        self._board = board
        self._sql = sql

    def run(self, stop: Event) -> None:
        """Look every ten seconds until `stop` is set."""
        while not stop.is_set():
            try:
                self._look()
            except Interrupted:
                if not stop.is_set():
                    raise
            except ReplicatorError:
                # The receiver says what is wrong with the source; here it only means: nothing is known now.
                self._board.source.wal_status = self._board.source.safe_wal_bytes = None
            self._board.nap(stop, _EVERY)

    def _look(self) -> None:
        name = self._board.settings.slot
        with self._sql() as sql:
            health = sql.slot_state(name)
        source = self._board.source
        source.wal_status = health.wal_status if health else None
        source.safe_wal_bytes = health.safe_wal_size if health else None
        problem: Problem | None = None
        if source.wal_status == "unreserved":
            problem = Problem(
                5,
                f"the source may soon remove WAL that slot {name} still needs",
                "Raise max_slot_wal_keep_size on the source, or look why the stream is behind.",
            )
        elif source.wal_status == "lost":
            problem = Problem(4, f"slot {name} is lost: the source removed WAL that was not received")
        self._board.problem("slot", problem)
