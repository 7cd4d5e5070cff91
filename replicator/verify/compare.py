"""The level `compare`: what a restore gives against a second truth, row by row.

The second truth is a replica of the policy, held at the position that the restore goes to; without one, a second
restore that goes another way: from an older snapshot, or from another store. Owns that choice and its order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.progress import Report
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import (
    DeadlineExceeded,
    Interrupted,
    NotFound,
    RecoveryFailed,
    SnapshotNotFound,
    SourceUnavailable,
    TargetUnreachable,
    VerificationFailed,
)
from replicator.policy import VerifyPolicy
from replicator.postgres.conninfo import targets_of
from replicator.repository.manifests import ManifestReader
from replicator.restore.gather import gather
from replicator.restore.plan import RecoveryPlan, StoreView
from replicator.restore.route import routes
from replicator.tolerance import Deadline
from replicator.verify.compare_hold import Replica, held, standing
from replicator.verify.compare_rows import Comparison, Side
from replicator.verify.drill import NOT_REACHED, Choice, choose, left_out, out_of_time, patience, planned
from replicator.verify.drill_server import Phases, Restored, restored
from replicator.verify.model import LevelResult, VerifyJob, result_of

NAME = "compare"
#: Between the end of a record and the start of the next lies at most a long page header.
_PAGE_HEADER = 40
_SHIPPING_TICK_S = 0.5


class CompareLevel:
    """A comparison. `patience_s` None is many times what the plans expect."""

    name = NAME

    def __init__(self, patience_s: float | None = None, workers: int | None = None) -> None:
        self._patience_s = patience_s
        self._workers = workers

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """As Level. Raises CannotOpen, SnapshotNotFound where there is no second way, HostLacks, StoreUnavailable."""
        began = job.clock.monotonic()
        run = _Compare(job, progress, deadline, self._patience_s, self._workers)
        findings = tuple(run.findings())
        elapsed = job.clock.monotonic() - began
        result = result_of(NAME, findings, checked=run.checked, elapsed_s=elapsed, facts=run.facts)
        if result.ok and run.finished:
            return replace(result, proven=dict.fromkeys(run.stores, job.clock.now()))
        return result


class _Compare:
    def __init__(
        self, job: VerifyJob, report: Report, deadline: Deadline, patience_s: float | None, workers: int | None
    ) -> None:
        self._job, self._report, self._deadline = job, report, deadline
        self._patience_s, self._workers = patience_s, workers
        self._phases = Phases()
        self.facts: dict[str, Any] = {"phases": self._phases.seconds}
        self.stores: list[str] = []
        self.checked = 0
        self.finished = False

    def findings(self) -> Iterator[Finding]:
        choice = choose(self._job, RecoveryTarget(TargetKind.LATEST))
        self.facts |= {"seed": choice.seed, "store": choice.view.catalog.store}
        yield from left_out(choice.gathered)
        replica, why = standing(self._job)
        if why is not None:
            text = f"compared with a second restore, for no replica can be held: {why.message}"
            yield Finding(code_of(why.type), text, why.hint)
        what = (
            "a comparison of two restores" if replica is None else f"a comparison with replica {replica.replica.name}"
        )
        try:
            yield from self._with_replica(choice, replica) if replica is not None else self._two_ways(choice)
            self.finished = True
        except SnapshotNotFound:
            raise
        except (VerificationFailed, NotFound, SourceUnavailable) as error:
            named = error.context.get("object") or error.context.get("name")
            yield Finding(code_of(error.type), error.message, error.hint, what, object=named)
        except DeadlineExceeded as error:
            yield out_of_time(error, self._deadline, what)

    def _with_replica(self, choice: Choice, replica: Replica) -> Iterator[Finding]:
        job, view = self._job, choice.view
        limit = (job.policy.verify or VerifyPolicy()).hold_limit
        hold = Deadline(job.clock, min(limit, self._deadline.remaining()))
        binaries = job.binaries(self._major(view))
        with held(job, replica, binaries, hold) as position:
            target = RecoveryTarget(TargetKind.LSN, lsn=position, inclusive=False)
            with ExitStack() as stack:
                plan = self._shipped(choice, target, hold)
                self._phases.end("plan")
                found = stack.enter_context(restored(job, plan, hold, self._phases, self._report))
                other = Side(f"replica {replica.replica.name}", replica.session)
                yield from found.in_time(self._compare(found, other, position, [found]))
        self._phases.end("remove")

    def _major(self, view: StoreView) -> int:
        newest = max(view.catalog.snapshots, key=lambda found: found.label)
        store = self._job.repository.store(view.catalog.store)
        return ManifestReader(store, newest, self._job.repository.keyring).facts.server_version // 10000

    def _shipped(self, choice: Choice, target: RecoveryTarget, hold: Deadline) -> RecoveryPlan:
        """The plan, as soon as the store has the WAL up to there. Raises TargetUnreachable after a while."""
        job, store = self._job, choice.view.catalog.store
        patience_s = min(hold.remaining(), 4 * job.policy.stream.piece_interval + 60.0)
        wait = Deadline(job.clock, patience_s)
        while True:
            gathered = gather(job.repository.only((store,)))
            view = next(found for found in gathered.views if found.catalog.system_id == choice.view.catalog.system_id)
            try:
                with planned(job, Choice(choice.seed, view, replace(gathered, views=(view,)), target)) as (plan, _):
                    return plan
            except TargetUnreachable:
                if wait.over:
                    raise
            if job.clock.wait(job.stop, _SHIPPING_TICK_S):
                raise Interrupted("the comparison was interrupted")

    def _two_ways(self, choice: Choice) -> Iterator[Finding]:
        job = self._job
        with ExitStack() as stack:
            with planned(job, choice) as (plan, _):
                limit = patience(job, self._deadline, plan, self._patience_s)
                second = self._second(choice, plan)
            self._phases.end("plan")
            one = stack.enter_context(restored(job, plan, limit, self._phases, self._report))
            if one.reached is None:
                raise RecoveryFailed("nobody knows where recovery ended")
            target = RecoveryTarget(TargetKind.LSN, lsn=one.reached, inclusive=False, timeline=plan.timeline)
            with planned(job, replace(second, target=target)) as (other_plan, _):
                self._phases.end("plan")
            two = stack.enter_context(restored(job, other_plan, limit, self._phases, self._report))
            other = Side(_way(two), lambda name: two.session(name))
            yield from one.in_time(self._compare(one, other, one.reached, [one, two]))
        self._phases.end("remove")

    def _second(self, choice: Choice, plan: RecoveryPlan) -> Choice:
        """Another way to the same end: the oldest other snapshot of that store, else the same one from another store.

        Raises SnapshotNotFound when there is neither.
        """
        view = choice.view
        for route in routes(view.catalog, view.complete, plan.timeline):
            others = [found.label for found in route.snapshots if found.label != plan.snapshot.label]
            if route.end == plan.until and others:
                return replace(choice, snapshot=others[0])
        rest = tuple(name for name in self._job.chosen if name != view.catalog.store)
        gathered = gather(self._job.repository.only(rest)) if rest else None
        for found in gathered.views if gathered is not None else ():
            if gathered is not None and any(each.label == plan.snapshot.label for each in found.complete):
                return replace(choice, view=found, gathered=replace(gathered, views=(found,)))
        raise SnapshotNotFound(
            f"there is nothing to compare a restore of {self._job.cluster} with",
            hint="Take a second snapshot, or name a replica in the policy.",
        )

    def _compare(self, found: Restored, other: Side, position: Lsn, all_of: list[Restored]) -> Iterator[Finding]:
        self.stores = sorted({each.plan.store for each in all_of})
        affects = f"a restore of snapshot {found.plan.snapshot.label} from store {found.plan.store} to {position}"
        self.facts |= {"ways": [_way(found), other.name], "lsn": str(position)}
        for each in all_of:
            if each.reached is None or abs(each.reached - position) > _PAGE_HEADER:
                text = f"{_way(each)} ended at {each.reached}, not at {position}"
                yield Finding(NOT_REACHED, text, "Look at the WAL there with `replicator wal coverage`.", affects)
                return
        work = Comparison((Side(_way(found), found.session), other), self._report, affects, self._workers)
        source = targets_of(self._job.policy.source.conninfo, None, application_name="replicator")[0].parameters
        first = source.get("dbname") or source.get("user") or "postgres"
        try:
            yield from work.findings(first)
        finally:
            self.checked = work.tables
            self.facts |= work.facts()
            self._phases.end("compare")


def _way(found: Restored) -> str:
    return f"the restore of snapshot {found.plan.snapshot.label} from store {found.plan.store}"
