"""The level `drill`: a real restore into scratch, recovered, started and questioned, and then gone without a trace.

Owns the choice of store and moment, what proves that the moment was reached, and the record's figures. The restore is
restore's, the server drill_server's, the questions drill_checks'.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.moment import from_microseconds, parse_time
from replicator.core.progress import Report
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.core.windows import Window
from replicator.errors import (
    CannotOpen,
    DeadlineExceeded,
    NotFound,
    SnapshotNotFound,
    SourceUnavailable,
    VerificationFailed,
)
from replicator.postgres.waldump import Waldump
from replicator.repository.manifests import ManifestReader
from replicator.restore.gather import Gathered, StoreTimes, gather, plan_from
from replicator.restore.outlook import window_facts
from replicator.restore.plan import PlanRequest, RecoveryPlan, StoreView
from replicator.restore.route import routes
from replicator.restore.walprobe import WaldumpProbe
from replicator.tolerance import Deadline
from replicator.verify.drill_checks import Looks
from replicator.verify.drill_server import Phases, Restored, restored
from replicator.verify.drill_target import choose_target, choose_view
from replicator.verify.findings import NOT_ALL
from replicator.verify.model import LevelResult, VerifyJob, result_of
from replicator.verify.probes import LIMIT_S, ask

NAME = "drill"
NOT_REACHED, HANGS = "target_not_reached", "drill_hangs"
#: A server that takes this much longer than expected hangs.
_PATIENCE, _LEAST_PATIENCE_S = 20.0, 3600.0
#: Where a segment's first record begins after the end of the one before: a long page header.
_PAGE_HEADER = 40


@dataclass(frozen=True)
class Choice:
    """What a drill restores: drawn by `seed` where it was not asked for."""

    seed: int
    view: StoreView
    gathered: Gathered
    target: RecoveryTarget
    snapshot: str | None = None


class DrillLevel:
    """A drill. `target` None draws one; `patience_s` None is many times what the plan expects."""

    name = NAME

    def __init__(self, target: RecoveryTarget | None = None, patience_s: float | None = None) -> None:
        self._target = target
        self._patience_s = patience_s

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """As Level. Raises CannotOpen, SnapshotNotFound, HostLacks and its kinds, StoreUnavailable."""
        began = job.clock.monotonic()
        run = _Drill(job, progress, deadline, self._patience_s)
        findings = tuple(run.findings(self._target))
        elapsed = job.clock.monotonic() - began
        result = result_of(NAME, findings, checked=run.checked, elapsed_s=elapsed, facts=run.facts)
        if result.ok and run.finished and run.store is not None:
            return replace(result, proven={run.store: job.clock.now()})
        return result


class _Drill:
    def __init__(self, job: VerifyJob, report: Report, deadline: Deadline, patience_s: float | None) -> None:
        self._job, self._report, self._deadline, self._patience_s = job, report, deadline, patience_s
        self._phases = Phases()
        self.facts: dict[str, Any] = {"phases": self._phases.seconds}
        self.checked = 0
        self.store: str | None = None
        self.finished = False
        self._failed: list[Finding] = []

    def findings(self, target: RecoveryTarget | None) -> Iterator[Finding]:
        """A drawn moment may lie before what the probes ask for: then the latest one decides."""
        choice = choose(self._job, target)
        self.store = choice.view.catalog.store
        self.facts |= {"seed": choice.seed, "store": self.store}
        yield from left_out(choice.gathered)
        yield from self._drill(choice)
        failed, self._failed = self._failed, []
        if failed and target is None and choice.target.kind is not TargetKind.LATEST:
            self.facts["drawn"] = str(choice.target)
            latest = replace(choice, target=RecoveryTarget(TargetKind.LATEST), snapshot=None)
            yield from self._drill(latest)
            if self.finished and not self._failed:
                yield from (replace(found, affects=None) for found in failed)
            failed = self._failed
        yield from failed

    def _drill(self, choice: Choice) -> Iterator[Finding]:
        self.finished = False
        self.facts["target"] = str(choice.target)
        what = f"a restore from store {self.store} to {choice.target}"
        try:
            with planned(self._job, choice) as (plan, probe):
                self._phases.end("plan")
                limit = patience(self._job, self._deadline, plan, self._patience_s)
                with restored(self._job, plan, limit, self._phases, self._report) as found:
                    yield from found.in_time(self._ask(found, choice, probe))
            self._phases.end("remove")
            self.finished = True
        except (VerificationFailed, NotFound, SourceUnavailable) as error:
            named = error.context.get("object") or error.context.get("name")
            text = " ".join(error.message.split())  # a server's log has lines
            yield Finding(code_of(error.type), text, error.hint, what, object=named, store=self.store)
        except DeadlineExceeded as error:
            yield out_of_time(error, self._deadline, what)

    def _ask(self, found: Restored, choice: Choice, probe: WaldumpProbe) -> Iterator[Finding]:
        started = found.result.started
        self.facts |= {
            "snapshot": found.plan.snapshot.label,
            "timelines": list(found.plan.timelines),
            "reached_lsn": str(found.reached) if found.reached is not None else None,
            "reached_time": found.result.reached_time,
            "server": found.binaries.version,
            "restored_bytes": found.plan.bytes,
            "preloaded": found.libraries,
            "notes": list(found.result.notes),
        }
        looks = Looks(found, self._report)
        yield from not_reached(found, choice.view, probe, looks.affects)
        try:
            yield from looks.versions()
            probes = self._job.policy.verify.probes if self._job.policy.verify is not None else ()
            moment = _moment(found, started.reached_time if started else None, self._job.clock.now())
            failed = ask(probes, lambda name: found.session(name, plain=True, timeout=LIMIT_S), moment, looks.affects)
            self._failed += found.in_time(failed)
            self._phases.end("probes")
            yield from looks.read()
            self._phases.end("tables")
            yield from looks.indexes()
            self._phases.end("indexes")
            found.stop()
            yield from looks.pages()
            self._phases.end("pages")
        finally:
            self.checked += looks.checked + len(self._job.policy.verify.probes if self._job.policy.verify else ())
            self.facts |= looks.facts


def choose(job: VerifyJob, target: RecoveryTarget | None) -> Choice:
    """The store and the moment. Raises CannotOpen, SnapshotNotFound, StoreUnavailable."""
    repository = job.repository
    if not repository.keyring.can_open:
        raise CannotOpen(
            f"this host holds no private key of {job.cluster}'s repository",
            hint="Give [encryption] passphrase or identity in the policy of the host that drills.",
        )
    seed = job.seed if job.seed is not None else secrets.randbits(32)
    rng = random.Random(seed)  # noqa: S311 to repeat a drill, not to hide anything
    gathered = gather(repository.only(job.chosen))
    if not any(view.catalog.snapshots for view in gathered.views):
        raise SnapshotNotFound(
            f"there is no snapshot of {job.cluster} to restore",
            hint=f"Take one with `replicator snapshot take {job.cluster}`.",
        )
    view = choose_view(gathered.views, rng)
    own = replace(gathered, views=(view,))
    if target is not None:
        return Choice(seed, view, own, target)

    def times(view: StoreView, window: Window) -> tuple[int, int]:
        facts = window_facts((window,), view.catalog, view.summaries, StoreTimes(repository), None)[0]
        return facts.from_us, facts.to_us

    return Choice(seed, view, own, *choose_target(view, rng, times))


@contextmanager
def planned(job: VerifyJob, choice: Choice) -> Iterator[tuple[RecoveryPlan, WaldumpProbe]]:
    """The plan, and the probe that it was made with. Raises what `plan_from` does, BinariesMissing."""
    view = choice.view
    newest = max(view.catalog.snapshots, key=lambda found: found.label)
    facts = ManifestReader(job.repository.store(view.catalog.store), newest, job.repository.keyring).facts
    request = PlanRequest(job.cluster, choice.target, choice.snapshot)
    with WaldumpProbe(job.repository, Waldump(job.binaries(facts.server_version // 10000))) as probe:
        yield plan_from(job.repository, request, choice.gathered, probe), probe


def patience(job: VerifyJob, deadline: Deadline, plan: RecoveryPlan, given: float | None) -> Deadline:
    """When the drill must be over: the verb's time, or long after the plan expects it."""
    expected = max(_LEAST_PATIENCE_S, _PATIENCE * plan.expected_s) if given is None else given
    return Deadline(job.clock, min(expected, deadline.remaining()))


def out_of_time(error: DeadlineExceeded, deadline: Deadline, what: str) -> Finding:
    """A remark where the verb's own time is over; else something hangs."""
    if deadline.over:
        return Finding(NOT_ALL, f"the time ended before {what} was done", "Give it more time with --time-limit.")
    return Finding(HANGS, error.message, "Look at this host's disks and load, and drill again.", what)


def left_out(gathered: Gathered) -> Iterator[Finding]:
    """What could not be chosen from: stores that are silent, manifests and WAL that are damaged."""
    for name, silence in gathered.silent.items():
        yield Finding(code_of(silence.type), silence.message, silence.hint, store=name)
    for error in gathered.damaged:
        named = error.context.get("object")
        yield Finding(code_of(error.type), error.message, error.hint, "restores that need it", object=named)


def not_reached(found: Restored, view: StoreView, probe: WaldumpProbe, affects: str) -> Iterator[Finding]:
    """The proof that recovery came as far as it was to. PostgreSQL itself refuses to end before a target that it was
    told; at the end of the WAL it was told none, so no whole record may be left behind where it stopped.
    """
    reached, told = found.reached, found.plan.stop
    hint = "Look at the WAL there with `replicator wal coverage`, and keep the record of this drill."
    if reached is None or reached < found.plan.snapshot.stop:
        text = f"recovery ended at {reached or 'an unknown place'}, before the snapshot's stop"
        yield Finding(NOT_REACHED, text, hint, affects)
    elif told.kind is TargetKind.LSN and told.lsn is not None and reached + _PAGE_HEADER < told.lsn:
        yield Finding(NOT_REACHED, f"recovery ended at {reached}, before {told}", hint, affects)
    elif told.kind is TargetKind.LATEST:
        left = _left(found.plan, view, probe, reached)
        if left is not None:
            text = f"recovery ended at {reached}, although a whole record follows at {left}"
            yield Finding(NOT_REACHED, text, hint, affects)


def _left(plan: RecoveryPlan, view: StoreView, probe: WaldumpProbe, reached: Lsn) -> Lsn | None:
    for route in routes(view.catalog, view.complete, plan.timeline):
        if route.end == plan.until:
            return probe.record(route, reached) if reached < route.end else None
    return None


def _moment(found: Restored, reached_time: str | None, now: datetime) -> datetime:
    """The moment that was restored to: now for the latest, else that of the last transaction, or the snapshot's."""
    if found.plan.target.kind is TargetKind.LATEST:
        return now
    return parse_time(reached_time) if reached_time else from_microseconds(found.facts.stop_us)
