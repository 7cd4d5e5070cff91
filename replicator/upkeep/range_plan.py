"""Which ranges a store should hold: from its listing and the ranges that are there. Pure.

Owns what may stand in one range together, and when small ones give way to a larger one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from replicator.core.coverage import Coverage
from replicator.repository.known import smallest_cover
from replicator.repository.ranges import LARGEST, Held, Span


@dataclass(frozen=True, slots=True)
class Worth:
    """How many segments are worth a range, and how many snapshots a summary: fewer cost few requests anyway."""

    segments: int = 256
    snapshots: int = 16


@dataclass(frozen=True)
class Block:
    """Segments that go into one range together: those of `span`, or new ones. Ascending numbers."""

    numbers: Sequence[int]
    span: Span | None = None

    @property
    def stays(self) -> bool:
        """Whether its range is as it should be: most of what it names is there still."""
        return self.span is not None and len(self.span) <= 2 * len(self.numbers)


@dataclass
class TimelinePlan:
    """One timeline of one store. `live`: the fingerprints of the complete segments that are listed once, by number;
    `retired`: WAL that retention took.
    """

    timeline: int
    size: int
    live: Mapping[int, bytes]
    retired: Coverage
    spans: Sequence[Span]
    shortest: int
    known: dict[int, Held] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Believe the spans that say what is listed."""
        true = [span for span in self.spans if self._true(span)]
        by_name = {span.name: span for span in true}
        cover = smallest_cover([(int(span.name.start), int(span.name.end), span.name) for span in true])
        self.cover = [by_name[name] for name in cover]
        for span in self.cover:
            self.known.update((one.number, one) for one in span.held() if one.number in self.live)

    def _true(self, span: Span) -> bool:
        """Whether all that it names is listed, once, but for what retention took; and nothing else lies between."""
        if span.segment_size != self.size:
            return False
        marks = {one.number: one.mark for one in span.held()}
        kept = (number for first, count in span.kept(self.retired) for number in range(first, first + count))
        first, end = span.name.start // self.size, span.name.end // self.size
        more = len(marks) < end - first and any(at in self.live for at in range(first, end) if at not in marks)
        return not more and all(self.live.get(number) == marks[number] for number in kept)

    def wanted(self) -> Iterator[int]:
        """The numbers of segments whose tables are to be read, ascending."""
        for chain in self.chains(self.live.__contains__):
            for block in chain:
                if block.span is None:
                    yield from block.numbers

    def chains(self, is_sound: Callable[[int], bool]) -> Iterator[list[Block]]:
        """Blocks that may be merged with their neighbours, ascending; without what is not worth a range. What is not
        sound stays listed, so nothing goes on over it.
        """
        chain: list[Block] = []
        for block in self._blocks(is_sound):
            if chain and not self._joins(chain[-1].numbers[-1], block.numbers[0]):
                yield from self._worth(chain)
                chain = []
            chain.append(block)
        yield from self._worth(chain)

    def _worth(self, chain: list[Block]) -> Iterator[list[Block]]:
        """A chain without the few new segments at its end."""
        while chain and chain[-1].span is None and len(chain[-1].numbers) < self.shortest:
            chain = chain[:-1]
        if chain:
            yield chain

    def _blocks(self, is_sound: Callable[[int], bool]) -> Iterator[Block]:
        """The live numbers by the span that they stand in; new ones as far as they join, at most LARGEST together."""
        numbers: list[int] = []
        owner: Span | None = None
        rest = deque(self.cover)
        for number in sorted(self.live):
            while rest and rest[0].name.end // self.size <= number:
                rest.popleft()
            own = rest[0] if rest and rest[0].name.start // self.size <= number else None
            if own is None and not is_sound(number):
                continue
            new = numbers and own is None and (len(numbers) == LARGEST or not self._joins(numbers[-1], number))
            if numbers and (own is not owner or new):
                yield Block(numbers, owner)
                numbers = []
            numbers.append(number)
            owner = own
        if numbers:
            yield Block(numbers, owner)

    def _joins(self, before: int, after: int) -> bool:
        """Whether nothing but what retention took lies between two segments."""
        between = (before + 1) * self.size, after * self.size
        return after == before + 1 or (
            self.retired.holds(self.timeline, *between) and not any(at in self.live for at in range(before + 1, after))
        )


def merged(counts: Iterable[int], largest: int = LARGEST) -> list[range]:
    """Which neighbours become one, given how many segments each has: a smaller one before a larger is taken into it, so
    that there are few, and each segment is written again only a few times.
    """
    groups: list[tuple[range, int]] = []
    for index, count in enumerate(counts):
        group, total = range(index, index + 1), count
        while groups and groups[-1][1] < 2 * total and groups[-1][1] + total <= largest:
            before, size = groups.pop()
            group, total = range(before.start, group.stop), total + size
        groups.append((group, total))
    return [group for group, _ in groups]
