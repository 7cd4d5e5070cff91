"""When each object of a store was last found well, kept as ranges of names (docs/format.md, section 9). Pure.

Objects are named so that neighbours are made one after another: after a few runs a handful of ranges say it all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

#: More ranges than this are not kept in one record: the objects of the shortest are looked at again.
MOST_RANGES = 1000


@dataclass(frozen=True, slots=True)
class Verified:
    """Every object named from `first` to `last` that is older than `moment_us` was well at `moment_us`."""

    first: str
    last: str
    moment_us: int


@dataclass(frozen=True)
class Ledger:
    """Disjoint ranges, ascending."""

    ranges: tuple[Verified, ...] = ()

    def moment_of(self, name: str, modified_us: int) -> int:
        """When an object that was put at `modified_us` was last found well; 0 when never."""
        index = bisect_right(self.ranges, name, key=lambda held: held.first) - 1
        if index < 0 or self.ranges[index].last < name or self.ranges[index].moment_us <= modified_us:
            return 0
        return self.ranges[index].moment_us

    def as_json(self) -> list[list[Any]]:
        """As it stands in a record."""
        return [[held.first, held.last, held.moment_us] for held in self.ranges]


def ledger_of_json(value: Any) -> Ledger:
    """The reverse. What makes no sense is left out: its objects count as never looked at."""
    found: list[Verified] = []
    for entry in value if isinstance(value, list) else ():
        match entry:
            case [str(first), str(last), int(moment)] if first <= last and (not found or found[-1].last < first):
                found.append(Verified(first, last, moment))
    return Ledger(tuple(found))


def ledger_of(names: Sequence[str], moments: Mapping[str, int], most: int = MOST_RANGES) -> Ledger:
    """From all names of a store, ascending, and the moment at which each was last found well (absent or 0: never); at
    most so many ranges.
    """
    ranges: list[tuple[int, Verified]] = []
    for moment, group in groupby(names, key=lambda name: moments.get(name, 0)):
        held = list(group)
        if moment:
            ranges.append((len(held), Verified(held[0], held[-1], moment)))
    return Ledger(tuple(_bounded(ranges, most)))


def _bounded(ranges: list[tuple[int, Verified]], most: int) -> Iterable[Verified]:
    if len(ranges) > most:
        longest = sorted(ranges, key=lambda held: held[0], reverse=True)[:most]
        ranges = sorted(longest, key=lambda held: held[1].first)
    return (held for _, held in ranges)
