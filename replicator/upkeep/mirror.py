"""`mirror`: makes the stores of a repository equal, object by object, whatever one of them missed.

Owns which stores take part, what is found wrong on the way, and one mirror per host. At every moment a target keeps its
promises; an interruption costs nothing but the object that was under way, and a new run lists again and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.codes import code_of, exit_code_of
from replicator.core.coverage import Coverage
from replicator.core.finding import Finding
from replicator.core.progress import Progress, Report, silent
from replicator.errors import (
    Interrupted,
    ReplicatorError,
    UsageError,
)
from replicator.repository.catalog import system_ids
from replicator.repository.documents import GivenDocuments
from replicator.repository.keys import load_keyring
from replicator.repository.layout import parse_name
from replicator.repository.notes import ranges_of_note, read_note
from replicator.repository.objects import read_header, read_table
from replicator.repository.removals import writer_subject
from replicator.repository.repository import Repository
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SIGNING, key_text
from replicator.tolerance import Clock, only_one
from replicator.upkeep.keys_documents import RootDocuments, put_documents, read_documents
from replicator.upkeep.mirror_plan import Gone, Inventory, read_inventory
from replicator.upkeep.mirror_shared import KIND, Shared
from replicator.upkeep.mirror_target import Target

#: Findings that are no error of ours by name.
_CODES = {"object_damaged": 4, "object_missing": 4, "wal_missing": 4}


@dataclass(frozen=True)
class MirrorJob:
    """What a mirror works on. `sources` are read, `targets` completed; `repository` need not open anything.

    `steps` is told before each object that is copied and each manifest that is put.
    """

    repository: Repository
    clock: Clock
    state_directory: Path
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    dry_run: bool = False
    workers: int = 2
    steps: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class MirrorResult:
    """`stores`: for each target, how many objects of each kind were copied (`dry_run`: are to be) and their `bytes`.
    `silent`: the stores that did not answer, or that failed on the way.
    """

    stores: Mapping[str, Mapping[str, int]]
    findings: tuple[Finding, ...]
    silent: Mapping[str, ReplicatorError]
    dry_run: bool
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """8 for a conflict, 4 for what is damaged or missing, 6 for a store that did not answer."""
        codes = [finding.code for finding in self.findings if finding.affects is not None]
        return exit_code_of([*codes, *(code_of(error.type) for error in self.silent.values())], _CODES)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "dry_run": self.dry_run,
            "stores": {name: dict(counts) for name, counts in self.stores.items()},
            "findings": [finding.as_json() for finding in self.findings],
            "silent": {name: error.message for name, error in self.silent.items()},
            "elapsed_s": round(self.elapsed_s, 3),
        }


def mirror(job: MirrorJob, report: Report = silent, stop: Event | None = None) -> MirrorResult:
    """Complete every target from the sources.

    Raises UsageError with less than two stores, Conflict when another mirror of this cluster runs on this host,
    UntrustedRepository when a store holds another repository, Interrupted when `stop` is set.
    """
    if not any(source != target for source in job.sources for target in job.targets):
        raise UsageError("a mirror needs two stores", hint="Add another [[store]] to the policy and run `init`.")
    began = job.clock.monotonic()
    with only_one(job.state_directory / "mirror.lock", f"mirror of {job.repository.cluster} runs"):
        return _Run(job, report, stop or Event(), began).run()


@dataclass
class _Run:
    job: MirrorJob
    report: Report
    stop: Event
    began: float
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def run(self) -> MirrorResult:
        job = self.job
        names = tuple(dict.fromkeys((*job.sources, *job.targets)))
        repository = job.repository.only(names)
        self.report(Progress(KIND, "listing"))
        documents = read_documents(repository)
        self.shared = Shared(repository, documents, self.stop, job.steps, job.workers)
        self.counts = {name: {} for name in job.targets if name in documents.held}
        if len(documents.held) > 1:
            self._roots(documents)
            source = GivenDocuments(documents.documents)
            root = key_text(SIGNING, repository.keyring.root)
            self.shared.keyring = _believing(load_keyring(source, repository.cluster, root)[0], repository.keyring)
            self._objects()
        shared = self.shared
        elapsed = job.clock.monotonic() - self.began
        return MirrorResult(self.counts, tuple(shared.findings), dict(shared.silent), job.dry_run, elapsed)

    def _roots(self, documents: RootDocuments) -> None:
        """Keys, writers and removals: what all the rest is believed by."""
        counting = documents.counting()
        for target in self.counts:
            missing = {name: counting[name] for name in documents.lacking(target)}
            put = len(missing)
            if not self.job.dry_run:
                with self.shared.guarding(target):
                    put = put_documents(self.shared.repository.store(target), missing)
            self.counts[target]["keys"] = put

    def _objects(self) -> None:
        targets: list[Target] = []
        systems = {system for name in self.shared.answering() for system in self._listed(name)}
        for system_id in sorted(systems):
            inventories = self._inventories(system_id)
            size = self._segment_size(inventories)
            self._settle(inventories)
            gone = self._retired(inventories, size)
            for name in self.counts:
                if name not in inventories:
                    continue
                sources = [found for other, found in inventories.items() if other in self.job.sources and other != name]
                targets.append(Target(self.shared, system_id, size, inventories[name], sources, gone))
        self.shared.total = sum(target.bytes for target in targets)
        for target in targets:
            if not self.job.dry_run:
                self.shared.phase, self.shared.report = f"completing {target.name}", self.report
                with self.shared.guarding(target.name):
                    target.run()
            counts = target.planned() if self.job.dry_run else target.counts
            for kind, count in counts.items():
                self.counts[target.name][kind] = self.counts[target.name].get(kind, 0) + count

    def _listed(self, name: str) -> tuple[int, ...]:
        with self.shared.guarding(name):
            return system_ids(self.shared.repository.store(name))
        return ()

    def _inventories(self, system_id: int) -> dict[str, Inventory]:
        found: dict[str, Inventory] = {}
        for name in self.shared.answering():
            if self.stop.is_set():
                raise Interrupted("the mirror was interrupted")
            with self.shared.guarding(name):
                found[name] = read_inventory(self.shared.repository.store(name), system_id)
        return found

    def _segment_size(self, inventories: Mapping[str, Inventory]) -> int:
        """From the first WAL header that verifies, newest segments first; 0 where there is no WAL."""
        for inventory in inventories.values():
            store = self.shared.repository.store(inventory.store)
            for segment in sorted(inventory.wal, reverse=True):
                for name in inventory.wal[segment]:
                    with self.shared.guarding(inventory.store, name):
                        return read_header(store, name, self.shared.keyring).segment_size
            for name in sorted(known for known in inventory.sizes if "/pieces/" in known):
                with self.shared.guarding(inventory.store, name):
                    return read_header(store, name, self.shared.keyring).segment_size
        return 0

    def _settle(self, inventories: Mapping[str, Inventory]) -> None:
        """Where a segment seems to have two contents, look which names are to be believed, and forget the others."""
        contents: dict[str, set[str]] = {}
        for inventory in inventories.values():
            for segment, names in inventory.wal.items():
                contents.setdefault(segment, set()).update(names)
        for segment in [segment for segment, names in contents.items() if len(names) > 1]:
            for inventory in inventories.values():
                for name in sorted(inventory.wal.get(segment, ())):
                    with self.shared.guarding(inventory.store, name) as guard:
                        read_table(self.shared.repository.store(inventory.store), name, self.shared.keyring)
                    if guard.failed:
                        inventory.wal[segment].discard(name)
                        inventory.sizes.pop(name, None)
                if not inventory.wal.get(segment, True):
                    del inventory.wal[segment]

    def _retired(self, inventories: Mapping[str, Inventory], segment_size: int) -> Gone:
        """What some store let go of: it is copied to none."""
        names: set[str] = set()
        taken = Coverage.of()
        for inventory in inventories.values():
            store = self.shared.repository.store(inventory.store)
            for name in sorted(inventory.retired):
                place = parse_name(name)
                with self.shared.guarding(inventory.store, name):
                    body = read_note(store, place, self.shared.keyring)  # type: ignore[arg-type]
                    names.update(str(known) for known in body.get("names", ()))
                    if "ranges" in body:
                        parts = ranges_of_note(body)
                        taken = taken.union(Coverage.of((part.timeline, part.start, part.end) for part in parts))
        return Gone(frozenset(names), taken, segment_size)


def _believing(keyring: Keyring, known: Keyring) -> Keyring:
    """The keyring of all stores together, without what this host knew to be removed."""
    writers = {
        writer_id: public
        for writer_id, public in keyring.writers.items()
        if writer_subject(writer_id) not in known.removed
    }
    return replace(keyring.without_secrets(), writers=writers, removed=keyring.removed | known.removed)


__all__ = ["KIND", "MirrorJob", "MirrorResult", "mirror"]
