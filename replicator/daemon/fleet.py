"""All clusters of this daemon, and how single ones begin and end while the others run.

Owns the set of nodes, which is replaced whole, so that any thread may read it at any time. Two threads change it, never
both at once: the main thread at the beginning and the end, the reloader between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Event

from replicator.compose import Cluster
from replicator.core.moment import rfc3339
from replicator.daemon import events
from replicator.daemon.cluster import ClusterNode
from replicator.daemon.log import get_logger
from replicator.daemon.scheduler import Scheduler
from replicator.daemon.snapshots import KIND
from replicator.daemon.supervisor import Supervisor
from replicator.daemon.verification import KIND as VERIFY
from replicator.tolerance import Clock, Deadline

_TICK_S = 0.1


class Fleet:
    """`command` names a cluster's snapshot child, `verify` the one that verifies, `mirror` the one that mirrors,
    `prune` the one that prunes.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        scheduler: Scheduler,
        command: Callable[[str], Sequence[str]],
        clock: Clock,
        *,
        verify: Callable[[str], Sequence[str]] | None = None,
        mirror: Callable[[str], Sequence[str]] | None = None,
        prune: Callable[[str], Sequence[str]] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._scheduler = scheduler
        self._command = command
        self._verify = verify
        self._mirror = mirror
        self._prune = prune
        self._clock = clock
        self._log = get_logger(__name__)
        self.nodes: tuple[ClusterNode, ...] = ()

    def node(self, name: str) -> ClusterNode | None:
        """A cluster's node."""
        return next((node for node in self.nodes if node.name == name), None)

    def add(self, cluster: Cluster, *, system_id: int | None = None) -> ClusterNode:
        """A node in the place of the cluster's former one, or a new one. Not started."""
        verify = self._verify(cluster.name) if self._verify is not None else ()
        mirror = self._mirror(cluster.name) if self._mirror is not None else ()
        command = self._command(cluster.name)
        prune = self._prune(cluster.name) if self._prune is not None else ()
        made = ClusterNode(
            cluster, self._supervisor, command, system_id=system_id, verify=verify, mirror=mirror, prune=prune
        )
        kept = [node for node in self.nodes if node.name != cluster.name]
        self.nodes = tuple(sorted([*kept, made], key=lambda node: node.name))
        return made

    def drop(self, name: str) -> None:
        """A cluster that has ended, or never began, is no longer ours."""
        for node in self.nodes:
            if node.name == name:
                node.unlock()
                node.join(Deadline(self._clock, 0.0))  # so that the supervisor forgets its groups
        self.nodes = tuple(node for node in self.nodes if node.name != name)

    def start(self, node: ClusterNode) -> None:
        """Start a node's workers and its schedule."""
        node.start()
        if node.schedule is not None:
            enqueue = partial(node.snapshots.request, "schedule")
            self._scheduler.add(KIND, node.name, node.schedule, enqueue)
            due = node.schedule.next_after(self._clock.now())
            self._log.info(events.SCHEDULE_SET, cluster=node.name, schedule=node.schedule.text, next=rfc3339(due))
        if node.verification.schedule is not None:
            enqueue = partial(node.verification.request, "schedule")
            self._scheduler.add(VERIFY, node.name, node.verification.schedule, enqueue)

    def drain(self, nodes: Iterable[ClusterNode], deadline: Deadline, until: Callable[[], bool]) -> None:
        """Ask children to end and ship what was received, until `deadline` is over or `until` says so."""
        flushing = self._supervisor.group("")
        for node in nodes:
            self._scheduler.remove(KIND, node.name)
            self._scheduler.remove(VERIFY, node.name)
            node.stop_tasks()
            flushing.start(f"flush {node.name}", partial(node.flush, deadline))
        while flushing.running() and not deadline.over and not until():
            pass
        if not flushing.running():
            self._supervisor.forget(flushing)

    def end(self, names: Iterable[str], flush_s: float, join_s: float, stop: Event) -> tuple[str, ...]:
        """Drain and stop these clusters; the workers that did not end in time. Once `stop` is set nothing more is
        begun: the daemon itself ends then, and drains all.
        """
        nodes = [node for node in self.nodes if node.name in set(names)]
        if not nodes:
            return ()
        self.drain(nodes, Deadline(self._clock, flush_s), partial(self._clock.wait, stop, _TICK_S))
        if stop.is_set():
            return ()
        for node in nodes:
            node.interrupt()
        deadline = Deadline(self._clock, join_s)
        return tuple(late for node in nodes for late in node.join(deadline))
