"""The daemon: all clusters of this host under one supervisor, from start to an orderly end.

Owns the main thread. It answers for the HTTP interface from memory, and serves none itself: services are added.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from replicator import __version__
from replicator.compose import Cluster
from replicator.daemon import events
from replicator.daemon.cluster import ClusterNode
from replicator.daemon.fleet import Fleet
from replicator.daemon.log import get_logger
from replicator.daemon.reload import Reload, Reloader
from replicator.daemon.scheduler import Scheduler
from replicator.daemon.signals import Signals, notify
from replicator.daemon.supervisor import Run, Supervisor
from replicator.status import metrics
from replicator.status.model import ClusterStatus, Status
from replicator.tolerance import Clock, Deadline

#: How long the end may take: for shipping what was received, and for all threads after that.
FLUSH_S, JOIN_S = 20.0, 10.0
_TICK_S = 0.5
_LIVE_S = 10.0
#: A snapshot taken a moment ago shows in the status; a store that does not answer must not hold it up.
_FRESH_S = 2.0


class Daemon:
    """Build it, add services, `run` it in the main thread. `command` names a cluster's snapshot child, `verify` the one
    that verifies, `mirror` the one that mirrors, `prune` the one that prunes; without `reload` SIGHUP does
    nothing.
    """

    def __init__(
        self,
        clusters: Sequence[Cluster],
        command: Callable[[str], Sequence[str]],
        clock: Clock,
        *,
        verify: Callable[[str], Sequence[str]] | None = None,
        mirror: Callable[[str], Sequence[str]] | None = None,
        prune: Callable[[str], Sequence[str]] | None = None,
        reload: Reload | None = None,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._clock = clock
        self._flush_s = flush_s
        self._bug = Event()
        self._signals: Signals | None = None
        self._supervisor = Supervisor(clock, on_bug=self._on_bug)
        self._services = self._supervisor.group("")
        self._reloading = self._supervisor.group("")
        self._scheduler = Scheduler()
        self._fleet = Fleet(
            self._supervisor, self._scheduler, command, clock, verify=verify, mirror=mirror, prune=prune
        )
        for cluster in clusters:
            self._fleet.add(cluster)
        self._reloader = (
            Reloader(self._fleet, reload, clock, flush_s=flush_s, join_s=JOIN_S + 5.0) if reload is not None else None
        )
        self._pending: list[tuple[str, Run]] = []
        self._log = get_logger(__name__)
        self._since = clock.now()
        self._beat = clock.monotonic()

    def add_service(self, name: str, run: Run) -> None:
        """A worker of the daemon's own, which outlives the clusters' by the flush."""
        self._pending.append((name, run))

    def live(self) -> bool:
        """Whether the supervisor turns."""
        return self._clock.monotonic() - self._beat < _LIVE_S and not self._bug.is_set()

    def ready(self) -> dict[str, bool]:
        """By cluster: whether it streams and a store takes."""
        return {node.name: node.ready() for node in self._fleet.nodes}

    def _status(self) -> Status:
        return Status({node.name: self._status_of(node) for node in self._fleet.nodes}, self._since)

    def _status_of(self, node: ClusterNode) -> ClusterStatus:
        status = node.status()
        problems = self._reloader.problems(node.name) if self._reloader is not None else ()
        return replace(status, problems=(*status.problems, *problems))

    def status(self) -> dict[str, Any]:
        """As `status --json`. What the stores hold is read anew for whoever asks, as far as that takes a moment."""
        deadline = Deadline(self._clock, _FRESH_S)
        waits = [node.freshen() for node in self._fleet.nodes]  # all are asked before one is waited for
        for wait in waits:
            wait(deadline)
        return self._status().as_json()

    def metrics(self) -> tuple[str, bytes]:
        """Content type and body for Prometheus."""
        return metrics.CONTENT_TYPE, metrics.render(self._status(), self._clock.now())

    def lock(self) -> None:
        """Be the only daemon of these clusters on this host, until `run` ends. Raises Conflict, HostLacks."""
        for node in self._fleet.nodes:
            node.lock()

    def run(self) -> int:
        """Run until a signal or a bug; the exit code. Call `lock` before."""
        try:
            with Signals() as signals:
                self._signals = signals
                self._start()
                while not signals.asked and not self._bug.is_set():
                    self._turn(signals)
                self._end(signals)
                self._signals = None
        finally:
            for node in self._fleet.nodes:
                node.unlock()
        code = 1 if self._bug.is_set() else 0
        self._log.info(events.DAEMON_STOPPED, exit_code=code)
        return code

    def _start(self) -> None:
        names = [node.name for node in self._fleet.nodes]
        self._log.info(events.DAEMON_STARTED, version=__version__, pid=os.getpid(), clusters=names)
        for name, run in self._pending:
            self._services.start(name, run)
        for node in self._fleet.nodes:
            self._fleet.start(node)
        self._scheduler.start()
        if self._reloader is not None:
            self._reloading.start("reload", self._reloader.run)
        notify("READY=1")

    def _turn(self, signals: Signals) -> None:
        """One turn of the supervisor."""
        self._beat = self._clock.monotonic()
        self._supervisor.states()
        if signals.take_reload() and self._reloader is not None:
            self._reloader.ask()
        signals.wait(_TICK_S)

    def _on_bug(self) -> None:
        self._bug.set()
        signals = self._signals
        if signals is not None:
            signals.wake()

    def _end(self, signals: Signals) -> None:
        """Children are asked to end while what was received is shipped; a second signal cuts both short."""
        self._log.info(events.DAEMON_STOPPING, reason=signals.last or "bug")
        notify("STOPPING=1")
        self._scheduler.stop()
        self._reloading.stop.set()  # from now on no cluster begins or ends but here
        reloading = Deadline(self._clock, JOIN_S)
        while self._reloading.running() and not reloading.over and signals.asked < 2:
            self._turn(signals)

        def hurried() -> bool:
            self._turn(signals)
            return signals.asked >= 2

        self._fleet.drain(self._fleet.nodes, Deadline(self._clock, self._flush_s), hurried)
        for node in self._fleet.nodes:
            node.interrupt()
        late = self._supervisor.stop(Deadline(self._clock, JOIN_S if signals.asked < 2 else 2.0))
        if late:
            self._log.warning(events.DAEMON_STOPPING, reason="deadline", late=list(late))
