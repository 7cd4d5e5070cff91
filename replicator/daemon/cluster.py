"""One cluster in the daemon: its lock, its stream, its views of the stores, its snapshots. One group of threads.

Owns what runs for a cluster and in which order. A cluster that can't be opened is red and tried again; the others
don't notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from threading import Event, Lock

from replicator.compose import Cluster
from replicator.core.lsn import Lsn
from replicator.core.windows import Gap
from replicator.daemon import events
from replicator.daemon.log import get_logger
from replicator.daemon.mirroring import MirrorKeeper
from replicator.daemon.narrator import Narrator
from replicator.daemon.pruning import PruneKeeper
from replicator.daemon.snapshots import SnapshotKeeper
from replicator.daemon.supervisor import Supervisor
from replicator.daemon.verification import VerificationKeeper
from replicator.daemon.views import Views
from replicator.policy import Schedule
from replicator.repository.repository import Repository
from replicator.status.catalogs import StoreView
from replicator.status.gather import STREAMING, Failure, Known, cluster_status, state_of_view
from replicator.status.model import ClusterStatus
from replicator.stream import ClusterStream, StreamStatistics
from replicator.tolerance import Deadline, only_one

_TICK_S = 0.5


class ClusterNode:
    """A cluster and its workers. `command` is the child that takes a snapshot, `verify` the one that verifies, `mirror`
    the one that mirrors, `prune` the one that prunes.
    `system_id`: the cluster that the source is now known to be; None: the spool and the source say.
    """

    def __init__(
        self,
        cluster: Cluster,
        supervisor: Supervisor,
        command: Sequence[str],
        *,
        system_id: int | None = None,
        verify: Sequence[str] = (),
        mirror: Sequence[str] = (),
        prune: Sequence[str] = (),
    ) -> None:
        self.cluster = cluster
        self._system_id = system_id
        self._first_asked = False
        self.name = cluster.name
        self._clock = cluster.clock
        self._supervisor = supervisor
        self._workers = supervisor.group(cluster.name)
        self._tasks = supervisor.group(cluster.name)
        self._log = get_logger(__name__).bind(cluster=cluster.name)
        self._alone = ExitStack()
        self._lock = Lock()
        self._stream: ClusterStream | None = None
        self._views: Views | None = None
        self._replicas = cluster.replica_watch()
        schedule = cluster.policy.snapshot.schedule
        self.schedule = Schedule.parse(schedule) if schedule is not None else None
        self.snapshots = SnapshotKeeper(
            self.name, self.schedule, command, self._clock, self, self.views, self._refresh_views
        )
        proving = cluster.policy.verify.schedule if cluster.policy.verify is not None and verify else None
        self.verification = VerificationKeeper(
            self.name,
            Schedule.parse(proving) if proving is not None else None,
            verify,
            self._clock,
            self.views,
            self._refresh_views,
        )
        self.mirroring = MirrorKeeper(
            self.name,
            mirror if len(cluster.policy.stores) > 1 else (),
            self._clock,
            lambda: {name: store.breaker for name, store in cluster.store_statistics().items()},
            self.views,
            lambda: self.snapshots.task() is not None,
            self._refresh_views,
        )
        retention = cluster.policy.retention
        self.pruning = PruneKeeper(
            self.name,
            prune if retention is not None and retention.prune == "daemon" else (),
            self._clock,
            self.views,
            self._others_at_work,
            self._refresh_views,
        )

    def _others_at_work(self) -> bool:
        tasks = (self.snapshots.task(), self.verification.task(), self.mirroring.task())
        return any(task is not None for task in tasks)

    def lock(self) -> None:
        """Be the only daemon of this cluster on this host. Raises Conflict, HostLacks."""
        hint = f"Stop it first; `replicator status {self.name}` asks it how it is."
        path = self.cluster.state_directory / "daemon.lock"
        self._alone.enter_context(only_one(path, f"daemon runs {self.name}", hint=hint))

    def unlock(self) -> None:
        """Let go of the lock."""
        self._alone.close()

    def inherit(self, former: ClusterNode) -> None:
        """Take over the lock of a node that has ended, and the snapshot that it still owed."""
        self._alone = former._alone.pop_all()
        if (owed := former.snapshots.owed()) is not None:
            self.snapshots.request(owed)

    def start(self) -> None:
        """Start the worker that opens the cluster and then starts the others, and those that ask its replicas."""
        self._workers.start("open", self._open)
        for replica in self._replicas.replicas:
            self._workers.start(f"replica {replica.name}", partial(self._replicas.run, replica))

    def _open(self, _stop: Event) -> None:
        # Without passphrase or identity: the daemon seals and lists, and never needs to open.
        repository = self.cluster.repository(secrets=False, write=True)
        stream = self.cluster.stream(repository, system_id=self._system_id)
        with self._lock:
            self._stream = stream
            self._views = views = Views(repository, self._clock)
        self._log.info(events.CLUSTER_OPENED, repository=repository.id.hex())
        self._start_workers(repository, stream, views)

    def _start_workers(self, repository: Repository, stream: ClusterStream, views: Views) -> None:
        for worker in stream.workers():
            self._workers.start(worker.name, worker.run)
        for name in repository.stores:
            self._workers.start(f"catalog {name}", partial(views.read, name))
        self._workers.start("narrator", partial(self._narrate, stream))
        self._tasks.start("snapshots", self.snapshots.run)
        self._tasks.start("verification", self.verification.run)
        self._tasks.start("mirroring", self.mirroring.run)
        self._tasks.start("pruning", self.pruning.run)

    def _narrate(self, stream: ClusterStream, stop: Event) -> None:
        narrator = Narrator(self._log)
        while not self._clock.wait(stop, _TICK_S):
            now = stream.statistics()
            narrator.tell(now)
            self._first_of(now)

    def _first_of(self, now: StreamStatistics) -> None:
        """A cluster that took another's place has no snapshot yet, and nothing of it can be restored: take one now."""
        if self._first_asked or now.state != STREAMING:
            return
        taken = [snapshot.system_id for view in self.views().values() for snapshot in view.snapshots]
        if taken and now.system_id not in taken:
            self._first_asked = True
            self.snapshots.request("system")

    def _refresh_views(self) -> None:
        if self._views is not None:
            self._views.stale()

    def views(self) -> Mapping[str, StoreView]:
        """What the stores hold, as last read."""
        with self._lock:
            return self._views.latest() if self._views is not None else {}

    def freshen(self) -> Callable[[Deadline], None]:
        """Ask that what the stores hold be read again; what is returned waits for it."""
        return self._views.freshen() if self._views is not None else lambda _deadline: None

    @property
    def successor(self) -> int | None:
        """The system id that the stream must begin anew with; None: it follows the right one."""
        stream = self._stream
        return stream.successor if stream is not None else None

    def streaming(self) -> bool:
        """Whether WAL arrives now."""
        statistics = self._statistics()
        return statistics is not None and statistics.state == STREAMING

    def strained(self) -> bool:
        """Whether the slot is in danger, or the spool is full."""
        statistics = self._statistics()
        if statistics is None:
            return False
        return statistics.back_pressure or (statistics.outlook is not None and statistics.outlook.strained)

    def gaps(self) -> frozenset[Gap]:
        """Gaps that the stream met since it started."""
        statistics = self._statistics()
        return frozenset(statistics.gaps) if statistics is not None else frozenset()

    def cut(self, lsn: Lsn) -> None:
        """Ask the stream for a piece that ends at or after `lsn`."""
        stream = self._stream
        if stream is not None:
            stream.cut(lsn)

    def ready(self) -> bool:
        """Whether it streams and at least one store takes."""
        statistics = self._statistics()
        if statistics is None or statistics.state != STREAMING:
            return False
        views = self.views()
        return any(
            store.state == "ok" and state_of_view(views.get(name)) == "ok" for name, store in statistics.stores.items()
        )

    def _statistics(self) -> StreamStatistics | None:
        stream = self._stream
        return stream.statistics() if stream is not None else None

    def status(self) -> ClusterStatus:
        """How it stands."""
        stores = self.cluster.store_statistics() if self._stream is not None else {}
        tasks = (self.snapshots.task(), self.verification.task(), self.mirroring.task(), self.pruning.task())
        problems = (self.snapshots.problem(), self.mirroring.problem(), self.pruning.problem())
        failures = tuple(
            Failure(f"{self.name}, {state.name}", state.error)
            for state in (*self._workers.states(), *self._tasks.states())
            if state.error is not None
        )
        return cluster_status(
            Known(
                policy=self.cluster.policy,
                now=self._clock.now(),
                views=self.views(),
                stream=self._statistics(),
                breakers={name: store.breaker.state.value for name, store in stores.items()},
                retries={name: store.retry.retries for name, store in stores.items()},
                tasks=tuple(task for task in tasks if task is not None),
                failures=failures,
                replicas=self._replicas.latest(),
                task_problems=(*(problem for problem in problems if problem), *self.verification.problems()),
            )
        )

    def stop_tasks(self) -> None:
        """Ask children to end; returns at once."""
        self._tasks.stop.set()

    def flush(self, deadline: Deadline, _stop: Event) -> None:
        """Ship what was received, as far as the deadline allows."""
        stream = self._stream
        if stream is None or self._workers.stop.is_set():
            return
        stream.flush(deadline)
        self._log.info(events.FLUSH_ENDED, only_in_spool_bytes=stream.statistics().only_in_spool_bytes)

    def interrupt(self) -> None:
        """End every wait of its workers, now."""
        self.cluster.interrupt.set()
        self._workers.stop.set()
        self._tasks.stop.set()

    def join(self, deadline: Deadline) -> tuple[str, ...]:
        """After `interrupt`: wait for its workers. The names of those that did not end; without any it is gone."""
        late = (*self._workers.join(deadline), *self._tasks.join(deadline))
        if not late:
            for group in (self._workers, self._tasks):
                self._supervisor.forget(group)
        return late
