"""From what the looks at all stores brought to findings: what is damaged, missing, vanished or behind, and what for.

Pure: everything known is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from replicator.core.codes import code_of
from replicator.core.finding import Finding
from replicator.errors import KeysError, UsageError
from replicator.repository.layout import (
    PROBE,
    BeginName,
    HistoryName,
    ManifestName,
    Name,
    NoteName,
    PackId,
    PackName,
    PieceName,
    RangeName,
    SummaryName,
    WalName,
    pack_name,
    parse_name,
)
from replicator.repository.manifests import ManifestSummary
from replicator.verify.affects import Dependents, range_of
from replicator.verify.inventory import Holdings, Inventory, holdings_of, is_removed, older_than, system_of
from replicator.verify.letgo import OF_ONE_STORE, LetGo
from replicator.verify.sweep import Swept
from replicator.verify.vanished import lost_wal, wal_of_json

DAMAGED, MISSING, UNKNOWN = "object_damaged", "object_missing", "object_unknown"
SNAPSHOT_VANISHED, WAL_VANISHED, HISTORY_VANISHED = "snapshot_vanished", "wal_vanished", "history_vanished"
NOT_ALL, NOT_OPENED = "not_all_verified", "not_opened"
#: What another store has had for longer than this, a healthy store has too.
LAG_S = 120.0
_SHOWN = 20
_REPAIR = "Verify with --objects --repair: it takes the object from another store that has it well."
_GONE = "Find out who deleted it; another store, or an older version of the object in the bucket, may still have it."


@dataclass(frozen=True)
class StoreFacts:
    """Everything known of one store. `summaries` by manifest name. `swept` is None where it was only listed; `before`
    is what the last record said of it.
    """

    inventory: Inventory
    places: Mapping[str, Name]
    summaries: Mapping[str, ManifestSummary]
    segment_sizes: Mapping[int, int]
    holdings: Mapping[int, Holdings]
    swept: Swept | None = None
    before: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The store's name."""
        return self.inventory.store

    @property
    def bad(self) -> Set[str]:
        """Listed, and not to be believed."""
        return frozenset() if self.swept is None else {*self.swept.damaged, *self.swept.absent}

    def good(self) -> Mapping[int, Holdings]:
        """The holdings without what is not to be believed."""
        places = {name: place for name, place in self.places.items() if name not in self.bad}
        return {held.system_id: held for held in holdings_of(places, self.segment_sizes)}

    def needs(self) -> Mapping[tuple[int, PackId], Set[str]]:
        """By pack: the labels of the snapshots whose manifests name it."""
        found: dict[tuple[int, PackId], set[str]] = {}
        for summary in self.summaries.values():
            for pack in summary.packs:
                found.setdefault((summary.snapshot.system_id, pack), set()).add(summary.snapshot.label)
        return found

    def labels(self) -> Set[str]:
        """Of all snapshots listed."""
        return {place.snapshot.label for place in self.places.values() if isinstance(place, ManifestName)}


class Judge:
    """Findings of one store that was swept, given all the others."""

    def __init__(
        self, store: StoreFacts, others: tuple[StoreFacts, ...], now: datetime, removed: Set[str], let_go: LetGo
    ) -> None:
        assert store.swept is not None
        self._store = store
        self._swept = store.swept
        self._others = others
        self._now = now
        self._removed = removed
        self._let_go = let_go
        self._needs = {facts.name: facts.needs() for facts in (store, *others)}
        needs: dict[tuple[int, PackId], set[str]] = {}
        for found in self._needs.values():
            for pack, labels in found.items():
                needs.setdefault(pack, set()).update(labels)
        self._good = store.good()
        self._dependents = Dependents(store.holdings, self._good, store.segment_sizes, needs)
        self.missing = self._missing()

    def findings(self, repaired: Set[str] = frozenset()) -> Iterator[Finding]:
        """All of them, what is damaged first. What is `repaired` has a finding of its own."""
        for name, error in sorted(self._swept.damaged.items()):
            if name not in repaired:
                code = code_of(error.type) if isinstance(error, KeysError) else DAMAGED
                yield self.wrong(code, name, error.message, error.hint or _REPAIR)
        for name in sorted(self.missing - repaired):
            yield self.wrong(MISSING, name, f"{name}: {self._where(name)}", _REPAIR)
        yield from self._troubles()
        yield from self._vanished()
        yield from self._remarks()

    def wrong(self, code: str, name: str, text: str, hint: str) -> Finding:
        """A finding about one object, with what depends on it."""
        affects = self._dependents.of(name, parse_name(name))
        return Finding(code, text, hint, affects, object=name, store=self._store.name)

    def _missing(self) -> Set[str]:
        """Names that this store should hold and does not."""
        here = self._store.inventory.objects.keys() - self._swept.absent
        wanted = {pack_name(system_id, pack) for system_id, pack in self._needs[self._store.name]}
        for other in self._others:
            wanted |= {name for name in other.inventory.known if name not in here and self._wanted(name, other)}
        passing = (PieceName, BeginName, RangeName, SummaryName)
        gone = {name for name in self._swept.absent if not isinstance(self._store.places.get(name), passing)}
        return {name for name in wanted if name not in here} | gone

    def _wanted(self, name: str, other: StoreFacts) -> bool:
        """Whether an object that another store holds must be here too."""
        place = other.places.get(name)
        size = other.segment_sizes.get(system_of(place), 0) if place is not None else 0
        if name in other.bad or is_removed(name, self._removed) or self._let_go.holds(name, place, size):
            return False
        match place:
            case BeginName() | RangeName() | SummaryName():
                return False
            case PackName(system_id, pack):
                if not self._needs[other.name].get((system_id, pack)):
                    return False
            case NoteName(kind=kind) if kind in OF_ONE_STORE:
                return False
            case WalName() | PieceName():
                return self._wal_wanted(place, name, other)
        return older_than(other.inventory.objects[name], self._now, LAG_S)

    def _wal_wanted(self, place: WalName | PieceName, name: str, other: StoreFacts) -> bool:
        """WAL that ends after this store's does may still be on its way, and pieces give way to their segment."""
        held = self._good.get(place.system_id)
        reach = range_of(place, other.segment_sizes.get(place.system_id, 0))
        if held is not None and reach is not None:
            if held.coverage.holds(place.timeline, *reach):
                return False
            end = held.coverage.end(place.timeline)
            if end is not None and end >= reach[1] and isinstance(place, WalName):
                return True
        return older_than(other.inventory.objects[name], self._now, LAG_S)

    def _where(self, name: str) -> str:
        having = [other.name for other in self._others if name in other.inventory.objects and name not in other.bad]
        if name in self._store.inventory.objects:
            return f"store {self._store.name} lists it and does not deliver it"
        if having:
            return f"store {having[0]} has it, store {self._store.name} has not"
        return f"store {self._store.name} has not got it, and no other store that was asked either"

    def _troubles(self) -> Iterator[Finding]:
        """Objects that could not be read; one finding for a store that stopped answering."""
        store = self._store.name
        error = self._swept.given_up
        if error is not None:
            yield Finding(code_of(error.type), error.message, error.hint, f"what store {store} holds", store=store)
            return
        for name, trouble in sorted(self._swept.trouble.items()):
            yield self.wrong(code_of(trouble.type), name, trouble.message, trouble.hint)

    def _vanished(self) -> Iterator[Finding]:
        """What an earlier record saw here. Where another store has it, it is missing, and named already."""
        store, before = self._store.name, self._store.before
        named = {place.snapshot.label for place in map(parse_name, self.missing) if isinstance(place, ManifestName)}
        listed = self._store.labels()
        for label in sorted(set(before.get("labels", ())) - listed - self._let_go.labels - named):
            text = f"snapshot {label} was in store {store} at the last verification and is no longer there"
            # Retention's own notes go in time. It never takes the newest snapshot.
            pruned = self._let_go.retention and label < max(listed, default="")
            yield Finding(SNAPSHOT_VANISHED, text, _GONE, None if pruned else f"snapshot {label}", store=store)
        yield from self._wal_vanished()
        places = (*self._store.places.values(), *map(parse_name, self.missing))
        known = {place.timeline for place in places if isinstance(place, HistoryName)}
        for timeline in sorted(set(before.get("histories", ())) - known):
            text = f"store {store} held the history of timeline {timeline} at the last verification, and no longer does"
            pruned = self._let_go.retention and all(timeline not in wal for wal in self._timelines())
            yield Finding(
                HISTORY_VANISHED, text, _GONE, None if pruned else f"recovery to timeline {timeline}", store=store
            )

    def _wal_vanished(self) -> Iterator[Finding]:
        store = self._store
        places = {name: place for name in self.missing if (place := parse_name(name)) is not None}
        missing = {found.system_id: found.coverage for found in holdings_of(places, self._sizes())}
        held = {found.system_id: found.coverage for found in store.holdings.values()}
        # Without a segment size the names of a system id say nothing: what is wrong there is named already.
        before = {system: wal for system, wal in store.before.get("wal", {}).items() if self._sizes().get(system)}
        snapshots = [place.snapshot for place in store.places.values() if isinstance(place, ManifestName)]
        for part in lost_wal(before, held, missing, self._let_go.wal):
            text = f"store {store.name} held timeline {part.timeline} from {part.start} to {part.end}"
            text += " at the last verification, and no longer does"
            after = [found for found in snapshots if found.start >= part.end and found.timeline >= part.timeline]
            until = f"to the stop of snapshot {min(after).label}" if after else "on"
            affects = f"every moment from {part.start} {until}"
            # As with snapshots: retention's own notes go in time.
            affected = None if self._let_go.retention and after else affects
            yield Finding(WAL_VANISHED, text, _GONE, affected, store=store.name)

    def _sizes(self) -> Mapping[int, int]:
        """Segment sizes as any store knows them."""
        sizes: dict[int, int] = {}
        for facts in (*self._others, self._store):
            sizes.update({system_id: size for system_id, size in facts.segment_sizes.items() if size})
        return sizes

    def _timelines(self) -> Iterator[Set[int]]:
        return (frozenset(held.coverage.by_timeline) for held in self._store.holdings.values())

    def _remarks(self) -> Iterator[Finding]:
        store, swept = self._store.name, self._swept
        known = set(self._store.inventory.known)
        strange = (name for name in self._store.inventory.objects if name not in known)
        unknown = [name for name in strange if not name.startswith(PROBE)]
        for name in unknown[:_SHOWN]:
            text = f"{name}: no name of an object of this repository; readers ignore it"
            yield Finding(UNKNOWN, text, "Find out who put it there.", object=name, store=store)
        if len(unknown) > _SHOWN:
            yield Finding(UNKNOWN, f"{len(unknown) - _SHOWN} more names of store {store} are unknown", store=store)
        if not swept.complete and swept.given_up is None:
            left = len(self._store.inventory.known) - swept.checked - len(self._store.bad) - len(swept.trouble)
            text = f"the time ended before {left} objects of store {store} were looked at"
            yield Finding(NOT_ALL, text, "The next run begins with them.", store=store)
        if swept.opened < swept.checked:
            text = f"{swept.checked - swept.opened} objects of store {store} were verified without being opened"
            hint = "This host holds no private key: signatures and digests were checked, not what is inside."
            yield Finding(NOT_OPENED, text, hint, store=store)


def facts_of_record(value: Any) -> Mapping[str, Any]:
    """What a record said of one store, as far as it makes sense."""
    if not isinstance(value, dict):
        return {}
    try:
        wal = wal_of_json(value.get("wal", {}))
        labels = [str(label) for label in value.get("labels", ())]
        histories = [int(timeline) for timeline in value.get("histories", ())]
    except (ValueError, TypeError, AttributeError, UsageError):
        return {}
    return {"wal": wal, "labels": labels, "histories": histories, "verified": value.get("verified")}
