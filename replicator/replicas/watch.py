"""Asking replicas how they are, each in a worker of its own, so that a slow one holds up no other.

Owns what was last seen. It changes nothing on a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock

from replicator.errors import Interrupted, ReplicatorError
from replicator.policy import ReplicaPolicy
from replicator.postgres.query import SqlConnection
from replicator.postgres.standby import standby_facts
from replicator.replicas.health import Seen
from replicator.tolerance import Clock

EVERY_S = 5.0
_TICK_S = 0.5


def ask(policy: ReplicaPolicy, connect: Callable[[str], SqlConnection]) -> Seen:
    """Ask one replica now. Raises Interrupted alone: every other failure is what was seen."""
    made = _is_there(policy.data_directory) if policy.host is None else None
    try:
        with connect(policy.name) as sql:
            return Seen(standby_facts(sql), made=made)
    except Interrupted:
        raise
    except ReplicatorError as error:
        return Seen(error=error, made=made)


def _is_there(path: Path) -> bool | None:
    try:
        return path.exists()
    except OSError:  # not ours to look at
        return None


class ReplicaWatch:
    """The physical replicas of one policy. `run` is a replica's worker; `latest` may be called from any thread."""

    def __init__(
        self, replicas: Sequence[ReplicaPolicy], connect: Callable[[str], SqlConnection], clock: Clock
    ) -> None:
        self.replicas = tuple(replica for replica in replicas if replica.kind == "physical")
        self._connect = connect
        self._clock = clock
        self._lock = Lock()
        self._seen: dict[str, Seen] = {}

    def run(self, replica: ReplicaPolicy, stop: Event) -> None:
        """Ask it again and again until `stop` is set."""
        while not stop.is_set():
            seen = ask(replica, self._connect)
            with self._lock:
                self._seen[replica.name] = seen
            due = self._clock.monotonic() + EVERY_S
            while self._clock.monotonic() < due:
                if self._clock.wait(stop, _TICK_S):
                    return

    def latest(self) -> Mapping[str, Seen]:
        """What was last seen of each that was asked."""
        with self._lock:
            return dict(self._seen)
