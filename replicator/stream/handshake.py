"""From a fresh connection to a granted stream: identity, histories, slot, place, and what a refusal means.

Owns the decision that WAL is lost: 58P01 on our own end, and nothing else. Never writes WAL.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from threading import Event

from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.errors import AlreadyExists, Interrupted, NotFound, SourceRefused, SourceUnavailable, WalRemoved
from replicator.postgres.connection import ReplicationConnection, SlotState
from replicator.postgres.walreceive import WalStream
from replicator.spool import Spool
from replicator.stream.board import Board
from replicator.stream.position import (
    Source,
    StartAt,
    after_removal,
    check_histories,
    check_system,
    first_start,
    gaps_between,
    next_start,
)  # fmt: skip
from replicator.stream.release import spool_limit
from replicator.stream.statistics import Problem

#: SQLSTATE object_not_in_prerequisite_state: what START_REPLICATION says of an invalidated slot.
_NOT_READY = "55000"
_ASK_STORES = 0.1


@dataclass(frozen=True)
class Granted:
    """A stream, what was asked for, and where the slot stood: what was acknowledged once."""

    stream: WalStream
    start: StartAt
    slot_lsn: Lsn


class SlotMissing(SourceRefused):
    """Our slot is gone and was not ours to make again."""


class SystemChanged(SourceUnavailable):
    """The source is a cluster that was accepted in the place of the one that this stream began with: a new stream is
    needed, and what is left of the former one is shipped beside it.
    """


class Handshake:
    """On one connection. `may_create_slot`: `init` made the slot, so a lost one may be made again."""

    def __init__(self, board: Board, connection: ReplicationConnection, *, may_create_slot: bool) -> None:
        self._board = board
        self._connection = connection
        self._may_create = may_create_slot
        self._slot_name = board.settings.slot

    def identify(self, stop: Event) -> tuple[Source, Spool]:
        """Who the source is, and its spool. Another cluster than the open spool's is judged once the stores are asked.
        Raises ForeignSource, SystemChanged, Interrupted.
        """
        identity = self._connection.identify()
        board = self._board
        board.source.system_id = identity.system_id
        spooled = board.spooled()
        ours = board.spool.system_id if board.spool is not None else None
        while identity.system_id != ours and not board.stores_answered():
            board.nap(stop, _ASK_STORES)
            if stop.is_set():
                raise Interrupted("stopped while the stores were asked")
        known = [*spooled]
        for view in board.stores.values():
            known.extend(view.system_ids or ())
        accepted, cluster = board.accepted(), board.repository.cluster
        check_system(identity.system_id, known, accepted, cluster)
        spool = board.open_spool(identity.system_id, self._connection.wal_segment_size)
        if spool.system_id != identity.system_id:
            if accepted is None and identity.system_id not in spooled:
                check_system(identity.system_id, [spool.system_id], None, cluster)
            raise SystemChanged(f"the source is cluster {identity.system_id} now: the stream begins anew with it")
        content = self._history_content(identity.timeline)
        history = TimelineHistory.parse(identity.timeline, content or b"")
        return Source(identity.system_id, identity.timeline, identity.lsn, history), spool

    def _history_content(self, timeline: int) -> bytes | None:
        if timeline == 1:
            return None
        try:
            return self._connection.timeline_history(timeline)[1]
        except NotFound:
            return None

    def next_history(self, timeline: int) -> TimelineHistory:
        """The history of the timeline that follows. Raises SourceUnavailable when the source does not have it (yet)."""
        content = self._history_content(timeline)
        if content is None:
            raise SourceUnavailable(f"the source has no history of its timeline {timeline}")
        return TimelineHistory.parse(timeline, content)

    def keep_histories(self, source: Source, spool: Spool) -> None:
        """Store the histories of the source's path before anything of these timelines. Raises ForeignSource."""
        check_histories(source.history, self._board.histories())
        have = spool.histories()
        for timeline in [*(parent for parent, _ in source.history.parents), source.timeline]:
            content = None if timeline in have else self._history_content(timeline)
            if content is not None:
                spool.write_history(timeline, content)
        self._board.ring()

    def start(self, source: Source, spool: Spool) -> Granted:
        """The stream from where we stand; records a gap when that is gone. Raises ForeignSource, SourceUnavailable."""
        held = self._board.before_holes(self._board.ends())
        start = next_start(source, held, spool.segment_size) if held else None
        slot = self._give_up(self._slot(first=not held))
        if start is None:
            start = first_start(source, slot.restart_lsn, spool.segment_size)
        self._report_beyond(start)
        granted = self._after_giving_up(source, start, slot, spool)
        try:
            granted = granted or Granted(self._ask(start, slot), start, slot.restart_lsn or Lsn(0))
        except WalRemoved as error:
            granted = self._after_removal(source, start, self._slot(first=not held), spool, error)
        if start.lost is not None:
            self._board.record_gap(start.lost, "another timeline was followed meanwhile")
        return granted

    def follow(self, source: Source, spool: Spool, timeline: int, switch: Lsn) -> Granted:
        """The stream of the next timeline, on the connection that ended the last one."""
        slot = self._slot(first=False)
        start = StartAt(timeline, switch.floor(spool.segment_size), switch)
        try:
            stream = self._ask(start, slot)
        except WalRemoved as error:
            return self._after_removal(source, start, slot, spool, error)
        return Granted(stream, start, slot.restart_lsn or Lsn(0))

    def _report_beyond(self, start: StartAt) -> None:
        beyond = start.beyond
        if beyond is None:
            self._board.problem("beyond", None)
            return
        text = (
            f"timeline {beyond.timeline} is held up to {beyond.end}, past {beyond.start} where timeline "
            f"{start.timeline} left it"
        )
        hint = "It is kept; a restore follows the newest timeline unless --timeline says otherwise."
        self._board.problem("beyond", Problem(0, text, hint))

    def _slot(self, *, first: bool) -> SlotState:
        state = self._connection.read_slot(self._slot_name)
        if state is None:
            if not first and not self._may_create:
                raise SlotMissing(
                    f"the slot {self._slot_name} does not exist on {self._connection.host}",
                    hint="Someone dropped it. `replicator init` makes it again; WAL may be lost meanwhile.",
                )
            with suppress(AlreadyExists):  # made by someone else meanwhile: theirs is as good
                self._connection.create_slot(self._slot_name)
            state = self._connection.read_slot(self._slot_name)
        return state or SlotState(None, None)

    def _give_up(self, slot: SlotState) -> SlotState:
        """Where that was asked for and the slot is ours: another one in its place, which keeps WAL from the source's
        last checkpoint on. Who dies in between finds no slot, makes one, and asks for his own end as always.
        """
        requests = self._board.requests
        if not requests.give_up:
            return slot
        requests.give_up = False
        if not self._may_create or requests.give_up_on != self._connection.host:
            return slot  # after a failover the slot is another one, which nobody found in danger
        self._board.steps("before give up")
        self._connection.drop_slot(self._slot_name, wait=True)
        self._board.steps("between drop and create")
        with suppress(AlreadyExists):
            self._connection.create_slot(self._slot_name)
        slot = self._connection.read_slot(self._slot_name) or SlotState(None, None)
        self._board.replaced("given up", slot.restart_lsn)
        self._board.steps("after give up")
        return slot

    def _after_giving_up(self, source: Source, start: StartAt, slot: SlotState, spool: Spool) -> Granted | None:
        """A spool without room, while no store takes, can't receive what the source may still have: go on from the new
        slot, with a gap. Otherwise None: all is asked for that is still there.
        """
        if not self._board.given_up.pending:
            return None
        granted: Granted | None = None
        # A new slot that still keeps the segment of our own end has cost nothing.
        lost = slot.restart_lsn is not None and slot.restart_lsn.floor(spool.segment_size) > start.held
        taken = any(view.state == "ok" for view in self._board.stores.values())
        if lost and not taken and spool.usage >= spool_limit(self._board, spool):
            reason = "the slot was given up, so that the source's disk does not fill"
            granted = self._later(source, start, slot, spool, reason)
        self._board.decided()
        return granted

    def _ask(self, start: StartAt, slot: SlotState) -> WalStream:
        try:
            return self._stream(start)
        except SourceRefused as error:
            lost = slot.restart_lsn is None and error.context.get("sqlstate") == _NOT_READY
            if not lost or not self._may_create:
                raise
        # An invalidated slot never comes back: make a new one, then ask for our own end all the same.
        self._connection.drop_slot(self._slot_name)
        self._connection.create_slot(self._slot_name)
        made = self._connection.read_slot(self._slot_name)
        self._board.replaced("lost", made.restart_lsn if made else None)
        return self._stream(start)

    def _stream(self, start: StartAt) -> WalStream:
        return WalStream(self._connection, slot=self._slot_name, timeline=start.timeline, start=start.lsn)

    def _after_removal(
        self, source: Source, start: StartAt, slot: SlotState, spool: Spool, error: WalRemoved
    ) -> Granted:
        granted = self._later(source, start, slot, spool, "the source had removed this WAL")
        if granted is None:
            raise error
        return granted

    def _later(self, source: Source, start: StartAt, slot: SlotState, spool: Spool, reason: str) -> Granted | None:
        """The stream of what the source still keeps after `start`, what lies between being a gap; None when there is
        nothing of that kind.
        """
        for later in after_removal(source, start, slot.restart_lsn, spool.segment_size):
            try:
                stream = self._stream(later)
            except WalRemoved:
                continue
            for gap in gaps_between(source.history, start, later):
                self._board.record_gap(gap, reason)
            return Granted(stream, later, slot.restart_lsn or Lsn(0))
        return None
