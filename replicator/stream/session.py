"""One streaming conversation: read, write, fsync in groups, acknowledge.

Owns promise 1 on the wire: the flush position that the source hears of is durable where the policy says, byte-exact,
and never goes back. A full spool stops the reading, never the feedback.
"""

from __future__ import annotations

from collections import deque
from threading import Event

from replicator.core.lsn import Lsn
from replicator.errors import SourceUnavailable, SpoolFull, WalConflict
from replicator.postgres.conversation import TimelineEnded
from replicator.postgres.messages import PrimaryKeepalive, XLogData
from replicator.postgres.walreceive import WalMessage
from replicator.spool import Position, Spool
from replicator.stream.assembler import Assembler, Write
from replicator.stream.board import Board
from replicator.stream.durable import flush_position
from replicator.stream.handshake import Granted
from replicator.stream.patience import Patience
from replicator.stream.release import SpoolLimit, release
from replicator.stream.statistics import Problem
from replicator.stream.tail import check_tail

#: A batch this large means that more is waiting in the socket: read on before the fsync.
_MORE_WAITING = 2**18
_GROUP_BYTES = 8 * 2**20
_GROUP_SECONDS = 0.1
#: A source this many bytes ahead has nobody waiting for our next byte: groups are larger then.
_FAR_BEHIND = 64 * 2**20
_FAR_SECONDS = 1.0
_POLL = 0.02
_IDLE = 0.5
_FULL_WAIT = 0.1
#: Where no commit waits for us, what arrives within this time is written and fsynced together: a busy source would
#: otherwise pay for an fsync and a wake-up of ours with each of its commits.
_GATHER = 0.05
_NEAR = 2**20


class Session:
    """Runs until the timeline ends, `stop` is set, or an error."""

    def __init__(self, board: Board, spool: Spool, granted: Granted) -> None:
        self._board = board
        self._spool = spool
        self._stream = granted.stream
        self._start = granted.start
        self._slot_lsn = granted.slot_lsn
        self._clock = board.clock
        self._timeline = granted.start.timeline
        self._assembler = Assembler(spool.system_id, self._timeline, granted.start.lsn, spool.segment_size)
        self._confirmed = granted.start.lsn
        self._waiting: deque[Write] = deque()
        self._full: SpoolFull | None = None
        self._limit = SpoolLimit(board, spool)
        self._durable = spool.flushed
        self._unannounced = False
        self._unsynced = 0
        self._unsynced_since = 0.0
        self._had = spool.received
        self._flush = Lsn(0)
        self._write = Lsn(0)
        self._status_at = -1e9
        self._patience = Patience(board.settings.request_timeout, self._clock.monotonic())

    def run(self, stop: Event) -> TimelineEnded | None:
        """Stream. None when asked to stop: what was received is then durable and acknowledged. None also when the slot
        is to be given up: what was received is durable.
        """
        try:
            return self._run(stop)
        except SourceUnavailable:
            self._sync()  # the source may be gone for good: what it sent last must not stay in memory
            raise
        finally:
            self._announce()

    def _run(self, stop: Event) -> TimelineEnded | None:
        while not stop.is_set():
            reply = gather = False
            if self._board.requests.give_up:
                self._sync()
                return None  # the slot is free when this connection ends, and another one is made of it
            if self._board.requests.draining:
                self._sync()
                self._board.nap(stop, _POLL)
            elif self._blocked():
                self._sync()
                release(self._board, pressing=True, full=self._full is not None)
                self._board.nap(stop, _FULL_WAIT)
                self._patience.not_listening(self._clock.monotonic(), closing=self._board.source.closing)
                self._write_waiting()
            else:
                found = self._receive()
                if isinstance(found, TimelineEnded):
                    self._sync()
                    return found
                reply = self._take(found)
                gather = bool(found) and not reply and self._may_gather()
            self._feedback(reply=reply)
            self._announce()
            if gather:
                self._board.nap(stop, _GATHER)
            if self._patience.is_exhausted(self._clock.monotonic()):
                raise SourceUnavailable(
                    f"{self._board.source.host} shuts down and waits for WAL to be confirmed: it is let go",
                    hint="The slot keeps that WAL; look at the stores, which are behind.",
                )
        self._sync()
        self._feedback(reply=True)
        self._stream.finish()
        return None

    def _receive(self) -> list[WalMessage] | TimelineEnded:
        lagging = self._board.settings.acknowledge != "spool" and self._flush < self._confirmed
        self._board.steps("before receive")
        found = self._stream.read(_POLL if lagging else min(_IDLE, self._board.settings.status_interval))
        self._board.steps("after receive")
        if not found and self._patience.is_silent(self._clock.monotonic()):
            raise SourceUnavailable(f"{self._board.source.host}: silent for {self._patience.limit:g} s")
        return found

    def _take(self, messages: list[WalMessage]) -> bool:
        """Write a batch and make it durable when it is time; whether a reply is wanted."""
        data = [message for message in messages if isinstance(message, XLogData)]
        reply = any(isinstance(message, PrimaryKeepalive) and message.reply_requested for message in messages)
        if messages:
            end = max(message.end for message in messages)
            self._patience.heard(self._clock.monotonic(), wal=bool(data), question=reply and self._flush < end)
            self._board.source.server_lsn = end
        if data:
            self._waiting.extend(self._assembler.take(data))
            self._write_waiting()
        size = sum(len(message.data) for message in data)
        far = (self._board.source.server_lsn or 0) - self._confirmed > _FAR_BEHIND
        dry = size < _MORE_WAITING and not (far and messages)
        if self._unsynced and (dry or reply or self._group_is_full(far=far)):
            self._sync()
        return reply

    def _may_gather(self) -> bool:
        """Whether nobody waits for the next byte, and no backlog is on the way."""
        board = self._board
        return (
            not board.source.awaited
            and board.settings.acknowledge == "spool"
            and self._confirmed >= self._start.held
            and (board.source.server_lsn or 0) - self._confirmed < _NEAR
        )

    def _group_is_full(self, *, far: bool) -> bool:
        most, longest = (_FAR_BEHIND, _FAR_SECONDS) if far else (_GROUP_BYTES, _GROUP_SECONDS)
        return self._unsynced >= most or self._clock.monotonic() - self._unsynced_since >= longest

    def _blocked(self) -> bool:
        """Whether the spool has no room. Writes that did not fit wait; nothing more is read."""
        problem: Problem | SpoolFull | None = self._full
        limit = self._limit.now()
        if problem is None and self._spool.usage >= limit:
            problem = _at_limit(limit, short=limit < self._board.settings.spool_limit)
        self._board.problem("spool", problem)
        self._board.source.back_pressure = problem is not None
        return problem is not None

    def _write_waiting(self) -> None:
        """Append what waits; a full disk leaves it waiting."""
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
            self._full = None
        except SpoolFull as error:
            if self._waiting[0].start > self._spool.received.lsn:
                raise  # bytes before these are gone as well: only the source has them
            self._full = error

    def _append(self, write: Write) -> None:
        if not self._board.tail_confirmed and write.end >= self._start.held:
            self._check_tail(write)
        if not self._unsynced:
            self._unsynced_since = self._clock.monotonic()
        self._board.steps("before write")
        self._spool.append(write.segment, write.start, write.views, acknowledged=self._acknowledged_once())
        self._board.steps("after write")
        start, end = Position(self._timeline, write.start), Position(self._timeline, write.end)
        self._spool.times.add(start, end, write.first_us, write.last_us, self._clock.monotonic())
        self._confirmed = write.end
        self._unsynced += write.size
        self._notice_durable()
        if not self._board.tail_confirmed and self._confirmed >= self._start.held:
            self._board.tail_confirmed = True

    def _check_tail(self, write: Write) -> None:
        """Before the first byte past our end. What another server sent up to here does not stay."""
        try:
            check_tail(self._board, self._spool, write)
        except WalConflict:
            self._spool.take_back(self._had)
            raise

    def _notice_durable(self) -> None:
        """Whole segments become durable by themselves: the sealer need not wait for the group's end."""
        flushed = self._spool.flushed
        if flushed > self._durable:
            self._durable = flushed
            self._unsynced = self._spool.received.lsn - flushed.lsn
            self._unsynced_since = self._clock.monotonic()
            self._unannounced = True

    def _acknowledged_once(self) -> Lsn:
        """Below this no byte may change: it was acknowledged, sealed, or is in a store."""
        if self._confirmed >= self._start.held and self._flush:
            return self._flush
        places = [self._slot_lsn, self._flush]
        places += [file.end.lsn for file in self._spool.sealed.files() if file.end.timeline == self._timeline]
        places += [
            end for _, holdings in self._board.ready() if (end := holdings.coverage.end(self._timeline)) is not None
        ]
        return max(places)

    def _sync(self) -> None:
        if self._unsynced or self._spool.flushed != self._spool.received:
            self._board.steps("before fsync")
            self._spool.sync()
            self._board.steps("after fsync")
            self._unsynced = 0
            self._unannounced = True

    def _announce(self) -> None:
        """Wake the sealer: after the feedback, for a commit may wait for that."""
        if self._unannounced:
            self._unannounced = False
            self._board.sealer_bell.ring()

    def _feedback(self, *, reply: bool) -> None:
        """Report positions: at once when a reply is wanted or the flush position moved, else by the interval."""
        now = self._clock.monotonic()
        flush = flush_position(
            self._board.acknowledgeable(),
            timeline=self._timeline,
            confirmed=self._confirmed,
            floor=self._slot_lsn,
            last=self._flush,
        )
        ask, moved = self._patience.asks(now), flush > self._flush
        reply = reply and not self._patience.insists
        if not (reply or ask or moved or now - self._status_at >= self._board.settings.status_interval):
            return
        self._write = max(self._write, flush, self._confirmed if self._confirmed >= self._slot_lsn else Lsn(0))
        self._board.steps("before acknowledge")
        self._stream.send_status(self._write, flush, flush, reply=ask)
        self._board.steps("after acknowledge")
        self._flush, self._status_at = flush, now
        self._patience.answered(now, asked=ask, moved=moved)
        if flush:
            self._board.source.acknowledged = flush


def _at_limit(limit: int, *, short: bool) -> Problem:
    waits = "reading waits, the slot keeps the WAL"
    if short:
        return Problem(
            9,
            f"the spool's disk is short: what is left is for sealing, {waits}",
            "Free space, look at the stores that are behind, or lower [stream] spool_limit to what the disk has.",
        )
    return Problem(
        9,
        f"the spool is at its limit of {limit} bytes: {waits}",
        "Look at the stores that are behind, or raise [stream] spool_limit.",
    )
