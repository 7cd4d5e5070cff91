"""The receiver: connects, streams, and after any error forgets where it was and begins again from what is durable.

Owns the state of the source in status, and the waiting between two tries (bounded, jittered, without end: a primary
may be away for a week). Stops only for what no retry can help: another cluster, or two contents for one range.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import SystemRandom
from threading import Event

from replicator.errors import (
    ForeignSource,
    HostLacks,
    Interrupted,
    ReplicatorError,
    SlotBusy,
    SourceRefused,
    SourceUnavailable,
    WalConflict,
)
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.hosts import Hosts
from replicator.repository.notes import conflict_note
from replicator.spool import Spool
from replicator.stream.board import Board
from replicator.stream.followed import FOREIGN
from replicator.stream.handshake import Granted, Handshake, SlotMissing, SystemChanged
from replicator.stream.position import Source
from replicator.stream.session import Session
from replicator.stream.statistics import Problem

Connect = Callable[[], ReplicationConnection]

#: The source's state once it is a cluster that was accepted in the place of ours.
CHANGING = "changing"

_FIRST, _MOST = 0.2, 5.0
_ASK_STORES = 0.1
#: Once connected this long, a failure counts as the first again.
_STEADY = 10.0


class Receiver:
    """One per stream. `connect` opens a new replication connection to the primary; where conninfo names several hosts,
    one that turns out to be foreign (a former primary that came back) is no end: `hosts` has the next one tried.
    """

    def __init__(
        self, board: Board, connect: Connect, *, may_create_slot: Callable[[], bool], hosts: Hosts | None = None
    ) -> None:
        self._board = board
        self._connect = connect
        self._may_create = may_create_slot
        self._hosts = hosts or Hosts(())
        self._passed_over: str | None = None
        self._random = SystemRandom()

    def run(self, stop: Event) -> None:
        """Stream until `stop` is set. Raises Conflict and others that no retry helps. However it ends, nothing is
        still being written: what was received is durable, or was cut off.
        """
        try:
            self._run(stop)
        finally:
            if (spool := self._board.spool) is not None:
                with suppress(HostLacks):
                    spool.sync()

    def _run(self, stop: Event) -> None:
        failures = 0
        while not stop.is_set():
            began = self._board.clock.monotonic()
            try:
                self._stream_once(stop)
                failures = 0
            except Interrupted:
                if not stop.is_set():
                    raise
            except (SourceUnavailable, HostLacks) as error:
                self._failed(error)
                failures = 0 if self._board.clock.monotonic() - began > _STEADY else failures + 1
                self._board.nap(stop, self._pause(failures))
            except ReplicatorError as error:
                self._stopped(error)
                if not (isinstance(error, ForeignSource) and self._pass_over(error)):
                    raise
                failures += 1
                self._board.nap(stop, self._pause(failures))
        self._board.source.state = "stopped"

    def _pass_over(self, error: ForeignSource) -> bool:
        """Whether another host of conninfo may be the one to follow; this one is then remarked."""
        host = self._board.source.host
        if host is None or not self._hosts.pass_over(host):
            return False
        self._passed_over = host
        self._board.problem("passed over", Problem(0, f"{host} was passed over: {error.message}", error.hint))
        return True

    def _follows(self, host: str) -> None:
        """Our WAL comes from here: look here first the next time."""
        self._hosts.streams(host)
        if host == self._passed_over:
            self._passed_over = None
            self._board.problem("passed over", None)

    def _stream_once(self, stop: Event) -> None:
        if not self._stores_asked(stop):
            return
        source = self._board.source
        source.state = "connecting" if source.state == "starting" else source.state
        with self._connect() as connection:
            source.host = connection.host
            handshake = Handshake(self._board, connection, may_create_slot=self._may_create())
            who, spool = handshake.identify(stop)
            source.server_lsn = who.lsn
            if not self._catalogs_read(spool, stop):
                return
            handshake.keep_histories(who, spool)
            granted: Granted | None = handshake.start(who, spool)
            self._follows(connection.host)
            while granted is not None:
                granted = self._session(handshake, who, spool, granted, stop)

    def _session(
        self, handshake: Handshake, who: Source, spool: Spool, granted: Granted, stop: Event
    ) -> Granted | None:
        """Stream one timeline; the next one's stream when it ended. None: asked to stop, or to give up the slot."""
        source = self._board.source
        source.state, source.timeline = "streaming", granted.start.timeline
        source.sessions, source.awaited = source.sessions + 1, True
        self._board.problem("source", None)
        self._board.ring()
        ended = Session(self._board, spool, granted).run(stop)
        if ended is None:
            return None
        history = handshake.next_history(ended.next_timeline)
        now = Source(who.system_id, ended.next_timeline, who.lsn, history)
        handshake.keep_histories(now, spool)
        return handshake.follow(now, spool, ended.next_timeline, ended.switchpoint)

    def _stores_asked(self, stop: Event) -> bool:
        """With an empty spool the stores must say what they hold before the source is asked (promise 2): wait until
        each has answered or failed, and one at least has answered.
        """
        while not self._board.spooled() and not stop.is_set():
            if self._board.stores_answered():
                return True
            self._board.nap(stop, _ASK_STORES)
        return not stop.is_set()

    def _catalogs_read(self, spool: Spool, stop: Event) -> bool:
        """The same for what each store holds of this system id."""
        while spool.newest() is None and not stop.is_set():
            views = list(self._board.stores.values())
            if any(view.holdings for view in views) and all(view.listed for view in views):
                return True
            self._board.nap(stop, _ASK_STORES)
        return not stop.is_set()

    def _failed(self, error: ReplicatorError) -> None:
        source = self._board.source
        match error:
            case SystemChanged():
                source.state = CHANGING
            case SlotMissing():
                source.state = "slot_missing"
            case SlotBusy():
                source.state = "slot_busy"
            case SourceRefused():
                source.state = "refused"
            case HostLacks():
                source.state = "failed"
            case _:
                source.state = "away"
        self._board.problem("source", error)

    def _stopped(self, error: ReplicatorError) -> None:
        match error:
            case WalConflict():
                self._board.source.state = "conflict"
            case ForeignSource():
                self._board.source.state = FOREIGN
            case _:
                self._board.source.state = "failed"
        self._board.problem("source", error)
        spool = self._board.spool
        segment = error.context.get("segment")
        if spool is not None and segment is not None:
            keyring = self._board.repository.keyring
            note = conflict_note(keyring, spool.system_id, segment, [error.message], self._board.clock.now())
            spool.sealed.put_document(*note)
            self._board.ring()

    def _pause(self, failures: int) -> float:
        longest = min(_MOST, _FIRST * 2.0 ** min(failures, 10))
        return longest * self._random.uniform(0.5, 1.0)
