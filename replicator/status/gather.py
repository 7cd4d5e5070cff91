"""From what the parts say of themselves to a cluster's status. Pure: everything known is passed in.

Owns which facts are problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from replicator.core.codes import code_of
from replicator.errors import (
    Conflict,
    HostLacks,
    KeysError,
    NotFound,
    ObjectAbsent,
    ReplicatorError,
    SourceUnavailable,
    StoreDenied,
    StoreUnavailable,
    VerificationFailed,
)
from replicator.policy import Policy, Schedule
from replicator.replicas.health import Seen
from replicator.status import model
from replicator.status.catalogs import StoreView, labels, open_gaps
from replicator.status.model import (
    ClusterStatus,
    Problem,
    SnapshotsStatus,
    SourceStatus,
    StoreStatus,
    StreamStatus,
    TaskStatus,
)
from replicator.status.proofs import proof_problems, proofs
from replicator.status.replicas import replica_problems, replicas
from replicator.status.windows import gap_json
from replicator.stream import StoreStreamStatistics, StreamStatistics

STREAMING = "streaming"
#: The stream names its problems by exit code; 0 is only worth knowing.
_CODES = {0: model.REMARK} | {
    kind.exit_code: code_of(kind.__name__)
    for kind in (NotFound, VerificationFailed, SourceUnavailable, StoreUnavailable, KeysError, Conflict, HostLacks)
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker of the daemon, or a task, that failed."""

    what: str
    error: ReplicatorError


@dataclass(frozen=True)
class Known:
    """Everything known of one cluster. `stream` is None where no stream runs in this process."""

    policy: Policy
    now: datetime
    views: Mapping[str, StoreView]
    stream: StreamStatistics | None = None
    breakers: Mapping[str, str] | None = None
    retries: Mapping[str, int] | None = None
    tasks: tuple[TaskStatus, ...] = ()
    failures: tuple[Failure, ...] = ()
    task_problems: tuple[Problem, ...] = ()
    daemon: bool = True
    replicas: Mapping[str, Seen] = field(default_factory=dict)


def cluster_status(known: Known) -> ClusterStatus:
    """One cluster's status."""
    stream = known.stream
    source = SourceStatus()
    position = StreamStatus()
    if stream is not None:
        source = SourceStatus(
            stream.state, stream.host, stream.timeline, stream.server_lsn, stream.wal_status, stream.safe_wal_bytes
        )
        position = StreamStatus(
            stream.received_lsn,
            stream.flushed_lsn,
            stream.acknowledged_lsn,
            stream.only_in_spool_bytes,
            stream.spool_bytes,
            stream.back_pressure,
        )
    return ClusterStatus(
        source=source,
        stream=position,
        stores={store.name: _store(store.name, known) for store in known.policy.stores},
        snapshots=_snapshots(known),
        proofs=proofs(known.policy, known.views, known.now),
        replicas=replicas(known.policy, known.replicas, stream.server_lsn if stream is not None else None),
        tasks=known.tasks,
        problems=_problems(known),
        retries=dict(known.retries or {}),
        slot_room=(stream.outlook.left, stream.outlook.seconds) if stream and stream.outlook else (None, None),
    )


def _store(name: str, known: Known) -> StoreStatus:
    view = known.views.get(name)
    shipped = known.stream.stores.get(name) if known.stream is not None else None
    read = view is not None and view.read_at is not None
    return StoreStatus(
        state=_state(view, shipped),
        breaker=(known.breakers or {}).get(name),
        durable_lsn=shipped.durable_lsn if shipped is not None else view.end if view is not None else None,
        lag_bytes=shipped.lag_bytes if shipped is not None else None,
        lag_s=shipped.lag_s if shipped is not None else None,
        windows=view.windows if view is not None and read else None,
        gaps=view.gaps if view is not None and read else None,
    )


def _state(view: StoreView | None, shipped: StoreStreamStatistics | None) -> str | None:
    if shipped is not None:
        return shipped.state if shipped.state != "ok" else state_of_view(view)
    if view is None or (view.read_at is None and view.error is None):
        return None
    return "reachable" if view.error is None else "unreachable"


def state_of_view(view: StoreView | None) -> str:
    """The state of a store whose shipper has nothing to complain of: an idle one does not notice that it is away."""
    match view.error if view is not None else None:
        case None:
            return "ok"
        case ObjectAbsent():
            return "absent"
        case KeysError():
            return "untrusted"
        case StoreDenied():
            return "refused"
        case StoreUnavailable():
            return "away"
        case _:
            return "damaged"


def _snapshots(known: Known) -> SnapshotsStatus:
    schedule = known.policy.snapshot.schedule
    due = Schedule.parse(schedule).next_after(known.now) if schedule is not None else None
    if not any(view.read_at is not None for view in known.views.values()):
        return SnapshotsStatus(next=due)
    taken = labels(known.views.values())
    return SnapshotsStatus(len(taken), taken[-1] if taken else None, due)


def _problems(known: Known) -> tuple[Problem, ...]:
    """Each once, by code and text."""
    found = [*_of_stream(known), *_of_stores(known), *proof_problems(known.policy, known.views, known.now)]
    server_lsn = known.stream.server_lsn if known.stream is not None else None
    found += replica_problems(known.policy, known.replicas, server_lsn)
    found += known.task_problems
    for failure in known.failures:
        found.append(model.problem_of(failure.error, f"{failure.what}: "))
    return tuple({(problem.code, problem.text): problem for problem in found}.values())


def _of_stream(known: Known) -> Iterable[Problem]:
    name, stream = known.policy.cluster, known.stream
    if not known.daemon:
        yield Problem(
            model.DAEMON_NOT_RUNNING,
            "no daemon answers: this is what the stores hold, and nothing is streamed",
            f"Start `replicator daemon {name}`.",
        )
        return
    if stream is None:
        yield Problem(model.NOT_STREAMING, f"{name} is not streaming: its stream has not started")
        return
    for problem in stream.problems:
        yield Problem(_CODES.get(problem.code, "unexpected"), problem.text, problem.hint)
    if stream.state != STREAMING:
        yield Problem(model.NOT_STREAMING, f"{name} is not streaming: {stream.state}")


def _unheard(known: Known) -> Iterable[dict[str, Any]]:
    """Gaps that the stream met and no store has heard of: a store that is away must not keep one silent."""
    heard = {(gap["timeline"], gap["start_lsn"]) for view in known.views.values() for gap in view.gaps}
    for gap in known.stream.gaps if known.stream is not None else ():
        if (gap.timeline, str(gap.start)) not in heard:
            yield gap_json(gap)


def _of_stores(known: Known) -> Iterable[Problem]:
    views = list(known.views.values())
    shipped = known.stream.stores if known.stream is not None else {}
    told = {name for name, store in shipped.items() if store.state != "ok"}  # the stream says what is wrong there
    for view in views:
        if view.error is not None and view.store not in told:
            prefix = "" if isinstance(view.error, StoreUnavailable) else f"store {view.store}: "
            yield model.problem_of(view.error, prefix)
        for segment in view.conflicts:
            yield Problem(
                model.WAL_CONFLICT,
                f"store {view.store} holds two contents of WAL segment {segment}",
                "Find out which server wrote each; both are kept.",
            )
    for gap in [*open_gaps(views), *_unheard(known)]:
        yield Problem(
            model.OPEN_GAP,
            f"WAL of timeline {gap['timeline']} from {gap['start_lsn']} to {gap['stop_lsn']} is missing",
            "A snapshot taken now closes the gap; the daemon takes one.",
        )
    read = [view for view in views if view.read_at is not None]
    hint = f"Take one with `replicator snapshot take {known.policy.cluster}`."
    system_id = known.stream.system_id if known.stream is not None else None
    if read and labels(read) and not any(_of(view, system_id) for view in read):
        yield Problem(
            model.NO_SNAPSHOT,
            f"there is no snapshot yet of cluster {system_id}, which took another one's place",
            "The daemon takes one; until then nothing of it can be restored, and the former cluster can.",
        )
        return
    if read and not labels(read):
        yield Problem(model.NO_SNAPSHOT, "there is no snapshot yet: nothing can be restored", hint)
        return
    for view in read:
        if not view.snapshots:
            text = f"store {view.store} holds no snapshot: nothing can be restored from it alone"
            yield Problem(model.NO_SNAPSHOT, text, hint)


def _of(view: StoreView, system_id: int | None) -> bool:
    """Whether a store holds a snapshot of the cluster that is followed; of any, where that is not known."""
    return any(system_id in (None, snapshot.system_id) for snapshot in view.snapshots)
