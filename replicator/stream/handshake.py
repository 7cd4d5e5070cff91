"""From a fresh connection to a granted stream: identity, histories, slot, place, and what a refusal means.

Owns the decision that WAL is lost: 58P01 on our own end, and nothing else. Never writes WAL.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.errors import AlreadyExists, NotFound, SourceRefused, SourceUnavailable, WalRemoved
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
from replicator.stream.statistics import Problem

#: SQLSTATE object_not_in_prerequisite_state: what START_REPLICATION says of an invalidated slot.
_NOT_READY = "55000"


@dataclass(frozen=True)
class Granted:
    """A stream, what was asked for, and where the slot stood: what was acknowledged once."""

    stream: WalStream
    start: StartAt
    slot_lsn: Lsn


class SlotMissing(SourceRefused):
    """Our slot is gone and was not ours to make again."""


class Handshake:
    """On one connection. `may_create_slot`: `init` made the slot, so a lost one may be made again."""

    def __init__(self, board: Board, connection: ReplicationConnection, *, may_create_slot: bool) -> None:
        self._board = board
        self._connection = connection
        self._may_create = may_create_slot
        self._slot_name = board.settings.slot

    def identify(self) -> tuple[Source, Spool]:
        """Who the source is, and its spool. Raises ForeignSource."""
        identity = self._connection.identify()
        known = [*self._board.spooled()]
        for view in self._board.stores.values():
            known.extend(view.system_ids or ())
        check_system(identity.system_id, known)
        spool = self._board.open_spool(identity.system_id, self._connection.wal_segment_size)
        check_system(identity.system_id, [spool.system_id])
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
        held = self._board.ends()
        start = next_start(source, held, spool.segment_size) if held else None
        slot = self._slot(first=not held)
        if start is None:
            start = first_start(source, slot.restart_lsn, spool.segment_size)
        self._report_beyond(start)
        try:
            granted = Granted(self._ask(start, slot), start, slot.restart_lsn or Lsn(0))
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
        return self._stream(start)

    def _stream(self, start: StartAt) -> WalStream:
        return WalStream(self._connection, slot=self._slot_name, timeline=start.timeline, start=start.lsn)

    def _after_removal(
        self, source: Source, start: StartAt, slot: SlotState, spool: Spool, error: WalRemoved
    ) -> Granted:
        for later in after_removal(source, start, slot.restart_lsn, spool.segment_size):
            try:
                stream = self._stream(later)
            except WalRemoved:
                continue
            for gap in gaps_between(source.history, start, later):
                self._board.record_gap(gap, "the source had removed this WAL")
            return Granted(stream, later, slot.restart_lsn or Lsn(0))
        raise error
