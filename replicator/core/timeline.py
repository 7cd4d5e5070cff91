"""Timeline histories (PostgreSQL manual, section 26.3.6 "Timelines").

Owns the parsing of `.history` files and the questions asked of them: which timelines lie on the path to
this one, and where each of them ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError

_LINE = re.compile(rb"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)(?:\s+(.*))?\Z")


@dataclass(frozen=True, slots=True)
class TimelineStretch:
    """The part of one timeline that lies on a path: [start, end); `end` is None for the path's last."""

    timeline: int
    start: Lsn
    end: Lsn | None

    def holds(self, lsn: int) -> bool:
        """Whether the byte at `lsn` belongs to this stretch."""
        return self.start <= lsn and (self.end is None or lsn < self.end)


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """The ancestry of `timeline`: pairs (parent timeline, switch point), oldest first; empty for timeline 1."""

    timeline: int
    parents: tuple[tuple[int, Lsn], ...]

    @classmethod
    def parse(cls, timeline: int, content: bytes) -> TimelineHistory:
        """Read a `.history` file. Raises IntegrityError when it is not one or does not ascend."""
        parents: list[tuple[int, Lsn]] = []
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip() or line.lstrip().startswith(b"#"):
                continue
            match = _LINE.match(line)
            if match is None:
                raise IntegrityError(f"history of timeline {timeline}, line {number}: not a history line")
            parent = int(match[1])
            if parent >= timeline or (parents and parent <= parents[-1][0]):
                raise IntegrityError(f"history of timeline {timeline}, line {number}: timelines do not ascend")
            parents.append((parent, Lsn.parse(match[2].decode("ascii"))))
        return cls(timeline, tuple(parents))

    @property
    def file_name(self) -> str:
        """`00000002.history`."""
        return f"{self.timeline:08X}.history"

    def path(self) -> tuple[TimelineStretch, ...]:
        """The stretches from the first known timeline to this one, oldest first."""
        stretches: list[TimelineStretch] = []
        start = Lsn(0)
        for parent, switch in self.parents:
            stretches.append(TimelineStretch(parent, start, switch))
            start = switch
        stretches.append(TimelineStretch(self.timeline, start, None))
        return tuple(stretches)

    def switchpoint(self, timeline: int) -> Lsn | None:
        """Where this path leaves `timeline`; None when it never was on it or still is."""
        return next((switch for parent, switch in self.parents if parent == timeline), None)

    def on_path(self, timeline: int) -> bool:
        """Whether `timeline` is this one or an ancestor."""
        return timeline == self.timeline or any(parent == timeline for parent, _ in self.parents)

    def timeline_of(self, lsn: int) -> int:
        """The timeline that the byte at `lsn` belongs to on this path."""
        return next(stretch.timeline for stretch in self.path() if stretch.holds(lsn))
