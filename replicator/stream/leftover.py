"""What the spool holds of clusters that were followed before: shipped beside the present stream, then let go of.

Owns those parts of the spool's directory. Nothing waits for it, and nothing is received here: after pg_upgrade the new
cluster streams at once, while a store that was away still gets the old one's last WAL.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

from replicator.spool import remove_spool
from replicator.stream.board import Board
from replicator.stream.sealer import Sealer
from replicator.stream.shipper import Shipper
from replicator.stream.statistics import Problem

_LOOK = 1.0
_POLL = 0.2


class LeftOvers:
    """One per stream, beside its `board`. `system_id`: the cluster that is followed, where it is known before the
    spool is open.
    """

    def __init__(self, board: Board, system_id: int | None) -> None:
        self._board = board
        self._system_id = system_id
        self._shipping: Board | None = None

    def run(self, stop: Event) -> None:
        """Ship what is left of former clusters, one after the other, until `stop` is set."""
        while not stop.is_set():
            for system_id in self._former():
                self._ship(system_id, stop)
            self._board.nap(stop, _LOOK)

    @property
    def bytes(self) -> int:
        """What it takes of the spool's disk."""
        spool = self._shipping.spool if self._shipping is not None else None
        return spool.usage if spool is not None else 0

    @property
    def only_here(self) -> int:
        """Bytes of WAL that no store has yet."""
        board = self._shipping
        if board is None or board.spool is None or not board.spool.held():
            return 0
        furthest, received = board.furthest(), board.spool.received
        start = board.spool.held()[0].segment.start
        return max(0, received.lsn - max(start, furthest.lsn)) if furthest < received else 0

    def _former(self) -> list[int]:
        spool = self._board.spool
        present = spool.system_id if spool is not None else self._system_id
        return [] if present is None else [found for found in self._board.spooled() if found != present]

    def _ship(self, system_id: int, stop: Event) -> None:
        board = self._board.beside()
        spool = board.open_spool(system_id)
        # Nothing comes any more: what is here is cut at once, and is all there is.
        board.tail_confirmed = board.requests.draining = True
        self._shipping = board
        ending = Event()
        workers = [Sealer(board).run, *(Shipper(board, name).run for name in board.stores)]
        with ThreadPoolExecutor(len(workers), thread_name_prefix="left-over") as executor:
            running = [executor.submit(work, ending) for work in workers]
            try:
                while not stop.is_set() and not any(worker.done() for worker in running):
                    if _everywhere(board):
                        break
                    self._board.problem("left over", _remark(system_id, spool.usage))
                    self._board.nap(stop, _POLL)
            finally:
                ending.set()
                wait(running)
        for worker in running:
            worker.result()
        if _everywhere(board):
            remove_spool(board.directory, system_id)
            self._board.problem("left over", None)
        self._shipping = None


def _everywhere(board: Board) -> bool:
    """Whether every store has all that the spool holds: WAL, histories, notes."""
    spool = board.spool
    if spool is None:
        return False
    held = [view.holdings for view in board.stores.values()]
    if any(view.durable < spool.received for view in board.stores.values()) or spool.flushed != spool.received:
        return False
    files, timelines = spool.sealed.files(), spool.histories()
    return all(
        store is not None
        and all(timeline in store.histories for timeline in timelines)
        and all(store.holds(file) for file in files)
        for store in held
    )


def _remark(system_id: int, size: int) -> Problem:
    return Problem(
        0,
        f"the spool still holds {size} bytes of the former cluster {system_id}",
        "They go when every store has them; nothing waits for it.",
    )
