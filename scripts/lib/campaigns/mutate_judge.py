"""Whether a verification named what was done. Pure but for the names in a directory; knows nothing of verify's ways.

Owns what counts as named, and what nothing can anchor: docs/threats.md says the same in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from replicator.core.coverage import Coverage
from replicator.core.finding import Finding
from replicator.core.lsn import Lsn, Segment
from replicator.repository.layout import HistoryName, ManifestName, PieceName, WalName, parse_name
from replicator.verify.model import VerifyResult
from scripts.lib.campaigns.mutate_ground import STORES, Ground, names_in
from scripts.lib.campaigns.mutate_harm import Harm
from scripts.lib.campaigns.mutate_names import kind_of

SEGMENT = 2**20
#: Findings that tell of WAL by range instead of by name.
_BY_RANGE = {"open_gap", "store_behind", "snapshot_lacks_wal", "wal_vanished"}
#: Nothing else says that they were there, and no restore needs them.
_TOLD_BY_NOTHING = ("begin", "note", "record", "recipient")


class Verdict(Enum):
    """`harmless`: nothing was lost (another object holds the same WAL; a mark that nothing reads any more)."""

    NAMED = "named"
    HARMLESS = "harmless"
    UNANCHORED = "unanchored"
    MISSED = "missed"


@dataclass(frozen=True)
class Anchors:
    """What the newest record of the level `objects` remembers of one store."""

    labels: frozenset[str]
    ends: Mapping[int, Lsn]


def anchors_of(ground: Ground) -> Mapping[str, Anchors]:
    """By store."""
    root = ground.original(STORES[0])
    newest = max(name for name in names_in(root) if kind_of(name) == "record" and "-objects-" in name)
    facts = json.loads((root / newest).read_bytes().split(b"\n")[0])["body"]["facts"]["stores"]
    return {
        store: Anchors(
            frozenset(held["labels"]), {int(timeline): Lsn.parse(end) for timeline, end in held["ends"].items()}
        )
        for store, held in facts.items()
    }


def coverage_of(names: Iterable[str]) -> Coverage:
    """The WAL that names claim."""
    places = (place for place in map(parse_name, names) if isinstance(place, WalName | PieceName))
    return Coverage.of(coverage_of_place(place) for place in places)


def coverage_of_place(place: WalName | PieceName) -> tuple[int, int, int]:
    """(timeline, start, end) that a name claims."""
    if isinstance(place, PieceName):
        return place.timeline, place.start, place.end
    segment = Segment.parse(place.segment, SEGMENT)
    return segment.timeline, segment.start, segment.end


class Judge:
    """Judges every run against the repository as it was."""

    def __init__(self, ground: Ground) -> None:
        self._names = {store: frozenset(names_in(ground.original(store))) for store in STORES}
        self._anchors = anchors_of(ground)

    def verdict(self, harm: Harm, result: VerifyResult) -> tuple[Verdict, str]:
        """The worst of all stores and names, and what it is about."""
        findings = [found for level in result.levels.values() for found in level.findings if found.affects is not None]
        worst = (Verdict.HARMLESS, "")
        if findings and result.exit_code == 0:
            return Verdict.MISSED, "the exit code is 0"
        for store in harm.stores:
            own = [found for found in findings if found.store in (store, None)]
            for name in sorted(harm.changed):
                if not any(found.object == name for found in own):
                    return Verdict.MISSED, f"{name} in {store}"
                worst = (Verdict.NAMED, name)
            for name in sorted(harm.gone):
                verdict = self._gone(harm, store, name, own)
                if verdict is Verdict.MISSED:
                    return verdict, f"{name} in {store}"
                if worst[0] is Verdict.HARMLESS or (verdict is Verdict.UNANCHORED and not harm.changed):
                    worst = (verdict, name)
        return worst

    def mendable(self, harm: Harm) -> frozenset[str]:
        """What a repair from the other store must put back: all but what is harmless to lose."""
        own = self._names[harm.stores[0]]
        same = coverage_of(own) == coverage_of(own - harm.gone)
        harmless = {"begin", "wal", "piece"} if same else {"begin"}
        gone = {name for name in harm.gone if kind_of(name) not in harmless}
        return frozenset((harm.changed & own) | gone)

    def _gone(self, harm: Harm, store: str, name: str, findings: list[Finding]) -> Verdict:
        if any(found.object == name for found in findings):
            return Verdict.NAMED
        place, everywhere = parse_name(name), harm.stores == STORES
        if isinstance(place, WalName | PieceName):
            return self._wal_gone(harm, store, place, findings)
        if isinstance(place, ManifestName):
            label = place.snapshot.label
            if any(label in f"{found.text} {found.affects}" for found in findings):
                return Verdict.NAMED
            newer = label not in self._anchors[store].labels
            return Verdict.UNANCHORED if everywhere and (newer or harm.whole) else Verdict.MISSED
        if everywhere and (harm.whole or kind_of(name) in _TOLD_BY_NOTHING):
            return Verdict.UNANCHORED
        if isinstance(place, HistoryName):
            told = [found for found in findings if f"timeline {place.timeline}" in f"{found.text} {found.affects}"]
            return Verdict.NAMED if told else Verdict.MISSED
        if everywhere and place is None:  # a key or a writer: all that stands on it is named instead
            return Verdict.NAMED if findings else Verdict.MISSED
        return Verdict.HARMLESS if kind_of(name) == "begin" else Verdict.MISSED

    def _wal_gone(self, harm: Harm, store: str, place: WalName | PieceName, findings: list[Finding]) -> Verdict:
        before = coverage_of(self._names[store])
        after = coverage_of(self._names[store] - harm.gone)
        if before == after:
            return Verdict.HARMLESS
        if any(_same_bytes(place, parse_name(found.object or "")) for found in findings):
            return Verdict.NAMED  # what stands in its place is named, with what depends on it
        timeline = f"timeline {place.timeline}"
        if any(found.code in _BY_RANGE and (timeline in found.text or "snapshot" in found.text) for found in findings):
            return Verdict.NAMED
        if harm.stores != STORES:
            return Verdict.MISSED
        end, known = after.end(place.timeline), self._anchors[store].ends.get(place.timeline, Lsn(0))
        newest = end is not None and end >= known and not _holed(before, after, place.timeline)
        return Verdict.UNANCHORED if newest or harm.whole else Verdict.MISSED


def _same_bytes(one: WalName | PieceName, other: object) -> bool:
    """Whether two names claim the same WAL."""
    return isinstance(other, WalName | PieceName) and coverage_of_place(one) == coverage_of_place(other)


def _holed(before: Coverage, after: Coverage, timeline: int) -> bool:
    return len(after.by_timeline.get(timeline, ())) > len(before.by_timeline.get(timeline, ()))
