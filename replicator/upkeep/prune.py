"""`prune`: takes from each store what its retention no longer keeps, by that store's own catalog.

Owns which stores take part, one prune per host, and what is told. A store that is away, or that refuses, holds up no
other. Interrupted anywhere, every store keeps its promises, and a new run goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.codes import exit_code_of
from replicator.core.coverage import LsnRange
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339
from replicator.core.progress import Progress, Report, silent
from replicator.core.retention import END, Retention, Rule, retain, sentences
from replicator.errors import (
    NotFound,
    ReplicatorError,
    StoreUnavailable,
)
from replicator.repository.catalog import system_ids
from replicator.repository.layout import PROBE
from replicator.repository.repository import Repository, check_store
from replicator.store.locks import free
from replicator.store.protocol import Store
from replicator.tolerance import Clock, only_one
from replicator.upkeep.pins import pinned_of, pins_of
from replicator.upkeep.prune_facts import read_facts
from replicator.upkeep.prune_model import WAIT, Facts
from replicator.upkeep.prune_ranges import RangeKeeper
from replicator.upkeep.prune_store import KIND, Counts, SystemPrune
from replicator.upkeep.range_plan import Worth

#: Findings that are no error of ours by name.
_CODES = {"object_damaged": 4, "history_missing": 4}
_PROBES = f"{PROBE}prune-"
#: The window of a policy without [retention]: everything.
FOREVER = Rule(36500 * 86400.0)


@dataclass(frozen=True)
class PruneJob:
    """What a prune works on. `rule` None keeps every snapshot. `steps` is told before and after what it changes.
    `worth`: from what on ranges and summaries are written.
    """

    repository: Repository
    clock: Clock
    state_directory: Path
    rule: Rule | None
    dry_run: bool = False
    steps: Callable[[str], None] = lambda _: None
    worth: Worth = field(default_factory=Worth)


@dataclass(frozen=True)
class StorePruned:
    """One store: labels that stay, with the reasons, labels that went, the counts, and why something was held back."""

    store: str
    kept: Mapping[str, tuple[str, ...]]
    gone: tuple[str, ...]
    counts: Counts
    held: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        until = self.counts.locked_until
        return {
            "kept": [{"label": label, "reasons": list(why)} for label, why in self.kept.items()],
            "gone": list(self.gone),
            "objects": self.counts.objects,
            "bytes": self.counts.bytes,
            "waiting": self.counts.waiting,
            "locked": self.counts.locked,
            "locked_until": rfc3339(until) if until is not None else None,
            "held": list(self.held),
        }

    def sentences(self, size: str) -> list[str]:
        """As an operator reads it; `size` is what its bytes are in words."""
        lines = sentences(Retention(self.kept, self.gone, ()), self.store, self.counts.objects, size)
        return [*lines, *(f"{self.store}: held back: {why}." for why in self.held)]


@dataclass(frozen=True)
class PruneResult:
    """`stores`: those that answered to the end. `silent`: those that did not, or that refused."""

    stores: Mapping[str, StorePruned]
    findings: tuple[Finding, ...]
    silent: Mapping[str, ReplicatorError]
    dry_run: bool
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """4 for what is damaged or missing, 6 for a store that did not answer or refused."""
        codes = [finding.code for finding in self.findings if finding.affects is not None]
        return exit_code_of([*codes, *(["store_unavailable"] if self.silent else [])], _CODES)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "ok": self.exit_code == 0,
            "dry_run": self.dry_run,
            "stores": {name: found.as_json() for name, found in self.stores.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "silent": {name: error.as_json() for name, error in self.silent.items()},
            "elapsed_s": round(self.elapsed_s, 3),
        }


def prune(job: PruneJob, report: Report = silent, stop: Event | None = None) -> PruneResult:
    """Prune every store.

    Raises Conflict when another prune of this cluster runs on this host, UntrustedRepository when a store holds another
    repository, Interrupted when `stop` is set.
    """
    began = job.clock.monotonic()
    with nullcontext() if job.dry_run else alone(job.state_directory, job.repository.cluster):
        run = _Run(job, report, stop or Event())
        run.run()
    return PruneResult(run.stores, tuple(run.findings), run.silent, job.dry_run, job.clock.monotonic() - began)


def alone(state_directory: Path, cluster: str) -> AbstractContextManager[None]:
    """Be the only prune of a cluster on this host. Raises Conflict, HostLacks."""
    return only_one(state_directory / "prune.lock", f"prune of {cluster} runs")


@dataclass
class _Run:
    job: PruneJob
    report: Report
    stop: Event
    stores: dict[str, StorePruned] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    silent: dict[str, ReplicatorError] = field(default_factory=dict)

    def run(self) -> None:
        pins = self._pins()
        for name, store in self.job.repository.stores.items():
            if name in self.silent:
                continue
            try:
                self._prune(name, store, pins)
            except StoreUnavailable as error:
                self.silent[name] = error

    def _pins(self) -> frozenset[str]:
        """The labels that are pinned, by the notes of all stores: one that missed a note keeps it, too."""
        newest: dict[str, tuple[str, bool]] = {}
        for name, store in self.job.repository.stores.items():
            self.report(Progress(KIND, f"looking at {name}"))
            try:
                if not check_store(self.job.repository, name):
                    self.silent[name] = NotFound(f"store {name} holds no repository of {self.job.repository.cluster}")
                    continue
                for label, found in pins_of(store, self.job.repository.keyring, self.findings).items():
                    newest[label] = max(found, newest.get(label, found))
            except StoreUnavailable as error:
                self.silent[name] = error
        return pinned_of(newest)

    def _prune(self, name: str, store: Store, pins: frozenset[str]) -> None:
        now = self.job.clock.now() if self.job.dry_run else store_now(store)
        keyring = self.job.repository.keyring
        counts, held = Counts(), list[str]()
        kept: dict[str, tuple[str, ...]] = {}
        gone: list[str] = []
        read = [read_facts(store, keyring, system_id, now, pins) for system_id in system_ids(store)]
        for facts in read:
            plan = self._plan(facts, read, min(now, self.job.clock.now()))
            if facts.hold_all:
                plan = Retention({**plan.kept, **dict.fromkeys(plan.gone, ("held back",))}, (), plan.wal)
            one = SystemPrune(
                store, facts, plan, self.job.clock.now, self.job.steps, self.report, self.stop, self.job.dry_run, counts
            )
            one.run()
            if not self.job.dry_run:
                RangeKeeper(store, facts, self.job.steps, self.report, self.stop, self.job.worth).run()
            kept |= {**plan.kept, **dict.fromkeys(one.locked_labels, ("locked",))}
            gone += (label for label in plan.gone if label not in one.locked_labels)
            held += [*facts.hold_all, *facts.hold_packs]
            self.findings += facts.findings
        self.stores[name] = StorePruned(name, kept, tuple(gone), counts, tuple(dict.fromkeys(held)))

    def _plan(self, facts: Facts, read: list[Facts], now: datetime) -> Retention:
        rule = self.job.rule or FOREVER
        if not facts.taken and not facts.unreadable and self.job.rule is not None:
            newest = max((end for end in facts.last_wal.values()), default=now)
            later = [one.stopped for other in read for one in other.taken if not one.damaged]
            if (now - newest).total_seconds() > rule.window and any(stopped > newest for stopped in later):
                return Retention({}, (), ())  # a former cluster of which every snapshot was removed
        plan = retain(facts.taken, rule, now, facts.histories, facts.last_wal)
        if self.job.rule is None:
            facts.kept_wal += [LsnRange(timeline, Lsn(0), END) for timeline in facts.last_wal]
            return Retention(dict.fromkeys(plan.kept, ("no retention is set",)), plan.gone, plan.wal)
        return plan


def store_now(store: Store) -> datetime:
    """A store's clock, by an object put for it. Shows first that objects may be deleted: who may not stops here.

    Raises StoreDenied, StoreUnavailable.
    """
    name = f"{_PROBES}{secrets.token_hex(8)}"
    free(store, name)
    store.put(name, b"prune\n")
    now = store.stat(name).modified
    free(store, name)
    for info in list(store.list(_PROBES)):  # of runs that were killed here
        if now - info.modified > WAIT:
            free(store, info.name)
    return now


__all__ = ["FOREVER", "KIND", "PruneJob", "PruneResult", "StorePruned", "alone", "prune", "store_now"]
