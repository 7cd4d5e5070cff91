"""Completing one store of one system id from the others, in the order that its promises need.

Owns what is tried where, and when a manifest may be put: after every pack that it names and the WAL from its start to
its stop are there, signed. What is damaged in one source is taken from another, and named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event

from replicator.core.finding import Finding
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, ObjectAbsent
from replicator.repository.layout import (
    PackId,
    manifest_name,
    pack_name,
    pieces_prefix,
    segment_prefix,
)
from replicator.repository.manifests import read_summary
from replicator.repository.objects import read_table
from replicator.store.locks import extend_lock
from replicator.upkeep.mirror_copy import copy_document, copy_sealed
from replicator.upkeep.mirror_plan import Inventory, Lacking, lacking, lost, segments_of, until
from replicator.upkeep.mirror_shared import Shared

_TICK_S = 0.2


@dataclass
class Target:
    """One store to be completed; `sources` are the others, in the order in which they are asked."""

    shared: Shared
    system_id: int
    segment_size: int
    inventory: Inventory
    sources: Sequence[Inventory]
    gone: Container[str]
    counts: dict[str, int] = field(default_factory=dict)
    _packs: dict[Snapshot, tuple[PackId, ...]] = field(default_factory=dict)
    _held: tuple[Snapshot, ...] = ()

    def __post_init__(self) -> None:
        """Make the plan: names and signed tables of manifests are read, nothing is put."""
        self.lacking: Lacking = lacking(self.inventory, self.sources, self.gone)
        for segment in self.lacking.conflicts:
            self.shared.found(
                Finding(
                    "wal_conflict",
                    f"the stores hold different contents of segment {segment}",
                    "Two servers wrote this timeline. Find out which object is right; neither is copied.",
                    affects=segment,
                    store=self.name,
                )
            )
        held = (snapshot for name, snapshot in self.inventory.snapshots.items() if name not in self.gone)
        self._held = tuple(sorted(held, reverse=True))
        for snapshot in (*self.lacking.snapshots, *self._held):
            packs = self._named_packs(snapshot)
            if packs is not None:
                self._packs[snapshot] = packs
        self.bytes = sum(self._size(name) for name in self._all())

    @property
    def name(self) -> str:
        """The store's name."""
        return self.inventory.store

    def _all(self) -> set[str]:
        plan = self.lacking
        names = {*plan.histories, *plan.documents, *plan.wal, *plan.pieces}
        names |= {manifest_name(snapshot) for snapshot in self._new()}
        return names | self._packs_to_come()

    def planned(self) -> dict[str, int]:
        """How many objects of each kind are to be copied, and their bytes, as listed."""
        plan = self.lacking
        return {
            "documents": len(plan.histories) + len(plan.documents),
            "wal": len(plan.wal),
            "pieces": len(plan.pieces),
            "packs": len(self._packs_to_come()),
            "snapshots": len(self._new()),
            "bytes": self.bytes,
        }

    def _new(self) -> list[Snapshot]:
        """The snapshots that it lacks and of which a source has a manifest that is signed."""
        return [snapshot for snapshot in self.lacking.snapshots if snapshot in self._packs]

    def _packs_to_come(self) -> set[str]:
        return {name for packs in self._packs.values() for name in self._missing(packs)}

    def _named_packs(self, snapshot: Snapshot) -> tuple[PackId, ...] | None:
        """From the first store whose manifest is signed, this one first."""
        name = manifest_name(snapshot)
        for source in (self.inventory, *self.sources):
            if name in source.sizes:
                with self.shared.guarding(source.store, name):
                    store = self.shared.repository.store(source.store)
                    return read_summary(store, snapshot, self.shared.keyring).packs
        return None

    def _missing(self, packs: Sequence[PackId]) -> list[str]:
        names = (pack_name(self.system_id, pack) for pack in packs)
        return [name for name in names if name not in self.inventory.packs]

    def _size(self, name: str) -> int:
        return next((source.sizes[name] for source in self.sources if name in source.sizes), 0)

    def run(self) -> None:
        """Copy. Raises StoreUnavailable about this store, Interrupted."""
        plan = self.lacking
        self.counts = dict.fromkeys(self.planned(), 0)
        with ThreadPoolExecutor(self.shared.workers, thread_name_prefix=f"mirror-{self.name}") as executor:
            try:
                for name in (*plan.histories, *plan.documents):
                    self._document(name)
                self._sealed(executor, plan.pieces, "pieces")
                done = 0
                for snapshot in self._held:  # what its own manifests name and it lost
                    self._packs_of(executor, snapshot)
                    self._marks(snapshot)
                for snapshot in self._new():
                    count = until(plan.wal, snapshot, self.segment_size)
                    self._sealed(executor, plan.wal[done:count], "wal")
                    done = max(done, count)
                    self._snapshot(executor, snapshot)
                self._sealed(executor, plan.wal[done:], "wal")
            except BaseException:
                self.shared.aborted.set()  # what runs in threads ends at its next read
                raise
            finally:
                executor.shutdown(wait=True, cancel_futures=True)
                self.shared.aborted.clear()

    def _document(self, name: str) -> None:
        for source in self._offering(name):
            with self.shared.guarding(source.store, name, target=self.name) as guard:
                target = self.shared.repository.store(self.name)
                size = copy_document(self.shared.repository.store(source.store), target, name, self.shared.keyring)
                self.shared.tick(size)
                self._copied(name, "documents", size)
                return
            if guard.ended:
                return

    def _sealed(self, executor: ThreadPoolExecutor, names: Sequence[str], kind: str) -> None:
        """Copy several at once. They become visible in this very order, so coverage never shows a hole meanwhile."""
        waiting: deque[Future[bool]] = deque()
        before = Event()
        before.set()
        for name in names:
            mine = Event()
            waiting.append(executor.submit(self._one, name, kind, before, mine))
            before = mine
            if len(waiting) > 2 * self.shared.workers:
                waiting.popleft().result()
        for future in waiting:
            future.result()

    def _one(self, name: str, kind: str, before: Event, mine: Event) -> bool:
        def turn() -> None:
            while not before.wait(_TICK_S):
                self.shared.tick(0)

        try:
            return self._copy(name, kind, turn)
        finally:
            mine.set()

    def _copy(self, name: str, kind: str, before_commit: Callable[[], None]) -> bool:
        """Whether an object is there now, from the first source that has it well."""
        target = self.shared.repository.store(self.name)
        self.shared.steps(f"copy {kind}")
        for source in self._offering(name):
            with self.shared.guarding(source.store, name, target=self.name) as guard:
                store = self.shared.repository.store(source.store)
                copy_sealed(store, target, name, self.shared.keyring, self.shared.tick, before_commit)
                self.shared.steps(f"copied {kind}")
                self._copied(name, kind, self._size(name))
                return True
            if guard.ended:
                return False
        return False

    def _offering(self, name: str) -> list[Inventory]:
        """The sources to ask: those that list it first, then the others, whose list may lag behind."""
        answering = [source for source in self.sources if source.store not in self.shared.silent]
        return sorted(answering, key=lambda source: name not in source.sizes)

    def _copied(self, name: str, kind: str, size: int) -> None:
        with self.shared.lock:
            self.inventory.add(name, size)
            self.counts[kind] += 1
            self.counts["bytes"] += size

    def _packs_of(self, executor: ThreadPoolExecutor, snapshot: Snapshot) -> frozenset[str]:
        """Copy the packs of a snapshot that it lacks; their names."""
        fresh = self._missing(self._packs.get(snapshot, ()))
        self._sealed(executor, fresh, "packs")
        copied = frozenset(name for name in fresh if name in self.inventory.packs)
        for name in fresh:
            if name not in copied and not self._listed_late(name):
                self._withheld(snapshot, "object_missing", f"no source gives its pack {name}", name)
        return copied

    def _listed_late(self, name: str) -> bool:
        """Whether an object is there that the list did not show."""
        with self.shared.guarding(self.name, name, target=self.name):
            table = read_table(self.shared.repository.store(self.name), name, self.shared.keyring)
            self.inventory.add(name, table.size)
            return True
        return False

    def _snapshot(self, executor: ThreadPoolExecutor, snapshot: Snapshot) -> None:
        """Packs, then the manifest if all that it needs is there, then the mark that it was begun."""
        fresh = self._packs_of(executor, snapshot)
        names = [pack_name(self.system_id, pack) for pack in self._packs[snapshot]]
        if not self._whole(snapshot, names, fresh) or not self._covered(snapshot):
            return
        self.shared.steps("put manifest")
        if self._copy(manifest_name(snapshot), "snapshots", lambda: None):
            self._marks(snapshot)

    def _marks(self, snapshot: Snapshot) -> None:
        marks = {name for source in self.sources for name in source.begins.get(snapshot.label, ())}
        for name in sorted(marks - self.inventory.begins.get(snapshot.label, set())):
            if name not in self.gone:
                self._document(name)

    def _whole(self, snapshot: Snapshot, names: Sequence[str], fresh: frozenset[str]) -> bool:
        """Whether this store has every pack: those that were there before by their signed tables."""
        store = self.shared.repository.store(self.name)
        for name in names:
            if name not in self.inventory.packs:
                return False
            if name in fresh:
                continue  # every byte of it was read here a moment ago
            with self.shared.guarding(self.name, name, affects=snapshot.label) as guard:
                read_table(store, name, self.shared.keyring)
                extend_lock(store, name)
            if guard.failed:
                return False
        return True

    def _covered(self, snapshot: Snapshot) -> bool:
        """Whether this store has the snapshot's own WAL, listed now, each by its signed table."""
        store = self.shared.repository.store(self.name)
        held: list[str] = []
        for segment in segments_of(snapshot, self.segment_size) if self.segment_size else ():
            # Pieces first: they go once their segment is there.
            listed = [info.name for info in store.list(pieces_prefix(self.system_id, segment))]
            listed += [info.name for info in store.list(segment_prefix(self.system_id, segment))]
            for name in listed:
                try:
                    held += [read_table(store, name, self.shared.keyring).name]
                except ObjectAbsent:
                    continue
                except IntegrityError as error:
                    self.shared.damaged(self.name, name, error, affects=snapshot.label)
        missing = lost(held, snapshot, self.segment_size) if self.segment_size else "all of it"
        if missing:
            self._withheld(snapshot, "wal_missing", f"its WAL is not there: {missing}", manifest_name(snapshot))
        return not missing

    def _withheld(self, snapshot: Snapshot, code: str, reason: str, name: str) -> None:
        if any(source.store in self.shared.silent for source in self.sources):
            return  # the store that may have it is away: that is said already
        self.shared.found(
            Finding(
                code,
                f"snapshot {snapshot.label} can not be completed in store {self.name}: {reason}",
                "A restore of it needs a store that has it all; `replicator verify` says which.",
                affects=snapshot.label,
                object=name,
                store=self.name,
            )
        )
