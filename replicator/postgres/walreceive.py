"""Receiving WAL: one START_REPLICATION conversation.

Owns the order of messages on the wire. It keeps no position: what is written and flushed is the caller's to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import psycopg
from psycopg.pq import ExecStatus

from replicator.core.lsn import Lsn
from replicator.errors import ProtocolViolation, SourceUnavailable
from replicator.postgres import conversation
from replicator.postgres.connection import ReplicationConnection, check_slot_name
from replicator.postgres.conversation import COPYING, TimelineEnded
from replicator.postgres.messages import PrimaryKeepalive, StandbyStatusUpdate, XLogData
from replicator.postgres.waiting import TICK, Wait, wait_socket

#: What one `read` takes at most, about, in bytes. Small enough to stay in the processor's cache until it is written:
#: with 4 MiB the receiver takes twice the processor time.
BATCH: Final = 2**19
_FLUSH_SECONDS = 1.0
WalMessage = XLogData | PrimaryKeepalive


def _now_us() -> int:
    return time.time_ns() // 1000


class WalStream:
    """WAL of one timeline from `start` on. Made = asked for and granted: a server that has WAL from `start` on also
    accepts what it has removed, and says so instead of the first bytes, so these are waited for.

    Raises WalRemoved (58P01, the only gap), SlotBusy, SourceRefused (no such slot), SourceUnavailable. A start that
    is not in the server's history is SourceUnavailable: compare histories before asking.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        *,
        slot: str | None,
        timeline: int,
        start: Lsn,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._now_us = now_us
        self._doing = f"streaming timeline {timeline} from {start}"
        self._copying = False
        self._sent_end = False
        self._copying_ended = False
        self._end: TimelineEnded | None = None
        self._first: list[WalMessage] = []
        identity = connection.identify()
        named = f"SLOT {check_slot_name(slot)} " if slot is not None else ""
        command = f"START_REPLICATION {named}PHYSICAL {start} TIMELINE {int(timeline)}"
        results = connection.execute(command, doing=self._doing, wal=True)
        if results and results[-1].status in COPYING:
            self._copying = True
        elif results and results[0].status == ExecStatus.TUPLES_OK:
            # Asked for exactly the end of an old timeline: the server skips the COPY and tells the next one.
            self._end = conversation.timeline_ended(results[0])
        else:
            raise ProtocolViolation(f"{self._doing}: the server did not start to stream")
        if self._copying and (start < identity.lsn or timeline != identity.timeline):
            self._await_first(connection.request_timeout)

    def _await_first(self, seconds: float) -> None:
        """Wait for the first WAL or the refusal. A server that stays silent is given the benefit of the doubt."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._connection.check_stop(self._doing)
            found, self._copying_ended = self._receive(TICK, 1)
            self._first += conversation.wal_messages(found)
            if any(isinstance(message, XLogData) for message in self._first):
                return
            if self._copying_ended:
                self._ended()
                return

    def read(self, timeout: float, *, most: int = BATCH) -> list[WalMessage] | TimelineEnded:
        """Wait at most `timeout` seconds for something, then take what is there, up to about `most` bytes.

        An empty list: nothing came. TimelineEnded is the last answer; the connection is then free for other commands.
        """
        if self._first:
            first, self._first = self._first, []
            return first
        if not self._copying:
            if self._end is None:
                raise SourceUnavailable(f"{self._doing}: the stream has ended")
            return self._end
        found, ended = self._receive(timeout, most)
        if found:
            self._copying_ended = ended
            return conversation.wal_messages(found)
        return self._ended() if ended else []

    def _receive(self, timeout: float, most: int) -> tuple[list[memoryview], bool]:
        if self._copying_ended:
            return [], True
        steps = conversation.read_copy(self._pgconn, most)
        until = time.monotonic() + timeout
        try:
            wanted = next(steps)
            while True:
                patience = 0.0 if wanted & Wait.NOW else max(0.0, until - time.monotonic())
                ready = wait_socket(self._pgconn.socket, wanted, patience)
                if not ready and not wanted & Wait.NOW:
                    return [], False
                wanted = steps.send(ready)
        except StopIteration as end:
            found: tuple[list[memoryview], bool] = end.value
            return found
        except psycopg.Error as error:
            raise conversation.lost(self._pgconn, error, doing=self._doing, wal=True) from error

    def _ended(self) -> TimelineEnded:
        steps = conversation.end_of_wal(self._pgconn, doing=self._doing)
        self._end = self._connection.run(steps, doing=self._doing)
        self._copying = False
        if self._end is None:
            raise SourceUnavailable(f"{self._doing}: the server ended the stream")
        return self._end

    def send_status(self, write: Lsn, flush: Lsn, apply: Lsn, *, reply: bool = False) -> None:
        """Report positions. `flush` is what the server may forget. Waits at most a second for a full socket; what is
        left then goes with the next call. Does nothing once the timeline has ended.
        """
        if not self._copying or self._sent_end:
            return
        update = StandbyStatusUpdate(write, flush, apply, self._now_us(), reply)
        try:
            self._pgconn.put_copy_data(update.to_bytes())
            until = time.monotonic() + _FLUSH_SECONDS
            while self._pgconn.flush() and time.monotonic() < until:
                wait_socket(self._pgconn.socket, Wait.WRITE, TICK)
        except psycopg.Error as error:
            raise conversation.lost(self._pgconn, error, doing=self._doing, wal=True) from error

    def finish(self, seconds: float = 5.0) -> None:
        """End the stream from our side and drain it, so that the connection can be used again; when that takes longer
        than `seconds`, or fails, the connection is closed instead.
        """
        if not self._copying:
            return
        until = time.monotonic() + seconds
        try:
            self._pgconn.put_copy_end()
            self._sent_end = True
            while not self._copying_ended:
                left = until - time.monotonic()
                _, self._copying_ended = self._receive(min(TICK, left), BATCH)
                self._pgconn.flush()
                if left <= 0:
                    raise SourceUnavailable(f"{self._doing}: the server did not end within {seconds:g} s")
            steps = conversation.end_of_wal(self._pgconn, doing=self._doing)
            self._end = self._connection.run(steps, doing=self._doing, seconds=max(TICK, until - time.monotonic()))
        except (psycopg.Error, SourceUnavailable):
            self._connection.close()
        self._copying = False
