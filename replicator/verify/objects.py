"""The level `objects`: every object of every store is there, is what its name says, and opens where this host can.

Owns one run over all stores: listing, the looks, what was missing, repair, and what the next run needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.core.moment import from_microseconds
from replicator.core.progress import Progress, Report
from replicator.errors import IntegrityError, Interrupted, ObjectAbsent, ReplicatorError, StoreUnavailable
from replicator.repository.layout import ManifestName, Name, PieceName, WalName
from replicator.repository.manifests import ManifestSummary, read_summary
from replicator.repository.objects import read_header
from replicator.tolerance import Deadline
from replicator.verify.findings import Judge, StoreFacts, facts_of_record
from replicator.verify.history import last_record
from replicator.verify.inventory import Inventory, holdings_of, system_of, take_inventory
from replicator.verify.ledger import MOST_RANGES, ledger_of, ledger_of_json
from replicator.verify.letgo import read_let_go
from replicator.verify.model import LevelResult, VerifyJob, result_of
from replicator.verify.repair import Repair
from replicator.verify.sweep import Sweep, Swept
from replicator.verify.trust import trusted_by_all
from replicator.verify.vanished import wal_json

NAME = "objects"
EMPTY = "store_empty"
#: Objects whose headers are read in search of a segment size.
_MOST_HEADERS = 5


class ObjectsLevel:
    """Reads every byte, or as much as the time allows, beginning with what was not looked at for longest."""

    name = NAME

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """As Level. Raises StoreUnavailable when none of the stores can be listed."""
        return _Run(job, progress, deadline).run()


@dataclass
class _Meter:
    """Progress of all stores together, told by many threads."""

    report: Report
    job: VerifyJob
    total: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        self._lock = Lock()

    def tick(self, size: int) -> None:
        if self.job.stop.is_set():
            raise Interrupted("interrupted")
        with self._lock:
            self.done += size
            self.report(Progress("verify", NAME, self.done, max(self.total, self.done)))


class _Run:
    def __init__(self, job: VerifyJob, progress: Report, deadline: Deadline) -> None:
        self._job = job
        self._deadline = deadline
        self._repository = trusted_by_all(job.repository)
        self._meter = _Meter(progress, job)
        self._began = job.clock.monotonic()
        self._errors: dict[str, ReplicatorError] = {}

    def run(self) -> LevelResult:
        listed = self._list()
        record = last_record(self._repository, listed, NAME)
        before: Mapping[str, Any] = dict(record.facts.get("stores", {})) if record is not None else {}
        looked = {name: listed[name] for name in self._job.chosen if name in listed and listed[name].objects}
        facts = {name: self._facts(inventory, before.get(name)) for name, inventory in listed.items()}
        for name, swept in self._sweep(looked, facts).items():
            facts[name] = replace(facts[name], swept=swept)
        return self._judge(facts, before)

    def _list(self) -> dict[str, Inventory]:
        """Every store's inventory; those that were not asked for are only compared with."""
        found: dict[str, Inventory] = {}
        for name, store in self._repository.stores.items():
            try:
                found[name] = take_inventory(store)
            except StoreUnavailable as error:
                self._errors[name] = error
        silent = [self._errors[name] for name in self._job.chosen if name in self._errors]
        if len(silent) == len(self._job.chosen):
            raise silent[0]
        return found

    def _facts(self, inventory: Inventory, before: Any) -> StoreFacts:
        places = inventory.places()
        sizes = {
            system: self._segment_size(inventory, places, system) for system in set(map(system_of, places.values()))
        }
        held = {found.system_id: found for found in holdings_of(places, sizes)}
        summaries = self._summaries(inventory, places)
        return StoreFacts(inventory, places, summaries, sizes, held, before=facts_of_record(before))

    def _segment_size(self, inventory: Inventory, places: Mapping[str, Name], system_id: int) -> int:
        """From the first of a few signed headers that verifies; 0 when none does."""
        sealed = WalName | PieceName | ManifestName
        names = [name for name, place in places.items() if isinstance(place, sealed) and system_of(place) == system_id]
        for name in names[:_MOST_HEADERS] + names[-_MOST_HEADERS:]:
            try:
                return read_header(self._repository.store(inventory.store), name, self._repository.keyring).segment_size
            except (IntegrityError, ObjectAbsent, StoreUnavailable):  # it has, or will have, a finding of its own
                continue
        return 0

    def _summaries(self, inventory: Inventory, places: Mapping[str, Name]) -> dict[str, ManifestSummary]:
        found: dict[str, ManifestSummary] = {}
        store = self._repository.store(inventory.store)
        for name, place in places.items():
            if isinstance(place, ManifestName):
                try:
                    found[name] = read_summary(store, place.snapshot, self._repository.keyring)
                except (IntegrityError, ObjectAbsent, StoreUnavailable):  # the look at it tells what is wrong
                    continue
        return found

    def _sweep(self, looked: Mapping[str, Inventory], facts: Mapping[str, StoreFacts]) -> dict[str, Swept]:
        """All stores side by side: a slow one holds up no other."""
        sweeps = {
            name: Sweep(
                self._repository,
                inventory,
                ledger_of_json(facts[name].before.get("verified")),
                self._job.clock,
                self._deadline,
                self._meter.tick,
            )
            for name, inventory in looked.items()
        }
        self._meter.total = sum(sweep.total for sweep in sweeps.values())
        with ThreadPoolExecutor(max(1, len(sweeps)), thread_name_prefix="verify") as pool:
            running = {name: pool.submit(sweep.run) for name, sweep in sweeps.items()}
            return {name: future.result() for name, future in running.items()}

    def _judge(self, facts: Mapping[str, StoreFacts], before: Mapping[str, Any]) -> LevelResult:
        findings: list[Finding] = []
        for name, error in self._errors.items():
            if name in self._job.chosen:
                affects = f"what store {name} holds"
                findings.append(Finding(code_of(error.type), error.message, error.hint, affects, store=name))
        findings += [_empty(name) for name in self._job.chosen if name in facts and facts[name].swept is None]
        proven: dict[str, datetime] = {}
        now, removed = self._job.clock.now(), self._repository.keyring.removed
        let_go = read_let_go(self._repository, (found.inventory for found in facts.values()))
        judges = {
            name: Judge(found, tuple(other for other in facts.values() if other is not found), now, removed, let_go)
            for name, found in facts.items()
            if found.swept is not None
        }
        for name, judge in judges.items():
            repaired = (
                Repair(self._repository, facts, name, judge, self._meter.tick).run() if self._job.repair else None
            )
            own = [
                *(repaired.findings if repaired else ()),
                *judge.findings(repaired.done if repaired else frozenset()),
            ]
            findings += own
            swept = facts[name].swept
            since = _since(facts[name], swept) if swept is not None else None
            if since is not None and all(finding.affects is None for finding in own):
                proven[name] = since
        swept_all = [found.swept for found in facts.values() if found.swept is not None]
        return result_of(
            NAME,
            tuple(findings),
            checked=sum(swept.checked for swept in swept_all),
            elapsed_s=self._job.clock.monotonic() - self._began,
            proven=proven,
            facts=_record_facts(facts, before, swept_all),
        )


def _empty(store: str) -> Finding:
    """One finding instead of one for each object."""
    hint = "Run `replicator init`, which gives it the repository's keys, and `replicator mirror`, which fills it."
    return Finding(EMPTY, f"store {store} holds nothing of this repository", hint, "every restore from it", store=store)


def _since(facts: StoreFacts, swept: Swept) -> datetime | None:
    """The oldest look that still counts; None while an object was never looked at."""
    moments = [swept.moments.get(name, 0) for name in facts.inventory.known if name not in swept.absent]
    return from_microseconds(min(moments)) if moments and all(moments) and swept.given_up is None else None


def _record_facts(facts: Mapping[str, StoreFacts], before: Mapping[str, Any], swept_all: list[Swept]) -> dict[str, Any]:
    """What the next run needs to know; of stores that were not looked at, what was known already."""
    stores = dict(before)
    for name, found in facts.items():
        if found.swept is not None:
            stores[name] = _store_facts(found, found.swept, MOST_RANGES // len(facts))
    return {
        "bytes": sum(swept.bytes for swept in swept_all),
        "opened": sum(swept.opened for swept in swept_all),
        "stores": stores,
    }


def _store_facts(facts: StoreFacts, swept: Swept, most: int) -> dict[str, Any]:
    ends: dict[str, str] = {}
    for held in facts.holdings.values():
        for timeline in held.coverage.by_timeline:
            ends[str(timeline)] = str(held.coverage.end(timeline))
    return {
        "labels": sorted(facts.labels()),
        "histories": sorted({timeline for held in facts.holdings.values() for timeline in held.timelines}),
        "ends": ends,
        "wal": wal_json(facts.holdings.values()),
        "verified": ledger_of(facts.inventory.known, swept.moments, most).as_json(),
    }
