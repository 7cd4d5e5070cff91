"""A damaged or missing object taken from another store that has it well.

Owns the order (what others stand on first, a manifest only once its packs are there) and that nothing is put that was
not verified on its way. Where a store refuses to delete or to take, that is a finding and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field

from replicator.core.finding import Finding
from replicator.errors import (
    AlreadyExists,
    IntegrityError,
    KeysError,
    ObjectAbsent,
    ReplicatorError,
    StoreUnavailable,
)
from replicator.repository.layout import PieceName, pack_name
from replicator.repository.repository import Repository
from replicator.verify.examine import examine
from replicator.verify.findings import Judge, StoreFacts
from replicator.verify.inventory import ORDER, group_of

REPAIRED, NOT_REPAIRED = "object_repaired", "not_repaired"
_PART = 8 << 20
_FAILURES = (IntegrityError, KeysError, ObjectAbsent, StoreUnavailable)


@dataclass
class Repaired:
    """`done`: names that are well now. A finding for each object that was tried."""

    done: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


class Repair:
    """One store repaired from the others."""

    def __init__(
        self, repository: Repository, facts: Mapping[str, StoreFacts], store: str, judge: Judge,
        tick: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._repository = repository
        self._facts = facts
        self._store = store
        self._judge = judge
        self._tick = tick
        self._result = Repaired()

    def run(self) -> Repaired:
        """Repair what can be. Raises Interrupted."""
        own = self._facts[self._store]
        wrong = own.bad | self._judge.missing
        for name in sorted(wrong, key=lambda name: (ORDER.index(group_of(name)), name)):
            if not isinstance(own.places.get(name), PieceName) or name in own.bad:
                self._repair(name, wrong)
        return self._result

    def _repair(self, name: str, wrong: Set[str]) -> None:
        if group_of(name) == "ranges":
            self._drop(name)
            return
        lacking = [pack for pack in self._packs_of(name) if pack in wrong and pack not in self._result.done]
        if lacking:
            self._not(name, f"{name} was not put back: its pack {lacking[0]} is not there", "")
            return
        error: ReplicatorError | None = None
        for donor in self._donors(name):
            try:
                self._copy(name, donor)
            except _FAILURES as failure:
                error = failure
                continue
            self._result.done.add(name)
            text = f"{name} of store {self._store} was taken from store {donor}"
            self._result.findings.append(Finding(REPAIRED, text, object=name, store=self._store))
            return
        if error is None:
            self._not(name, f"{name} could not be repaired: no other store has it well", _LOST)
        else:
            self._not(name, f"{name} could not be repaired: {error.message}", error.hint or _DENIED)

    def _drop(self, name: str) -> None:
        """What only repeats others goes: the next prune writes it again. A larger one may have done so already."""
        swept = self._facts[self._store].swept
        if swept is None or name not in swept.damaged:
            return
        try:
            self._repository.store(self._store).delete(name)
        except StoreUnavailable as failure:
            self._not(name, f"{name} could not be removed: {failure.message}", failure.hint or _DENIED)
            return
        self._result.done.add(name)
        text = f"{name} of store {self._store} was removed: nothing needs it, and the next prune writes it again"
        self._result.findings.append(Finding(REPAIRED, text, object=name, store=self._store))

    def _packs_of(self, name: str) -> tuple[str, ...]:
        """The packs that a manifest stands on, from any store that has the manifest."""
        for facts in self._facts.values():
            summary = facts.summaries.get(name)
            if summary is not None:
                return tuple(pack_name(summary.snapshot.system_id, pack) for pack in summary.packs)
        return ()

    def _donors(self, name: str) -> tuple[str, ...]:
        return tuple(
            facts.name
            for facts in self._facts.values()
            if facts.name != self._store and name in facts.inventory.objects and name not in facts.bad
        )

    def _copy(self, name: str, donor: str) -> None:
        """The donor's object is read whole and verified first, and ours is verified after."""
        examine(self._repository, donor, name, self._tick)
        source, target = self._repository.store(donor), self._repository.store(self._store)
        size = source.stat(name).size
        if name in self._facts[self._store].inventory.objects:
            target.delete(name)
        if size <= _PART:
            data = source.get(name)
            self._put(name, data)
        else:
            with target.writer(name) as writer:
                for offset in range(0, size, _PART):
                    data = source.get(name, offset, _PART)
                    writer.write(data)
                    self._tick(len(data))
                writer.commit()
        examine(self._repository, self._store, name, self._tick)

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._repository.store(self._store).put(name, data)
        except AlreadyExists as error:
            hint = "The store keeps what was put there; delete it with credentials that may, and run the repair again."
            raise StoreUnavailable(f"store {self._store} did not let go of {name}", hint=hint) from error

    def _not(self, name: str, text: str, hint: str) -> None:
        self._result.findings.append(self._judge.wrong(NOT_REPAIRED, name, text, hint))


_LOST = "Take a new snapshot: it stores again what it needs, and new moments are reachable from it."
_DENIED = "Run the repair with credentials that may delete, or repair the store by hand."
