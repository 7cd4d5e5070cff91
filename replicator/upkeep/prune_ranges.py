"""Ranges and summaries of one store, written anew after a prune: what readers are spared, and no more.

Owns when they are read, put and removed. They stand on a full listing and on signed tables that were read in this very
store; nothing is ever removed from a repository because of one. Where one can't be written, readers list as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from threading import Event

from replicator.core.coverage import Coverage
from replicator.core.lsn import Segment
from replicator.core.progress import Progress, Report
from replicator.errors import AlreadyExists, IntegrityError, Interrupted, ObjectAbsent, UsageError
from replicator.repository.catalog import list_snapshots
from replicator.repository.known import read_range, read_summaries
from replicator.repository.layout import (
    RangeName,
    SummaryName,
    WalName,
    parse_name,
    range_name,
    ranges_prefix,
    summary_name,
    wal_name,
    wal_prefix,
)
from replicator.repository.manifests import ManifestSummary
from replicator.repository.objects import read_table
from replicator.repository.ranges import LARGEST, Held, Span, sign_range
from replicator.repository.summaries import sign_summaries
from replicator.seal.document import MOST_BYTES
from replicator.store.locks import free
from replicator.store.protocol import Store
from replicator.upkeep.prune_facts import summaries
from replicator.upkeep.prune_model import Facts
from replicator.upkeep.prune_store import KIND
from replicator.upkeep.range_plan import Block, TimelinePlan, Worth, merged

#: Tables read in one run of one store: with more to do, the next run goes on.
_MOST_TABLES = 8 * LARGEST
_WORKERS = 8
_BATCH = 256
#: The table of a segment of 16 MiB is some 600 bytes long: this much of its end is read.
_TAIL = 4096


@dataclass
class RangeKeeper:
    """One run over one system id, after it was pruned. `store` is what `facts` were read from."""

    store: Store
    facts: Facts
    steps: Callable[[str], None]
    report: Report
    stop: Event
    worth: Worth = field(default_factory=Worth)
    _left: int = _MOST_TABLES
    _good: set[RangeName | SummaryName] = field(default_factory=set)

    def run(self) -> None:
        """Put what is new, then remove what it stands for. Raises StoreUnavailable and its kinds, Interrupted."""
        spans, known = self._read()
        kept: set[RangeName | SummaryName] = set()
        if self.facts.segment_size:
            kept |= self._wal(spans)
        kept |= self._summaries(known)
        for name in sorted(self._good - kept, key=_text):
            self.steps("delete range")
            free(self.store, _text(name))

    def _read(self) -> tuple[list[Span], list[ManifestSummary]]:
        """Those that are there. One that is not as it was signed stays for a verification to name."""
        spans: list[Span] = []
        known: list[ManifestSummary] = []
        for info in list(self.store.list(ranges_prefix(self.facts.system_id))):
            self._check_stop()
            place = parse_name(info.name)
            try:
                if isinstance(place, RangeName):
                    span, about = read_range(self.store, place, self.facts.keyring)
                    spans += [span] if about == self.store.name else []
                elif isinstance(place, SummaryName):
                    known += read_summaries(self.store, place, self.facts.keyring)
                else:
                    continue
                self._good.add(place)
            except ObjectAbsent:  # another prune's
                continue
            except IntegrityError as error:
                self.facts.damaged(info.name, error, None)
        return spans, known

    def _wal(self, spans: list[Span]) -> set[RangeName | SummaryName]:
        """Every timeline's ranges: the names to keep."""
        retired = Coverage.of((part.timeline, part.start, part.end) for part in self.facts.gone_ranges)
        kept: set[RangeName | SummaryName] = set()
        for timeline, live in sorted(self._live().items()):
            own = [span for span in spans if span.name.timeline == timeline]
            plan = TimelinePlan(timeline, self.facts.segment_size, live, retired, own, self.worth.segments)
            self._tables(plan)
            for chain in plan.chains(plan.known.__contains__):
                for group in merged(len(block.numbers) for block in chain):
                    kept |= self._together(plan, [chain[index] for index in group])
        return kept

    def _live(self) -> dict[int, dict[int, bytes]]:
        """By timeline and number, the fingerprint of each complete segment that is listed under one name alone."""
        found: dict[int, dict[int, bytes]] = {}
        twice: list[tuple[int, int]] = []
        for info in self.store.list(wal_prefix(self.facts.system_id)):
            place = parse_name(info.name)
            if not isinstance(place, WalName):
                continue
            try:
                number = Segment.parse(place.segment, self.facts.segment_size).number
            except UsageError:
                continue
            own = found.setdefault(place.timeline, {})
            if number in own:
                twice.append((place.timeline, number))
            own[number] = bytes.fromhex(place.fingerprint)
        for timeline, number in twice:
            found[timeline].pop(number, None)
        return found

    def _tables(self, plan: TimelinePlan) -> None:
        """Learn what the tables of new segments say; one that is not as it was signed is left to the listing."""
        numbers = iter(list(plan.wanted()))

        def read(number: int) -> Held | None:
            segment = Segment(plan.timeline, number, plan.size)
            name = wal_name(self.facts.system_id, segment, plan.live[number].hex())
            try:
                table = read_table(self.store, name, self.facts.keyring, tail=_TAIL)
            except (IntegrityError, ObjectAbsent):  # named by verify, and by the next prune where it bears on that
                return None
            if (table.name, table.start, table.end) != (name, segment.start, segment.end):
                return None
            return Held(number, plan.live[number], table.first_us, table.last_us)

        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="ranges") as pool:
            while batch := list(islice(numbers, min(_BATCH, self._left))):
                self._check_stop()
                self._left -= len(batch)
                done = _MOST_TABLES - self._left
                self.report(Progress(KIND, f"writing ranges of {self.store.name}", done, 0, "segments"))
                plan.known.update((held.number, held) for held in pool.map(read, batch) if held is not None)

    def _together(self, plan: TimelinePlan, blocks: Sequence[Block]) -> set[RangeName | SummaryName]:
        """One range for some blocks; one each where it would be too large. The names to keep."""
        first = blocks[0]
        if len(blocks) == 1 and first.stays and first.span is not None:
            return {first.span.name}
        held = [plan.known[number] for block in blocks for number in block.numbers]
        name, content = sign_range(
            self.facts.keyring, self.store.name, self.facts.system_id, plan.timeline, plan.size, held
        )
        if len(content) <= MOST_BYTES:
            self._put(name, content)
            return {name}
        if len(blocks) == 1:
            return {first.span.name} if first.span is not None else set()
        return {name for block in blocks for name in self._together(plan, [block])}

    def _summaries(self, known: Iterable[ManifestSummary]) -> set[RangeName | SummaryName]:
        """What the manifests that are there say: the names to keep."""
        snapshots = {found.label: found for found in list_snapshots(self.store, self.facts.system_id)}
        if len(snapshots) < self.worth.snapshots:
            return set()
        told = {one.snapshot: one for one in known}
        unknown = [found for found in snapshots.values() if found not in told]
        for snapshot, summary in summaries(self.store, self.facts.keyring, unknown):
            self._check_stop()
            if isinstance(summary, ManifestSummary):
                told[snapshot] = summary
        wanted = (told[found] for _, found in sorted(snapshots.items()) if found in told)
        kept: set[RangeName | SummaryName] = set()
        for name, content in sign_summaries(self.facts.keyring, self.facts.system_id, wanted):
            self._put(name, content)
            kept.add(name)
        return kept

    def _put(self, name: RangeName | SummaryName, content: bytes) -> None:
        if name in self._good:
            return
        self.steps("put range")
        with suppress(AlreadyExists):  # the same name says the same
            self.store.put(_text(name), content)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted("the prune was interrupted", hint="Run it again: it goes on where it was.")


def _text(name: RangeName | SummaryName) -> str:
    return range_name(name) if isinstance(name, RangeName) else summary_name(name)


__all__ = ["RangeKeeper"]
