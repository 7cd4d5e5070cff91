"""The level `coverage`: each snapshot has the WAL and the packs it needs, and the windows reach as far as the stream.

Owns the judgement per store, in exact LSNs and times. Reads listings and signed tables; with a key that opens and
pg_waldump also the last commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.moment import to_microseconds
from replicator.core.progress import Progress, Report
from replicator.core.snapshot import Snapshot
from replicator.core.windows import history_of, run_of
from replicator.errors import (
    BinariesMissing,
    CannotOpen,
    IntegrityError,
    Interrupted,
    ObjectAbsent,
    StoreUnavailable,
    WalConflict,
)
from replicator.postgres.waldump import Waldump
from replicator.repository.manifests import ManifestReader
from replicator.repository.repository import Repository
from replicator.restore.gather import Gathered, StoreTimes, gather
from replicator.restore.outlook import WindowFacts, window_facts
from replicator.restore.plan import StoreView
from replicator.restore.walprobe import WaldumpProbe
from replicator.tolerance import Deadline
from replicator.verify.findings import DAMAGED, LAG_S
from replicator.verify.model import LevelResult, VerifyJob, result_of
from replicator.verify.trust import trusted_by_all

NAME = "coverage"
NO_SNAPSHOT, LACKS_WAL, LACKS_PACKS = "no_snapshot", "snapshot_lacks_wal", "snapshot_lacks_packs"
OPEN_GAP, STORE_BEHIND, CONFLICT = "open_gap", "store_behind", "wal_conflict"
_MIRROR = "Another store may have it: `replicator mirror`, or verifying with --objects --repair, takes it from there."
_PER_MAJOR = 10_000


class CoverageLevel:
    """Which moments each store can bring back, and whether they are those it should."""

    name = NAME

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """As Level. Raises StoreUnavailable when no store answers."""
        began, now = job.clock.monotonic(), job.clock.now()
        repository = trusted_by_all(job.repository)
        deadline.check("the verification")
        gathered = gather(repository)
        looked = [view for view in gathered.views if view.catalog.store in job.chosen]
        silent = {name: error for name, error in gathered.silent.items() if name in job.chosen}
        if silent and len(silent) == len(job.chosen):
            raise next(iter(silent.values()))
        findings = [_silent(name, error) for name, error in silent.items()]
        facts: dict[str, Any] = {}
        with _probe(job, repository, gathered) as probe:
            stores = _Stores(gathered, _told(job), StoreTimes(repository), probe)
            for number, view in enumerate(looked, 1):
                if job.stop.is_set():
                    raise Interrupted("interrupted")
                findings += stores.findings(view, now)
                facts[view.catalog.store] = {**stores.facts(view), **facts.get(view.catalog.store, {})}
                progress(Progress("verify", NAME, number, len(looked), "stores"))
        findings += _empty(job, looked, silent) + _damaged(job, gathered)
        wrong = {finding.store for finding in findings if finding.affects is not None}
        proven = {name: now for name in job.chosen if name not in wrong}
        return result_of(
            NAME,
            tuple(findings),
            checked=sum(len(view.catalog.snapshots) for view in looked),
            elapsed_s=job.clock.monotonic() - began,
            proven=proven,
            facts={"stores": facts},
        )


def _silent(name: str, error: StoreUnavailable) -> Finding:
    return Finding(code_of(error.type), error.message, error.hint, f"what store {name} holds", store=name)


def _empty(job: VerifyJob, looked: list[StoreView], silent: Mapping[str, StoreUnavailable]) -> list[Finding]:
    having = {view.catalog.store for view in looked if view.catalog.snapshots}
    hint = f"Take one with `replicator snapshot take {job.cluster}`."
    return [
        Finding(NO_SNAPSHOT, f"store {name} holds no snapshot", hint, "every restore from this store", store=name)
        for name in job.chosen
        if name not in having and name not in silent
    ]


def _damaged(job: VerifyJob, gathered: Gathered) -> list[Finding]:
    """What was left out because it is not what its name says."""
    found: list[Finding] = []
    for view in gathered.views:
        store = view.catalog.store
        if store in job.chosen:
            for name in view.catalog.damaged:
                text = f"{name} is not what its name says: it counts for nothing"
                found.append(Finding(DAMAGED, text, _MIRROR, "the WAL or timeline it names", object=name, store=store))
    return found


def _told(job: VerifyJob) -> tuple[int, Lsn] | None:
    """How far the stream has come, where a daemon says so."""
    return job.stream_position() if job.stream_position is not None else None


def _probe(job: VerifyJob, repository: Repository, gathered: Gathered) -> AbstractContextManager[WaldumpProbe | None]:
    """What reads commit times, where this host can open and has the programs; without it times are upper bounds."""
    if not repository.keyring.can_open:
        return nullcontext()
    for view in gathered.views:
        for snapshot in reversed(view.catalog.snapshots):
            try:
                facts = ManifestReader(repository.store(view.catalog.store), snapshot, repository.keyring).facts
                binaries = job.binaries(facts.server_version // _PER_MAJOR)
                binaries.program("pg_waldump")
            except (IntegrityError, ObjectAbsent, CannotOpen, StoreUnavailable):
                continue
            except BinariesMissing:
                return nullcontext()
            return WaldumpProbe(repository, Waldump(binaries))
    return nullcontext()


@dataclass(frozen=True)
class _Stores:
    """All stores together: what one lacks another may show."""

    gathered: Gathered
    told: tuple[int, Lsn] | None
    times: StoreTimes
    probe: WaldumpProbe | None

    def findings(self, view: StoreView, now: datetime) -> Iterator[Finding]:
        """What is wrong with one store."""
        catalog = view.catalog
        for snapshot in catalog.snapshots:
            yield from self._snapshot(view, snapshot)
        for gap in catalog.gaps:
            if gap.open:
                text = f"store {catalog.store} lacks the WAL of timeline {gap.timeline} from {gap.start} to {gap.stop}"
                affects = f"every moment after {gap.start} until a snapshot is taken after {gap.stop}"
                yield Finding(OPEN_GAP, text, _MIRROR, affects, store=catalog.store)
        for segment in catalog.conflicts:
            text = f"store {catalog.store} holds two contents of WAL segment {segment}"
            hint = "Find out which server wrote each; both are kept."
            yield Finding(CONFLICT, text, hint, f"recovery through {segment}", store=catalog.store)
        yield from self._behind(view, now)

    def _snapshot(self, view: StoreView, snapshot: Snapshot) -> Iterator[Finding]:
        catalog, store = view.catalog, view.catalog.store
        affects = f"snapshot {snapshot.label}"
        if run_of(snapshot, history_of(snapshot.timeline, catalog.histories), catalog.coverage) is None:
            lacking = catalog.coverage.missing(snapshot.timeline, snapshot.start, snapshot.stop)
            ranges = ", ".join(f"{hole.start} to {hole.end}" for hole in lacking) or "its timeline's history"
            text = f"store {store} lacks WAL that snapshot {snapshot.label} needs to be consistent: {ranges}"
            yield Finding(LACKS_WAL, text, _MIRROR, affects, store=store)
        packs = view.summaries[snapshot.label].packs
        lost = [pack for pack in packs if pack not in view.packs]
        if lost:
            text = f"store {store} lacks {len(lost)} of {len(packs)} packs of snapshot {snapshot.label}"
            yield Finding(LACKS_PACKS, text, _MIRROR, affects, store=store)

    def _behind(self, view: StoreView, now: datetime) -> Iterator[Finding]:
        """A store whose last byte is old although more was received, or another store has more."""
        mine = _end(view)
        others = [(other.catalog.store, *_end(other)) for other in self.gathered.views if _same(view, other)]
        known = [found for found in others if found[1:] > mine]
        if self.told is not None and self.told > mine:
            known.append(("", *self.told))
        if not known or mine[0] == 0:
            return
        sent = max((facts.to_us for facts in self._windows(view) if facts.window.end == mine[1]), default=0)
        if to_microseconds(now) - sent < LAG_S * 1e6:
            return
        store, timeline, end = max(known, key=lambda found: found[1:])
        text = f"store {view.catalog.store} ends at {mine[1]} on timeline {mine[0]}, "
        text += f"{f'store {store}' if store else 'the stream'} at {end} on timeline {timeline}"
        yield Finding(STORE_BEHIND, text, _MIRROR, f"every moment after {mine[1]}", store=view.catalog.store)

    def _windows(self, view: StoreView) -> tuple[WindowFacts, ...]:
        return window_facts(view.windows, view.catalog, view.summaries, self.times, None)

    def facts(self, view: StoreView) -> dict[str, Any]:
        """The windows, ranges and gaps of one store, for the record and the report."""
        catalog = view.catalog
        try:
            windows = window_facts(view.windows, catalog, view.summaries, self.times, self.probe)
        except (IntegrityError, ObjectAbsent, WalConflict):  # WAL that does not open is the other level's finding
            windows = self._windows(view)
        return {
            "ranges": [
                {"timeline": held.timeline, "from_lsn": str(held.start), "to_lsn": str(held.end)}
                for held in catalog.coverage.ranges()
            ],
            "windows": [{**facts.as_json(), "exact": facts.exact} for facts in windows],
            "gaps": [
                {"timeline": gap.timeline, "start_lsn": str(gap.start), "stop_lsn": str(gap.stop), "open": gap.open}
                for gap in catalog.gaps
            ],
            "snapshots": [snapshot.label for snapshot in catalog.snapshots],
        }


def _same(view: StoreView, other: StoreView) -> bool:
    return other is not view and other.catalog.system_id == view.catalog.system_id


def _end(view: StoreView) -> tuple[int, Lsn]:
    """The newest timeline held, and where it ends."""
    held = view.catalog.coverage.by_timeline
    if not held:
        return 0, Lsn(0)
    timeline = max(held)
    return timeline, view.catalog.coverage.end(timeline) or Lsn(0)
