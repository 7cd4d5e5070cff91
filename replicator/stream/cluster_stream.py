"""The whole stream of one cluster: its workers, and what it says of itself.

Owns no thread: a supervisor runs the workers and gives each a stop event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from replicator.core.lsn import Lsn
from replicator.core.windows import Gap
from replicator.postgres.hosts import Hosts
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.spool import Position
from replicator.spool.position import START
from replicator.store import StoreStatistics
from replicator.stream.board import Board, StoreView
from replicator.stream.leftover import LeftOvers
from replicator.stream.receiver import CHANGING, Connect, Receiver
from replicator.stream.sealer import Sealer
from replicator.stream.settings import Steps, StreamSettings, no_step
from replicator.stream.shipper import Shipper
from replicator.stream.slotwatch import SlotWatcher
from replicator.stream.statistics import StoreStreamStatistics, StreamStatistics
from replicator.tolerance import Clock, Deadline

_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Worker:
    """Something to run in a thread of its own until its event is set; it may be run again after an error."""

    name: str
    run: Callable[[Event], None]


class ClusterStream:
    """`spool_directory` is the cluster's own. `connect` opens a replication connection to the primary, `sql` a session
    (None: the slot isn't watched). `may_create_slot` is asked at each connection: a slot is given up, and a lost one
    made again, only if `init` made it. `system_id`: the source's, where it is known. `store_statistics` tells breakers
    and retries by store. `hosts` hears which of several streams, and which is not ours.

    Raises HostLacks when the spool can't be used.
    """

    def __init__(
        self,
        repository: Repository,
        spool_directory: Path,
        settings: StreamSettings,
        *,
        connect: Connect,
        clock: Clock,
        sql: Callable[[], SqlConnection] | None = None,
        system_id: int | None = None,
        hosts: Hosts | None = None,
        may_create_slot: Callable[[], bool] = lambda: False,
        store_statistics: Mapping[str, Callable[[], StoreStatistics]] | None = None,
        steps: Steps = no_step,
    ) -> None:
        self._board = Board(repository, spool_directory, settings, clock, steps)
        self._clock = clock
        self._store_statistics = store_statistics or {}
        self._receiver = Receiver(self._board, connect, may_create_slot=may_create_slot, hosts=hosts)
        self._sealer = Sealer(self._board)
        self._shippers = {name: Shipper(self._board, name) for name in repository.stores}
        self._watcher = SlotWatcher(self._board, sql, may_give_up=may_create_slot) if sql is not None else None
        self._left_overs = LeftOvers(self._board, system_id)
        spooled = [found for found in self._board.spooled() if system_id in (None, found)]
        if spooled:
            # What an earlier process left goes to the stores even while the source is away.
            self._board.open_spool(spooled[-1])

    def workers(self) -> tuple[Worker, ...]:
        """Receiver, sealer, one shipper per store, what is left of former clusters, slot watcher."""
        workers = [Worker("receiver", self._receiver.run), Worker("sealer", self._sealer.run)]
        workers.append(Worker("left overs", self._left_overs.run))
        workers += [Worker(f"shipper {name}", shipper.run) for name, shipper in self._shippers.items()]
        if self._watcher is not None:
            workers.append(Worker("slot watcher", self._watcher.run))
        return tuple(workers)

    @property
    def successor(self) -> int | None:
        """The system id of a source that was accepted in the place of this stream's: begin anew with it. None: there is
        none.
        """
        board, found = self._board, self._board.source.system_id
        if found is None or board.spool is None or board.spool.system_id == found:
            return None
        return found if board.accepted() == found or board.source.state == CHANGING else None

    def cut(self, lsn: Lsn) -> None:
        """Ask that WAL up to `lsn` becomes a piece as soon as it is here, without waiting its second."""
        self._board.requests.cut = max(self._board.requests.cut, lsn)
        self._board.sealer_bell.ring()

    def flush(self, deadline: Deadline) -> bool:
        """For a shutdown: stop reading, make everything durable, cut what is left and ship it, until `deadline`;
        whether all of it reached every store. The workers must still run, and are stopped afterwards.
        """
        self._board.requests.draining = True
        self._board.ring()
        pause = Event()
        while not self._shipped() and deadline.remaining() > 0:
            self._clock.wait(pause, min(_POLL, deadline.remaining()))
        return self._shipped()

    def _shipped(self) -> bool:
        spool = self._board.spool
        if spool is None:
            return True
        return spool.flushed == spool.received and all(
            view.durable >= spool.received for view in self._board.stores.values()
        )

    def statistics(self) -> StreamStatistics:
        """What is true now."""
        board, source, spool = self._board, self._board.source, self._board.spool
        received = spool.received if spool else START
        acknowledged = self._acknowledged()
        safe = self._safe()
        return StreamStatistics(
            state=source.state,
            host=source.host,
            timeline=source.timeline or received.timeline or None,
            system_id=spool.system_id if spool else None,
            received_lsn=_lsn(received),
            flushed_lsn=_lsn(spool.flushed) if spool else None,
            acknowledged_lsn=acknowledged,
            only_in_spool_bytes=(max(0, (acknowledged or 0) - safe.lsn) if safe < received else 0)
            + self._left_overs.only_here,
            spool_bytes=(spool.usage if spool else 0) + self._left_overs.bytes,
            back_pressure=source.back_pressure,
            wal_status=source.wal_status,
            awaited=source.awaited,
            safe_wal_bytes=source.safe_wal_bytes,
            server_lsn=source.server_lsn,
            stores={name: self._store(name, view, received) for name, view in board.stores.items()},
            gaps=tuple(Gap(gap.timeline, gap.start, gap.end, open=True) for gap in board.gaps),
            problems=tuple(board.problems.values()),
            outlook=source.outlook,
        )

    def _safe(self) -> Position:
        """What some store has; while nothing is known of any, the spool's first byte."""
        spool, furthest = self._board.spool, self._board.furthest()
        if furthest == START and spool is not None and (stretches := spool.stretches()):
            return Position(*stretches[0][:2])
        return furthest

    def _acknowledged(self) -> Lsn | None:
        """What the source was told; before it was told anything, what a former process may have told it."""
        if self._board.source.acknowledged is not None:
            return self._board.source.acknowledged
        return _lsn(self._board.acknowledgeable())

    def _store(self, name: str, view: StoreView, received: Position) -> StoreStreamStatistics:
        known = view.holdings is not None and view.durable != START
        behind = known and view.durable < received
        spool = self._board.spool
        arrived = spool.times.arrival_after(view.durable) if spool and behind else None
        statistics = self._store_statistics.get(name)
        now = statistics() if statistics is not None else None
        return StoreStreamStatistics(
            state=view.state,
            breaker=str(now.breaker.state) if now else "closed",
            durable_lsn=view.durable.lsn if known else None,
            lag_bytes=max(0, received.lsn - view.durable.lsn) if known else None,
            lag_s=None if not known else 0.0 if arrived is None else max(0.0, self._clock.monotonic() - arrived),
            retries=now.retry.retries if now else 0,
        )


def _lsn(position: Position) -> Lsn | None:
    return None if position == START else position.lsn
