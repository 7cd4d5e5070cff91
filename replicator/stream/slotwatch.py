"""Watching our slot: how much WAL the source keeps for it, what is done about that, and what status says (promise 9).

Owns the looks and the policy's choice; the governor judges them. It lets go of what one store has and asks the receiver
to give the slot up; only where no connection of ours holds the slot does it change it itself. A lost slot ends the
stream, and the receiver deals with that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event

from replicator.core.lsn import Lsn
from replicator.errors import AlreadyExists, HostLacks, Interrupted, ReplicatorError
from replicator.postgres.query import SlotHealth, SqlConnection
from replicator.postgres.sqlstate import CANNOT_CONNECT_NOW
from replicator.spool import Spool
from replicator.stream.board import Board
from replicator.stream.governor import URGENT, Governor, Level, Look, Outlook
from replicator.stream.release import release
from replicator.stream.roomwords import choice_problem, room_problem
from replicator.stream.statistics import Problem

#: Of the disk of pg_wal this stays free for the source, at most so many bytes.
_RESERVED_SHARE, _RESERVED = 0.1, 2**30
#: While the slot is in danger the spool lets go of what one store has down to this share of its limit.
_SHED_TO = 0.5


class SlotWatcher:
    """One per stream. `sql` opens a SQL session on the primary; `may_give_up`: `init` made the slot."""

    def __init__(self, board: Board, sql: Callable[[], SqlConnection], *, may_give_up: Callable[[], bool]) -> None:
        self._board = board
        self._sql = sql
        self._may_give_up = may_give_up
        self._governor: Governor | None = None
        self._replaced = 0

    def run(self, stop: Event) -> None:
        """Look until `stop` is set, more often while not all is well."""
        source = self._board.source
        while not stop.is_set():
            try:
                self._look()
            except Interrupted:
                if not stop.is_set():
                    raise
            except ReplicatorError as error:
                # The receiver says what is wrong with the source; here it only means: nothing is known now.
                source.wal_status = source.safe_wal_bytes = None
                source.awaited = True
                source.closing = error.context.get("sqlstate") == CANNOT_CONNECT_NOW
                self._unknown()
            self._board.nap(stop, self._pause())

    def _pause(self) -> float:
        """Seconds to the next look: fewer when the slot begins to keep WAL, or its end is a few looks away."""
        usual, outlook = self._board.settings.slot_look, self._board.source.outlook
        if outlook is None or outlook.left is None:
            return usual
        soon = outlook.seconds is None or outlook.seconds < usual / URGENT
        urgent = outlook.level > Level.WELL or self._board.source.back_pressure or soon
        return usual * (URGENT if urgent else 1.0)

    def _unknown(self) -> None:
        """Nothing can be said of the room that is left."""
        self._board.source.outlook = None
        self._board.requests.give_up = False
        self._board.problem("slot room", None)
        if self._governor is not None:
            self._governor.forget()

    def _look(self) -> None:
        name = self._board.settings.slot
        seen = self._board.given_up.count
        with self._sql() as sql:
            health = sql.slot_state(name)
            source = self._board.source
            source.closing = False
            source.awaited = source.host != sql.host or sql.commits_wait_for(name)
            source.wal_status = health.wal_status if health else None
            source.safe_wal_bytes = health.safe_wal_size if health else None
            self._board.problem("slot", _status_problem(name, source.wal_status))
            self._told()
            spool = self._board.spool
            # Another host of conninfo may be a former primary that came back: its slot says nothing of our stream.
            ours = source.state != "foreign" and source.host in {None, sql.host}
            ours = ours and spool is not None and sql.system_id() == spool.system_id
            if health is None or health.restart_lsn is None or spool is None or not ours:
                self._unknown()
                return
            outlook = self._judge(sql, health.restart_lsn, health.safe_wal_size, spool, seen)
            source.outlook = outlook
            self._act(sql, health, outlook, seen)

    def _told(self) -> None:
        """That the slot was given up, or lost, is said until the stream is past the place, or has a gap there."""
        given_up, spool = self._board.given_up, self._board.spool
        if given_up.lsn is not None and not given_up.pending and spool is not None:
            gap = any(lost.end >= given_up.lsn.floor(spool.segment_size) for lost in self._board.gaps)
            if gap or spool.received.lsn >= given_up.lsn:
                self._board.problem("given up", None)

    def _judge(self, sql: SqlConnection, restart: Lsn, safe: int | None, spool: Spool, seen: int) -> Outlook:
        settings = self._board.settings
        if self._governor is None:
            size = spool.segment_size
            self._governor = Governor(settings.slot_limit, segment_size=size, pace=settings.slot_look)
        if seen != self._replaced:
            self._governor.forget()
            self._replaced = seen
        return self._governor.look(
            Look(
                at=self._board.clock.monotonic(),
                wal_end=sql.wal_end(),
                restart=restart,
                redo=sql.redo(),
                safe=safe,
                disk=_room_on_disk(settings.pg_wal),
                session=self._board.source.sessions,
            )
        )

    def _act(self, sql: SqlConnection, health: SlotHealth, outlook: Outlook, seen: int) -> None:
        """What the level calls for, and what status says of it."""
        settings, problem = self._board.settings, room_problem(self._board.settings.slot, outlook)
        if outlook.level >= Level.SHED:
            self._shed()
        if outlook.level is not Level.CHOOSE:
            self._board.requests.give_up = False
        elif settings.protect == "data" or not self._may_give_up():
            problem = choice_problem(settings.slot, outlook, protect=settings.protect)
        elif self._board.requests.give_up and not health.active:
            self._replace(sql)  # the receiver was asked at an earlier look, and is not there to do it
        else:
            self._board.ask_to_give_up(seen, sql.host)
        self._board.problem("slot room", problem)

    def _shed(self) -> None:
        try:
            release(self._board, pressing=True, share=_SHED_TO)
            self._board.problem("shed", None)
        except HostLacks as error:
            self._board.problem("shed", error)

    def _replace(self, sql: SqlConnection) -> None:
        """Another slot in the place of ours. When it is taken meanwhile, the next look decides."""
        name = self._board.settings.slot
        self._board.steps("before give up")
        sql.drop_slot(name)
        self._board.steps("between drop and create")
        with suppress(AlreadyExists):
            sql.create_slot(name)
        health = sql.slot_state(name)
        self._board.replaced("given up", health.restart_lsn if health else None)
        self._board.steps("after give up")


def _status_problem(name: str, wal_status: str | None) -> Problem | None:
    if wal_status == "unreserved":
        return Problem(
            5,
            f"the source may soon remove WAL that slot {name} still needs",
            "Raise max_slot_wal_keep_size on the source, or look why the stream is behind.",
        )
    if wal_status == "lost":
        return Problem(4, f"slot {name} is lost: the source removed WAL that was not received")
    return None


def _room_on_disk(pg_wal: Path | None) -> int | None:
    """What the disk of `pg_wal` can take; None where it can't be seen."""
    if pg_wal is None:
        return None
    try:
        found = os.statvfs(pg_wal)
    except OSError:
        return None
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return int(free - min(_RESERVED_SHARE * total, _RESERVED))
