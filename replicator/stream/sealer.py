"""The sealer: flushed WAL into sealed objects in the spool, whole segments first, then pieces.

Owns what is cut where. An object is durable in the spool before a shipper can see it (promise 3). Never talks to a
store.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from threading import Event

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.core.moment import to_microseconds
from replicator.errors import HostLacks, SpoolFull
from replicator.repository.layout import wal_name
from replicator.repository.wal import WalPart, fingerprint_part, seal_part
from replicator.spool import Position, SealedFile, Spool
from replicator.spool.walfiles import HeldSegment
from replicator.stream.board import Board
from replicator.stream.cutting import Uncut, seconds_until_cut
from replicator.stream.release import release

_THREADS = 2
_LOOK = 1.0
_AFTER_ERROR = 1.0
#: Seconds that a new process waits for the source to confirm the spool's tail before it seals it as it is.
_TAIL_WAIT = 30.0


@dataclass(slots=True)
class _Cut:
    """How far a segment that is not sealed whole is cut, in how many pieces."""

    segment: Segment
    end: Lsn
    pieces: int


class Sealer:
    """One per stream."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._settings = board.settings
        self._done: Segment | None = None
        self._cut: _Cut | None = None

    def run(self, stop: Event) -> None:
        """Seal until `stop` is set. Begins by deriving from the spool what is sealed."""
        self._done = self._cut = None
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="seal") as executor:
            while not stop.is_set():
                seen = self._board.sealer_bell.rings
                try:
                    seconds = self._work(executor)
                except HostLacks as error:
                    self._board.problem("sealer", error)
                    if isinstance(error, SpoolFull):
                        release(self._board, pressing=True, full=True)
                    self._board.nap(stop, _AFTER_ERROR)
                    continue
                if seconds > 0:
                    self._board.sealer_bell.wait(seen, min(seconds, _LOOK), stop)
                else:
                    self._board.problem("sealer", None)

    def _work(self, executor: Executor) -> float:
        """Seal one object if it is time. Seconds until there may be more to do; 0: look again at once."""
        spool = self._board.spool
        if spool is None:
            return _LOOK
        held = spool.held()
        waiting = list(takewhile(lambda item: self._done is None or item.segment > self._done, reversed(held)))
        for item in reversed(waiting):
            if item.complete:
                if item.position > spool.flushed:
                    return _LOOK
                self._seal_whole(spool, item, executor)
                self._done = item.segment
                return 0.0
            ended = item is not held[-1]
            seconds = self._piece(spool, item, ended=ended)
            if not ended:
                return seconds
            if seconds == 0:
                return 0.0
            self._done = item.segment
        return _LOOK

    def _seal_whole(self, spool: Spool, held: HeldSegment, executor: Executor) -> None:
        segment = held.segment
        name = self._sealed_already(spool, segment)
        if name is None:
            name = self._seal(spool, segment, segment.start, segment.end, executor).name
        self._board.objects[segment.name] = name

    def _sealed_already(self, spool: Spool, segment: Segment) -> str | None:
        """The object with exactly this segment's bytes, when it waits in the spool or every store has it. Another's
        object of this segment counts for nothing.
        """
        waiting = (file.name for file in spool.sealed.files() if file.complete and file.segment == segment.name)
        name = next(waiting, None)
        if name is not None:
            return name
        stores = [view.holdings for view in self._board.stores.values()]
        held = [store.wal.get(segment.name, set()) for store in stores if store is not None]
        if len(held) < len(stores) or not all(held):
            return None
        part = WalPart(spool.system_id, segment, segment.start, segment.end, 0, 0, complete=True)
        mark = fingerprint_part(self._board.repository.keyring, part, partial(spool.read, segment))
        name = wal_name(spool.system_id, segment, mark)
        return name if all(name in names for names in held) else None

    def _piece(self, spool: Spool, held: HeldSegment, *, ended: bool) -> float:
        """Cut the next piece of a segment if it is time; as `_work`."""
        cut = self._cut_of(spool, held.segment)
        end = held.end if ended else min(held.end, spool.flushed.lsn)
        if not ended and (spool.flushed.timeline != held.segment.timeline or not self._tail_is_sound()):
            return _LOOK
        position = Position(held.segment.timeline, cut.end)
        arrived = spool.times.arrival_after(position)
        requests = self._board.requests
        uncut = Uncut(
            size=end - cut.end,
            age=None if arrived is None else self._board.clock.monotonic() - arrived,
            outstanding=cut.pieces > 0 and self._shipped() < position,
            wanted=ended or requests.draining or cut.end < requests.cut <= end,
        )
        if not uncut.wanted and self._board.catching_up():
            return _LOOK
        seconds = seconds_until_cut(uncut, self._settings)
        if seconds > 0:
            return seconds
        again = cut.pieces >= self._settings.most_pieces
        self._seal(spool, held.segment, held.segment.start if again else cut.end, end, None)
        self._cut = _Cut(held.segment, end, 1 if again else cut.pieces + 1)
        return 0.0

    def _tail_is_sound(self) -> bool:
        """A crash of the machine may leave bytes that were never fsynced: the source shows. When it stays away, what is
        here is all there is.
        """
        board = self._board
        return board.tail_confirmed or board.clock.monotonic() - board.began > _TAIL_WAIT

    def _shipped(self) -> Position:
        """What the last piece is waited for by: the furthest store, or with "stores" the slowest that is well."""
        well = [view.durable for view in self._board.stores.values() if view.state == "ok"]
        if self._settings.acknowledge == "stores" and well:
            return min(well)
        return self._board.furthest()

    def _cut_of(self, spool: Spool, segment: Segment) -> _Cut:
        """How far a segment is cut already, from the spool and from what every store has."""
        if self._cut is None or self._cut.segment != segment:
            files = [file for file in spool.sealed.files() if file.segment == segment.name]
            pieces = Coverage.of((segment.timeline, file.start.lsn, file.end.lsn) for file in files)
            stores = [view.holdings for view in self._board.stores.values()]
            reached = [store.coverage.reach(segment.timeline, segment.start) for store in stores if store is not None]
            common = min(reached) if reached and len(reached) == len(stores) else segment.start
            counts = [len(store.pieces.get(segment.name, ())) for store in stores if store is not None]
            self._cut = _Cut(segment, pieces.reach(segment.timeline, common), max([len(files), *counts]))
        return self._cut

    def _seal(self, spool: Spool, segment: Segment, start: Lsn, end: Lsn, executor: Executor | None) -> SealedFile:
        timeline = segment.timeline
        known = spool.times.between(Position(timeline, start), Position(timeline, end))
        # Unknown after a restart while the source is away: now is an upper bound of when it was sent.
        first_us, last_us = known or (to_microseconds(self._board.clock.now()),) * 2
        complete = start == segment.start and end == segment.end
        part = WalPart(spool.system_id, segment, start, end, first_us, last_us, complete)
        repository, settings = self._board.repository, self._settings

        def seal(write: Callable[[bytes], object]) -> str:
            return seal_part(
                repository.keyring, settings.compression, settings.level, part,
                partial(spool.read, segment), write, executor,
            )  # fmt: skip

        self._board.steps("before seal")
        file = spool.sealed.create(seal)
        self._board.steps("after seal")
        self._board.shipper_bell.ring()
        return file
