"""Pruning one system id of one store: what was let go of a day ago goes, and what is needed no longer is let go of.

Owns the order, which makes every moment a good one to be interrupted: a note before what it names, manifests before
what they need. What goes is listed anew, so a second run completes the first, and two at once do the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from threading import Event

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.progress import Progress, Report
from replicator.core.retention import Retention
from replicator.core.snapshot import Snapshot
from replicator.errors import AlreadyExists, IntegrityError, Interrupted, ObjectAbsent
from replicator.repository.layout import (
    PackId,
    PackName,
    PieceName,
    WalName,
    manifest_name,
    pack_name,
    packs_prefix,
    parse_name,
    pieces_prefix,
    wal_prefix,
)
from replicator.repository.notes import GONE, retired_note
from replicator.repository.objects import read_table
from replicator.store.locks import free
from replicator.store.protocol import ObjectInfo, Store
from replicator.upkeep.prune_ends import range_of
from replicator.upkeep.prune_facts import summaries
from replicator.upkeep.prune_model import WAIT, Facts, Going

KIND = "prune"
#: Names in one note: about 500 kB.
NAMES_IN_NOTE = 5000
#: Manifests that went, which a store that was away may still hold.
_NAMES_REMEMBERED = 1000
_WORKERS = 8
_BATCH = 1024


@dataclass
class Counts:
    """What went (in a dry run: what would), what waits for its day, and what a lock keeps until `locked_until`."""

    objects: int = 0
    bytes: int = 0
    waiting: int = 0
    locked: int = 0
    locked_until: datetime | None = None


@dataclass
class SystemPrune:
    """One run over one system id. `store` is what `facts` were read from. `locked_labels`: snapshots that a lock keeps,
    though the plan does not.
    """

    store: Store
    facts: Facts
    plan: Retention
    now: Callable[[], datetime]
    steps: Callable[[str], None]
    report: Report
    stop: Event
    dry_run: bool
    counts: Counts
    locked_labels: set[str] = field(default_factory=set)
    _referenced: set[PackId] = field(default_factory=set)
    _just_gone: set[PackId] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)
    _locked: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Do it. Raises StoreUnavailable and its kinds, Interrupted."""
        facts = self.facts
        gone = [] if facts.hold_all else [one.snapshot for one in facts.taken if one.label in set(self.plan.gone)]
        noted = {name for note in facts.going for name in note.names}
        for packs in self._packs(gone):
            self._just_gone.update(pack for pack in packs if pack_name(facts.system_id, pack) in noted)
        kept = self._manifests(gone)
        self.locked_labels.update(snapshot.label for snapshot in kept)
        facts.kept_wal += [LsnRange(one.timeline, one.start, one.stop) for one in (*kept, *facts.unreadable)]
        for packs in self._packs([one.snapshot for one in facts.taken if one.snapshot not in set(gone) - set(kept)]):
            self._referenced.update(packs)
        due, finished = self._due()
        self._sum_up((name for name, _ in due), ())
        self._remove(due, "due")
        self._let_go()
        self._remove(((name, 0) for name in self._dead_marks()), "mark")
        self._forget([note.name for note in finished if self._locked.isdisjoint(note.names)])
        self._forget(facts.outdated)

    def _manifests(self, gone: Sequence[Snapshot]) -> list[Snapshot]:
        """Remove the manifests of what goes; those that a lock keeps, and all that they need then stays."""
        names = {manifest_name(snapshot): snapshot for snapshot in gone}
        self._sum_up((), names)
        self._remove(((name, 0) for name in names), "manifest")
        return [snapshot for name, snapshot in names.items() if name in self._locked]

    def _packs(self, snapshots: Sequence[Snapshot]) -> Iterator[tuple[PackId, ...]]:
        """What manifests name. One that is gone by now names nothing: somebody else removed it."""
        for _, found in summaries(self.store, self.facts.keyring, snapshots):
            self._check_stop()
            if isinstance(found, IntegrityError):
                raise found  # it was well a moment ago
            if found is not None:
                yield found.packs

    def _due(self) -> tuple[list[tuple[str, int]], list[Going]]:
        """What was let go of long enough ago and is not needed again, and the notes that are finished with it."""
        facts = self.facts
        young = [note for note in facts.going if facts.now - note.put < WAIT]
        self._known = {name for note in young for name in note.names}
        due: dict[str, int] = {}
        finished: list[Going] = []
        for note in facts.going:
            if facts.now - note.put < WAIT:
                continue
            held = False
            for name in note.names:
                if name not in facts.sizes or name in self._known or not self._goes(name):
                    continue
                if self._held(name):
                    held = True
                    self._known.add(name)
                else:
                    due[name] = facts.sizes[name]
            if not held:
                finished.append(note)
        return list(due.items()), finished

    def _goes(self, name: str) -> bool:
        """Whether nothing that stays needs an object. Manifests go by the plan alone, marks with their packs."""
        place = parse_name(name)
        if isinstance(place, PackName):
            named = place.pack in self._referenced or place.pack in self._just_gone
            return not named and self._dead(place.pack.label)
        held = range_of(place, self.facts.segment_size)
        return held is not None and not self._keeps(held.timeline, held.start, held.end)

    def _fresh(self, name: str) -> bool:
        """Whether an object is to be let go of now: needed no longer, and not waiting or locked already."""
        return name not in self._known and name not in self._locked and self._goes(name)

    def _dead(self, label: str) -> bool:
        """Whether nobody puts anything under a label; one that is new since it was looked at is alive."""
        return label in self.facts.labels and label not in self.facts.living

    def _keeps(self, timeline: int, start: int, end: int) -> bool:
        kept = self.plan.keeps(timeline, start, end)
        return kept or any(
            part.timeline == timeline and part.start < end and start < part.end for part in self.facts.kept_wal
        )

    def _held(self, name: str) -> bool:
        return bool(self.facts.hold_all or (self.facts.hold_packs and "/packs/" in name))

    def _sum_up(self, due: Iterable[str], manifests: Iterable[str]) -> None:
        """Put the note that sums up what went, before it does; the earlier ones go then."""
        facts = self.facts
        names = sorted(facts.gone_names | set(manifests))[-_NAMES_REMEMBERED:]
        before = Coverage.of((part.timeline, part.start, part.end) for part in facts.gone_ranges)
        places = (range_of(parse_name(name), facts.segment_size) for name in due)
        taken = Coverage.of((part.timeline, part.start, part.end) for part in places if part is not None)
        ranges = before.union(taken).ranges()
        if self.dry_run or (set(names) == facts.gone_names and ranges == before.ranges()):
            return
        note = self._put_note(GONE, names, ranges)
        self._forget(facts.gone_notes)
        facts.gone_notes, facts.gone_names, facts.gone_ranges = [note], set(names), list(ranges)

    def _let_go(self) -> None:
        """Note what goes in a day, a bounded number of names at a time."""
        waiting: list[str] = []
        self.counts.waiting += sum(1 for name in self._known if name in self.facts.sizes)
        if not self.facts.hold_all:
            for info in self._needless():
                self._check_stop()
                self.counts.waiting += 1
                if self.dry_run:
                    self._count(info.size)
                waiting.append(info.name)
                if len(waiting) >= NAMES_IN_NOTE:
                    self._note(waiting)
                    waiting = []
        if waiting:
            self._note(waiting)

    def _note(self, names: list[str]) -> None:
        if not self.dry_run:
            self._put_note(f"going.{secrets.token_hex(4)}", names, None)

    def _needless(self) -> Iterator[ObjectInfo]:
        """What is listed and needed no longer, and no note names yet. Pieces of complete segments go at once."""
        system_id = self.facts.system_id
        pieces: dict[str, list[ObjectInfo]] = {}
        for info in self.store.list(pieces_prefix(system_id)):
            place = parse_name(info.name)
            if isinstance(place, PieceName):
                pieces.setdefault(place.segment, []).append(info)
        complete: dict[str, list[str]] = {}
        for info in self.store.list(wal_prefix(system_id)):
            place = parse_name(info.name)
            if isinstance(place, WalName) and place.segment in pieces:
                complete.setdefault(place.segment, []).append(info.name)
            if self._fresh(info.name):
                yield info
        for segment, names in complete.items():
            if len(names) == 1 and self._sound(names[0]):
                self._remove(((info.name, info.size) for info in pieces.pop(segment)), "piece")
        for info in (info for held in pieces.values() for info in held):
            if self._fresh(info.name):
                yield info
        if not self.facts.hold_packs:
            yield from self._needless_packs()

    def _needless_packs(self) -> Iterator[ObjectInfo]:
        for info in self.store.list(packs_prefix(self.facts.system_id)):
            place = parse_name(info.name)
            if not isinstance(place, PackName):
                continue
            # What a manifest named until now gets a fresh note: its day begins when that manifest goes.
            if place.pack in self._just_gone or self._fresh(info.name):
                yield info

    def _sound(self, name: str) -> bool:
        """Whether a complete segment is what its name says: a name alone lets no piece go."""
        try:
            return read_table(self.store, name, self.facts.keyring).name == name
        except ObjectAbsent:
            return False
        except IntegrityError as error:
            self.facts.damaged(name, error, name)
            return False

    def _dead_marks(self) -> Iterator[str]:
        """Marks of labels under which nothing is left."""
        if self.facts.hold_all or self.facts.hold_packs or self.dry_run:
            return
        have = {one.label for one in self.facts.taken} - set(self.plan.gone)
        for label, marks in self.facts.marks.items():
            if label in have or not self._dead(label):
                continue
            listed = (parse_name(info.name) for info in self.store.list(packs_prefix(self.facts.system_id, label)))
            if not any(isinstance(place, PackName) for place in listed):
                yield from marks

    def _remove(self, names: Iterable[tuple[str, int]], step: str) -> None:
        """Delete objects, several at once; those that a lock keeps are counted and stay."""
        source = iter(names)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="prune") as pool:
            while batch := list(islice(source, _BATCH)):
                self._check_stop()
                if self.dry_run:
                    for _, size in batch:
                        self._count(size)
                    continue
                self.steps(f"delete {step}")
                for (name, size), until in zip(batch, pool.map(self._free, (name for name, _ in batch)), strict=True):
                    if until is None:
                        self._count(size)
                    else:
                        self._is_locked(name, until)
                self.steps(f"deleted {step}")

    def _free(self, name: str) -> datetime | None:
        return free(self.store, name)

    def _is_locked(self, name: str, until: datetime) -> None:
        self._locked.add(name)
        self.counts.locked += 1
        before = self.counts.locked_until
        self.counts.locked_until = until if before is None else max(before, until)

    def _forget(self, notes: Iterable[str]) -> None:
        """Delete notes that are finished."""
        for name in notes:
            if not self.dry_run:
                self.steps("delete note")
                free(self.store, name)

    def _count(self, size: int) -> None:
        self.counts.objects += 1
        self.counts.bytes += size
        self.report(Progress(KIND, f"pruning {self.store.name}", self.counts.objects, 0, "objects"))

    def _put_note(self, subject: str, names: Iterable[str], ranges: Iterable[LsnRange] | None) -> str:
        name, body = retired_note(self.facts.keyring, self.facts.system_id, subject, names, ranges, self.now())
        self.steps("put note")
        with suppress(AlreadyExists):  # the same name says the same
            self.store.put(name, body)
        self.steps("noted")
        return name

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted("the prune was interrupted", hint="Run it again: it goes on where it was.")
