"""A base backup read from a replica instead of the primary, over the network.

Owns when that may be done: the replica follows, and the stores hold WAL without a hole from where its backup begins. A
standby's backup begins at its last restartpoint, which may lie before a gap, or before the stream's first byte; then it
would never be complete. It ends where the standby had written its pages to, which its pg_control tells; the manifest
waits for that WAL as for any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn
from replicator.core.progress import Progress
from replicator.errors import Interrupted, SourceUnavailable
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.following import Following, Lagging, NotFollowing, Server, confirm_following
from replicator.snapshot.backup import NetworkSource, network_source
from replicator.snapshot.leftout import refuse_left_out
from replicator.snapshot.participants import Participants
from replicator.snapshot.source import Asked, Ended, Intake, Totals
from replicator.snapshot.wal import StoreWal, WalNeed
from replicator.store.protocol import Store
from replicator.tolerance import Clock, Deadline

_PAUSE_S = 0.5
_FIRST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Standby:
    """A replica to read from. `max_lag` in bytes of WAL. `lag_wait_s`: how long it may take to come that near;
    `wal_wait_s`: how long the stores may take to show whether they hold WAL from where its backup begins.
    """

    name: str
    server: Server
    max_lag: int
    lag_wait_s: float = 30.0
    wal_wait_s: float = 10.0


@dataclass(frozen=True)
class Stored:
    """Where the snapshot goes, and how to wait for what is there."""

    participants: Participants
    system_id: int
    segment_size: int
    clock: Clock
    stop: Event


@contextmanager
def standby_source(standby: Standby, primary: Server, asked: Asked, stored: Stored) -> Iterator[StandbySource]:
    """BASE_BACKUP on the replica. Raises NotFollowing, SourceUnavailable and its kinds, StoreUnavailable."""
    following = _confirmed(standby, primary, stored)
    with standby.server.sql() as sql:
        refuse_left_out(sql)
    with standby.server.connect() as connection, network_source(connection, asked) as source:
        if source.timeline != following.timeline:
            raise NotFollowing(
                f"the backup of replica {standby.name} is on timeline {source.timeline}, the primary on"
                f" {following.timeline}"
            )
        _no_hole(standby, stored, following, source.start_lsn)
        yield StandbySource(standby.name, connection, source)


class StandbySource:
    """One that runs."""

    def __init__(self, name: str, connection: ReplicationConnection, source: NetworkSource) -> None:
        self._name = name
        self._connection = connection
        self._source = source

    def read(self, intake: Intake) -> tuple[Totals, Ended]:
        """As any source. A server that is promoted meanwhile, or replays WAL that was written without
        full_page_writes, refuses at the end.
        """
        intake.report(Progress("snapshot", "source", facts={"replica": self._name, "host": self._connection.host}))
        try:
            return self._source.read(intake)
        except SourceUnavailable as error:
            hint = "Take the snapshot again: it comes from the primary where the replica can not be read."
            raise type(error)(f"replica {self._name}: {error.message}", hint=hint, **error.context) from error


def _confirmed(standby: Standby, primary: Server, stored: Stored) -> Following:
    """That it follows; one that is behind is given some time."""
    deadline = Deadline(stored.clock, standby.lag_wait_s)
    while True:
        try:
            return confirm_following(standby.name, standby.server, primary, standby.max_lag)
        except Lagging:
            if deadline.over:
                raise
        if stored.clock.wait(stored.stop, _PAUSE_S):
            raise Interrupted("stopped while waiting for the replica")


def _no_hole(standby: Standby, stored: Stored, following: Following, start: Lsn) -> None:
    """Raise NotFollowing when a store lacks WAL that the snapshot needs and has some after it. What is on its way may
    come out of order, so a hole is looked at for some time before it is believed.
    """
    end = max(following.primary_end, Lsn(start + 1))
    need = WalNeed(stored.system_id, stored.segment_size, LsnRange(following.timeline, start, end))
    seen = {name: StoreWal(need) for name in stored.participants.active}
    deadline, pause = Deadline(stored.clock, standby.wal_wait_s), _FIRST_PAUSE_S

    def look(name: str, store: Store) -> bool:
        return seen[name].complete or seen[name].look(store)

    while True:
        stored.participants.each(look, what="looking for the WAL of the replica's backup")
        pending = [name for name in sorted(stored.participants.active) if not seen[name].complete]
        if not pending:
            return
        if deadline.over:
            for name in pending:
                if seen[name].hole:
                    raise NotFollowing(
                        f"the backup of replica {standby.name} begins at {start}, and store {name} lacks WAL after"
                        f" {seen[name].reach}",
                        hint="It may be read again once it has replayed a later checkpoint of the primary.",
                    )
            return
        if stored.clock.wait(stored.stop, pause):
            raise Interrupted("stopped while looking for WAL")
        pause = min(_PAUSE_S, pause * 1.5)
