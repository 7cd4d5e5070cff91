"""Ranges: which complete segments a store holds of a span, so that they need no listing (docs/format.md, section 10).

Owns their bodies. It reads and puts nothing, and decides nothing: a range repeats what signed tables said.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from replicator.core.coverage import Coverage
from replicator.core.lsn import Lsn, Segment
from replicator.errors import IntegrityError, UsageError
from replicator.repository.layout import RangeName, range_name, wal_prefix
from replicator.seal.digest import fingerprint
from replicator.seal.document import canonical, open_document, sign_as_writer
from replicator.seal.keyring import Keyring

#: The most segments of one range.
LARGEST = 16384
_MARK = 8


@dataclass(frozen=True, slots=True)
class Held:
    """One complete segment: its number, its fingerprint (8 bytes), and the times of its table in microseconds."""

    number: int
    mark: bytes
    begun_us: int
    sent_us: int


@dataclass(frozen=True, slots=True)
class Span:
    """A range as it was signed. `runs`: (number of the first segment, how many) of each gapless run, ascending; the
    others have one value per segment, in order (`marks`: 8 bytes each).
    """

    name: RangeName
    segment_size: int
    runs: tuple[tuple[int, int], ...]
    marks: bytes
    begun: Sequence[int]
    sent: Sequence[int]

    def __len__(self) -> int:
        """How many segments it names."""
        return len(self.sent)

    @property
    def text(self) -> str:
        """Its object's name."""
        return range_name(self.name)

    def held(self) -> Iterator[Held]:
        """Every segment, ascending."""
        numbers = (number for first, count in self.runs for number in range(first, first + count))
        for index, number in enumerate(numbers):
            mark = self.marks[index * _MARK : (index + 1) * _MARK]
            yield Held(number, mark, self.begun[index], self.sent[index])

    def kept(self, retired: Coverage) -> Iterator[tuple[int, int]]:
        """The runs without the segments that retention took."""
        size = self.segment_size
        for first, count in self.runs:
            done = first
            for part in retired.missing(self.name.timeline, first * size, (first + count) * size):
                low, high = max(done, part.start // size), -(-int(part.end) // size)
                if low < high:
                    yield low, high - low
                    done = high

    def objects(self, retired: Coverage) -> Iterator[tuple[str, str]]:
        """(segment name, object name) of every segment that retention did not take, ascending."""
        per_log = 2**32 // self.segment_size
        prefix, head = wal_prefix(self.name.system_id, self.name.timeline), f"{self.name.timeline:08X}"
        for first, count in self.kept(retired):
            index = self._index(first)
            marks = self.marks[index * _MARK : (index + count) * _MARK].hex()
            for at, number in enumerate(range(first, first + count)):
                log = f"{number // per_log:08X}"
                segment = f"{head}{log}{number % per_log:08X}"
                yield segment, f"{prefix}{log}/{segment}-{marks[2 * _MARK * at : 2 * _MARK * (at + 1)]}"

    def triples(self, retired: Coverage) -> Iterator[tuple[int, int, int]]:
        """(timeline, start, end) of what `objects` names."""
        for first, count in self.kept(retired):
            yield self.name.timeline, first * self.segment_size, (first + count) * self.segment_size

    def times(self, number: int, mark: str) -> tuple[int, int] | None:
        """First and last time of the table of segment `number` with the fingerprint `mark`; None if it is not here."""
        index = self._index(number)
        if index < 0 or self.marks[index * _MARK : (index + 1) * _MARK].hex() != mark:
            return None
        return self.begun[index], self.sent[index]

    def _index(self, number: int) -> int:
        """Where a segment stands; below 0 when it is not here."""
        at = bisect_right(self.runs, (number, 2**64)) - 1
        if at < 0 or number >= self.runs[at][0] + self.runs[at][1]:
            return -1
        return sum(count for _, count in self.runs[:at]) + number - self.runs[at][0]


def sign_range(
    keyring: Keyring, store: str, system_id: int, timeline: int, segment_size: int, held: Sequence[Held]
) -> tuple[RangeName, bytes]:
    """(name, content) of a range of `held` (ascending, not empty), ready to be put into `store`: what its tables said.
    The same segments make the same bytes. Raises KeysError without a writer key.
    """
    runs: list[list[Any]] = []
    following, before = -1, 0
    begun: list[int] = []
    sent: list[int] = []
    for one in held:
        if one.number != following:
            runs.append([Segment(timeline, one.number, segment_size).name, 0])
        runs[-1][1] += 1
        following = one.number + 1
        begun.append(one.begun_us - before)
        sent.append(one.sent_us - one.begun_us)
        before = one.sent_us
    body = {
        "store": store,
        "segment_size": segment_size,
        "timeline": timeline,
        "runs": runs,
        "fingerprints": b"".join(one.mark for one in held).hex(),
        "begun": begun,
        "sent": sent,
    }
    mark = fingerprint(keyring.repository_id, canonical(body))
    start, end = Lsn(held[0].number * segment_size), Lsn(following * segment_size)
    name = RangeName(system_id, timeline, start, end, mark)
    return name, sign_as_writer(keyring, "range", range_name(name), body)


def parse_range(keyring: Keyring, name: RangeName, data: bytes) -> tuple[Span, str]:
    """A range from its bytes, and the store that it is about. Raises IntegrityError."""
    text = range_name(name)
    body = open_document(keyring, "range", text, data)
    if fingerprint(keyring.repository_id, canonical(body)) != name.fingerprint:
        raise IntegrityError(f"{text}: its fingerprint is another's", object=text)
    try:
        span = _span(name, body)
        store = body["store"]
    except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
        raise IntegrityError(f"{text}: a range that makes no sense", object=text) from error
    if not _sound(span) or body["timeline"] != name.timeline or not isinstance(store, str):
        raise IntegrityError(f"{text}: a range that makes no sense", object=text)
    return span, store


def _span(name: RangeName, body: dict[str, Any]) -> Span:
    size = body["segment_size"]
    runs = []
    for text, count in body["runs"]:
        segment = Segment.parse(text, size)
        if segment.timeline != name.timeline or not isinstance(count, int) or count < 1:
            raise ValueError(text)
        runs.append((segment.number, count))
    steps = zip(body["begun"], body["sent"], strict=True)
    moments = array("q", accumulate(step for pair in steps for step in pair))
    return Span(name, size, tuple(runs), bytes.fromhex(body["fingerprints"]), moments[::2], moments[1::2])


def _sound(span: Span) -> bool:
    """Whether its parts say the same, and the name's place."""
    total = sum(count for _, count in span.runs)
    if not 0 < total <= LARGEST or total != len(span.sent) or total * _MARK != len(span.marks):
        return False
    ends = [first + count for first, count in span.runs]
    ascending = all(end < first for end, (first, _) in zip(ends, span.runs[1:], strict=False))
    place = (span.runs[0][0] * span.segment_size, ends[-1] * span.segment_size)
    return ascending and place == (span.name.start, span.name.end)
