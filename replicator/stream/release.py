"""Letting go of what the stores have: the joint of holdings and the spool's limit.

Owns the answer to "who has it". What it removes is decided by `spool.limits`. The newest segment is always kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.coverage import Coverage
from replicator.spool import SealedFile, Spool
from replicator.spool.limits import Kept, limit_now, to_release
from replicator.stream.board import Board
from replicator.stream.holdings import Holdings

#: Well below what `limits.reserve` keeps free.
_LOOK_AGAIN_BYTES, _LOOK_AGAIN_S = 4 * 2**20, 0.1
#: A look goes through all files, and comes after every put: with a long backlog it would be most of the work. It rests
#: for so many times what it took; a shipper that is idle looks every second.
_REST = 9.0


def spool_limit(board: Board, spool: Spool, *, full: bool = False) -> int:
    """What the spool may hold now; `full`: its disk has just said that it takes nothing more."""
    free = 0 if full else spool.free
    return limit_now(board.settings.spool_limit, spool.segment_size, usage=spool.usage, free=free)


class SpoolLimit:
    """`spool_limit` for who asks at every batch: the disk is looked at again after 4 MiB, or a tenth of a second."""

    def __init__(self, board: Board, spool: Spool) -> None:
        self._board, self._spool = board, spool
        self._limit, self._usage, self._until = 0, 0, -1e9

    def now(self) -> int:
        """Bytes."""
        now, usage = self._board.clock.monotonic(), self._spool.usage
        if now >= self._until or not 0 <= usage - self._usage < _LOOK_AGAIN_BYTES:
            self._limit = spool_limit(self._board, self._spool)
            self._usage, self._until = usage, now + _LOOK_AGAIN_S
        return self._limit


def release(board: Board, *, pressing: bool = False, full: bool = False, share: float = 1.0) -> None:
    """Remove what every store has; with `pressing`, down to `share` of the limit, also what one store has. One at a
    time: who comes while another works, or soon after a long look, has nothing to do unless it presses.
    """
    spool = board.spool
    if spool is None or (board.clock.monotonic() < board.release_due and not pressing):
        return
    if not board.release_lock.acquire(blocking=pressing):
        return
    began = board.clock.monotonic()
    try:
        raw = {held.segment.name: held.segment for held in spool.held()}
        limit = int(share * spool_limit(board, spool, full=full)) if pressing else 2**63
        for key in to_release(_kept(board, spool), spool.usage, limit):
            board.steps("before remove")
            if key in raw:
                spool.let_go(raw[key])
                board.objects.pop(key, None)
            else:
                spool.sealed.remove(key)
            board.steps("after remove")
    finally:
        now = board.clock.monotonic()
        board.release_due = now + _REST * (now - began)
        board.release_lock.release()


def _kept(board: Board, spool: Spool) -> list[Kept]:
    """Every file that could go, oldest first."""
    holdings = [view.holdings for view in board.stores.values()]
    newest = spool.newest()
    found = [(file.start, kept) for file, kept in _sealed(spool, holdings)]
    for held in spool.held():
        if held.segment == newest:
            continue
        name = board.objects.get(held.segment.name)
        answers = [store is not None and store.holds_raw(held.segment, held.end, name) for store in holdings]
        kept = Kept(held.segment.name, held.end - held.segment.start, all(answers), any(answers))
        found.append((held.position, kept))
    return [kept for _, kept in sorted(found, key=lambda pair: pair[0])]


def _sealed(spool: Spool, holdings: list[Holdings | None]) -> Iterator[tuple[SealedFile, Kept]]:
    """Sealed objects; a piece that a longer object here replaces counts as if every store had it."""
    whole: set[str] = set()
    longer: dict[str, Coverage] = {}
    for file in spool.sealed.files():
        replaced = False
        if file.complete:
            whole.add(file.segment)
        elif not file.document:
            before = longer.get(file.segment, Coverage.of())
            replaced = file.segment in whole or before.holds(file.start.timeline, file.start.lsn, file.end.lsn)
            longer[file.segment] = before.add(file.start.timeline, file.start.lsn, file.end.lsn)
        answers = [store is not None and store.holds(file) for store in holdings]
        yield file, Kept(file.name, file.size, replaced or all(answers), any(answers))
