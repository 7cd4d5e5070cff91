"""The status as values, its JSON, and the exit code it means. Pure.

Operators and tests bind to the keys: a key is never renamed, and what is not known is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from replicator.core.codes import code_of, exit_code_of
from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339
from replicator.errors import ReplicatorError

DAEMON_NOT_RUNNING = "daemon_not_running"
NOT_STREAMING = "not_streaming"
NO_SNAPSHOT = "no_snapshot"
OPEN_GAP = "open_gap"
WAL_CONFLICT = "wal_conflict"
TASK_FAILED = "task_failed"
POLICY_INVALID = "policy_invalid"
PROOF_OVERDUE = "proof_overdue"
REMARK = "remark"

_OWN_CODES = {
    DAEMON_NOT_RUNNING: 5,
    NOT_STREAMING: 5,
    NO_SNAPSHOT: 4,
    TASK_FAILED: 1,
    POLICY_INVALID: 2,
    PROOF_OVERDUE: 4,
    "replica_away": 5,
    "replica_lagging": 5,
    "replica_promoted": 8,
    REMARK: 0,
    "page_checksum": 4,
    "parent_unusable": 4,
    "mark_unusable": 4,
    "store_lacks_snapshot": 6,
    "object_damaged": 4,
    "object_missing": 4,
    "wal_missing": 4,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in one sentence, and what to do about it. `code` is stable."""

    code: str
    text: str
    hint: str = ""


def problem_of(error: ReplicatorError, prefix: str = "") -> Problem:
    """An error as a problem."""
    return Problem(code_of(error.type), f"{prefix}{error.message}", error.hint)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The primary as the stream sees it. `state` is `streaming`, or a word that says why not."""

    state: str | None = None
    host: str | None = None
    timeline: int | None = None
    lsn: Lsn | None = None
    wal_status: str | None = None
    safe_wal_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How far WAL has come on this host; bytes."""

    received_lsn: Lsn | None = None
    flushed_lsn: Lsn | None = None
    acknowledged_lsn: Lsn | None = None
    only_in_spool_bytes: int | None = None
    spool_bytes: int | None = None
    back_pressure: bool | None = None


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One store. `windows` and `gaps` are JSON values as everywhere; None when the store has not answered yet."""

    state: str | None = None
    breaker: str | None = None
    durable_lsn: Lsn | None = None
    lag_bytes: int | None = None
    lag_s: float | None = None
    windows: tuple[dict[str, Any], ...] | None = None
    gaps: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class SnapshotsStatus:
    """`last` is a label; `next` the time of the next scheduled one."""

    count: int | None = None
    last: str | None = None
    next: datetime | None = None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A child process at work."""

    kind: str
    since: datetime
    done: int = 0
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ProofStatus:
    """Since when the repository is proven by one kind of verification (None: never); `ok`: not longer ago than the
    policy's max_age.
    """

    time: datetime | None
    ok: bool


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica as it was last asked: `role` is standby or primary; `lag_bytes` is WAL that it has not replayed."""

    state: str | None = None
    role: str | None = None
    replay_lsn: Lsn | None = None
    lag_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One cluster. `retries` by store and `slot_room` (bytes and seconds until the slot is endangered) are for the
    metrics alone.
    """

    source: SourceStatus = SourceStatus()
    stream: StreamStatus = StreamStatus()
    stores: Mapping[str, StoreStatus] = field(default_factory=dict)
    snapshots: SnapshotsStatus = SnapshotsStatus()
    proofs: Mapping[str, ProofStatus] = field(default_factory=dict)
    replicas: Mapping[str, ReplicaStatus] = field(default_factory=dict)
    tasks: tuple[TaskStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    retries: Mapping[str, int] = field(default_factory=dict)
    slot_room: tuple[int | None, float | None] = (None, None)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: there may be remarks."""
        return all(problem.code == REMARK for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """The cluster's value in `status --json`. This version runs no replicas."""
        return {
            "ok": self.ok,
            "source": _plain(self.source),
            "stream": _plain(self.stream),
            "stores": {name: _plain(store) for name, store in self.stores.items()},
            "snapshots": _plain(self.snapshots),
            "proofs": {kind: _plain(proof) for kind, proof in self.proofs.items()},
            "replicas": {name: _plain(replica) for name, replica in self.replicas.items()},
            "tasks": [_plain(task) for task in self.tasks],
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Everything. `since` is None when no daemon answered."""

    clusters: Mapping[str, ClusterStatus]
    since: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """`status --json` and GET /status."""
        return {
            "ok": all(cluster.ok for cluster in self.clusters.values()),
            "daemon": {"running": self.since is not None, "since": rfc3339(self.since) if self.since else None},
            "clusters": {name: cluster.as_json() for name, cluster in self.clusters.items()},
        }


def exit_code(status: Mapping[str, Any]) -> int:
    """The exit code that a status means, from its JSON: it may come from a daemon."""
    problems = [problem for cluster in status["clusters"].values() for problem in cluster["problems"]]
    return exit_code_of((str(problem.get("code")) for problem in problems), _OWN_CODES)


def _plain(value: Any) -> dict[str, Any]:
    return {name: _json(item) for name, item in asdict(value).items()}


def _json(value: Any) -> Any:
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, tuple):
        return list(value)
    return value
