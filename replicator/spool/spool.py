"""The spool of one cluster: what was received, what of it is durable, and who waits for more.

Owns positions, raw WAL, histories and sealed objects of one system id. `flushed` only moves after an fsync that went
well. One thread receives; any may read, wait and let go.
"""

from __future__ import annotations

import os
import re
from bisect import insort
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Condition

from replicator.core.lsn import Lsn, Segment
from replicator.core.timeline import TimelineHistory
from replicator.errors import HostLacks, WalConflict
from replicator.spool.files import make_directory, translated, write_whole
from replicator.spool.marks import SendTimes
from replicator.spool.position import START, Position
from replicator.spool.sealed import Describe, SealedObjects
from replicator.spool.walfiles import HeldSegment, SegmentSizeFile, WalFiles

_HISTORY = re.compile(r"([0-9A-F]{8})\.history\Z")


class Spool:
    """`directory` is the cluster's; `segment_size` None reads the remembered one; `describe`, given that size, knows
    the repository's names. Raises HostLacks, SpoolFull.
    """

    def __init__(
        self, directory: Path, system_id: int, describe: Callable[[int], Describe], segment_size: int | None = None
    ) -> None:
        self.system_id = system_id
        self._directory = directory / str(system_id)
        with translated(directory):
            make_directory(self._directory)
        remembered = SegmentSizeFile(self._directory)
        known = remembered.read()
        if segment_size is None and known is None:
            raise HostLacks(f"the spool of {system_id} does not say its segment size: {self._directory}")
        if known is None and segment_size is not None:
            remembered.write(segment_size)
        if known is not None and segment_size is not None and known != segment_size:
            raise WalConflict(
                f"cluster {system_id} has segments of {segment_size} bytes, its spool has {known}",
                hint="pg_resetwal changed the size; move the old spool away once every store has its WAL.",
            )
        self.segment_size: int = segment_size or known or 0
        self.times = SendTimes()
        self.sealed = SealedObjects(self._directory / "sealed", describe(self.segment_size))
        self._wal = WalFiles(self._directory / "wal", self.segment_size)
        self._changed = Condition()
        self._histories = self._read_histories()
        self._held = self._wal.recover()
        self._raw_size = sum(held.end - held.segment.start for held in self._held)
        self._received = self._held[-1].position if self._held else START
        self._begins = {held.segment.timeline: held.segment.start for held in reversed(self._held)}
        self._ends = {held.segment.timeline: held.end for held in self._held}
        self._flushed = self._received

    @property
    def received(self) -> Position:
        """The end of what was written; START while there is nothing."""
        return self._received

    @property
    def flushed(self) -> Position:
        """The end of what is durable here."""
        return self._flushed

    @property
    def usage(self) -> int:
        """Bytes of raw WAL and sealed objects."""
        return self._raw_size + self.sealed.size

    @property
    def free(self) -> int:
        """Bytes that the spool's disk still takes. Raises HostLacks."""
        with translated(self._directory):
            found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def held(self) -> tuple[HeldSegment, ...]:
        """Every segment file, in the order of the stream."""
        with self._changed:
            return tuple(self._held)

    def ended(self, held: HeldSegment) -> bool:
        """Whether no byte will be added to a segment: another one was begun after it."""
        return held.segment != (newest := self.newest()) and newest is not None

    def stretches(self) -> tuple[tuple[int, Lsn, Lsn], ...]:
        """(timeline, start, end) of what this process has known the spool to hold, also of what it let go since."""
        with self._changed:
            return tuple((timeline, self._begins[timeline], end) for timeline, end in sorted(self._ends.items()))

    def newest(self) -> Segment | None:
        """The segment received last."""
        with self._changed:
            return self._held[-1].segment if self._held else None

    def histories(self) -> dict[int, bytes]:
        """The `.history` files by timeline."""
        with self._changed:
            return dict(self._histories)

    def write_history(self, timeline: int, content: bytes) -> None:
        """Keep a timeline's history, durably, before anything of that timeline is written."""
        TimelineHistory.parse(timeline, content)
        if self._histories.get(timeline) == content:
            return
        write_whole(self._directory / "history" / f"{timeline:08X}.history", content)
        with self._changed:
            self._histories = {**self._histories, timeline: content}
            self._changed.notify_all()

    def append(self, segment: Segment, start: Lsn, views: Sequence[memoryview], *, acknowledged: Lsn) -> None:
        """Write received bytes, which begin at `start` in `segment` and don't pass its end.

        Bytes that are here already are compared. A difference below `acknowledged` raises WalConflict; above it the new
        bytes win (a torn tail after a crash of the machine). A whole segment becomes durable soon after its last byte,
        without a `sync`. Raises SpoolFull: then nothing of this call counts.
        """
        held = self._find(segment)
        end = held.end if held is not None else segment.start
        if start > end:
            raise ValueError(f"{start} is not the end of {segment.name} in the spool, {end}")
        if start < end and held is not None:
            start, views = self._compare(held, start, list(views), acknowledged)
            if not views:
                return
        if held is None:
            self._begin(segment)
        self._wal.write(segment, start - segment.start, views)
        self._grow(segment, Lsn(start + sum(len(view) for view in views)))
        if self._received == Position(segment.timeline, segment.end):
            try:
                self._wal.complete(segment, partial(self._advance, self._received))
            except HostLacks:
                self._cut_unflushed()
                raise

    def _begin(self, segment: Segment) -> None:
        """Only the segment that follows may be begun while what came before is not durable yet: after a crash of the
        machine that is how they are told apart. Raises HostLacks.
        """
        newest = self._held[-1] if self._held else None
        if newest is None or newest.position == Position(segment.timeline, segment.start):
            return
        self.sync()
        if newest.segment.timeline == segment.timeline and not newest.complete:
            self._wal.end(newest.segment)

    def _compare(
        self, held: HeldSegment, start: Lsn, views: list[memoryview], acknowledged: Lsn
    ) -> tuple[Lsn, list[memoryview]]:
        """Check `views` against what is here; what of them is new, and where it begins."""
        segment = held.segment
        while views and start < held.end:
            view = views[0]
            both = min(len(view), held.end - start)
            ours = self._wal.read(segment, start - segment.start, both)
            if ours != view[:both]:
                same = next(index for index, pair in enumerate(zip(ours, view, strict=False)) if pair[0] != pair[1])
                self._overwrite(held, Lsn(start + same), acknowledged)
                return Lsn(start + same), [view[same:], *views[1:]]
            start = Lsn(start + both)
            if both == len(view):
                views.pop(0)
            else:
                views[0] = view[both:]
        return start, views

    def _overwrite(self, held: HeldSegment, place: Lsn, acknowledged: Lsn) -> None:
        if place < acknowledged or held.complete or self.ended(held):
            raise WalConflict(
                f"the source sends other bytes at {place} of timeline {held.segment.timeline} than the spool holds",
                hint="Two servers wrote this timeline. Find out which one is right before anything else is done.",
                lsn=str(place), timeline=held.segment.timeline, segment=held.segment.name,
            )  # fmt: skip
        self._wal.truncate(held.segment, place - held.segment.start)
        with self._changed:
            self._held[-1] = HeldSegment(held.segment, place)
            self._raw_size -= held.end - place
            self._received = Position(held.segment.timeline, place)
            self._ends[held.segment.timeline] = place
            self._flushed = min(self._flushed, self._received)

    def sync(self) -> Position:
        """Make all that was received durable; the new `flushed`. Raises HostLacks.

        After a failed fsync the bytes behind the last good one are of unknown state: they are cut off, to be received
        again (trap 21).
        """
        reached = self._received
        if reached == self._flushed:
            return reached
        try:
            self._wal.sync()
        except HostLacks:
            self._cut_unflushed()
            raise
        self._advance(reached)
        return reached

    def take_back(self, to: Position) -> None:
        """Forget what was received after `to` in the newest segment: another server's, of which nobody was told."""
        if self._received <= to:
            return
        segment = self._held[-1].segment
        kept = max(segment.start, to.lsn) if to.timeline == segment.timeline else segment.start
        self._cut_newest(kept if kept > segment.start else None)
        self._flushed = min(self._flushed, self._received)
        self._wal.take_back(segment, kept - segment.start)

    def _cut_unflushed(self) -> None:
        """Back to `flushed`: the segments after it go, the one that it lies in is cut there; one is always kept."""
        self._wal.abandon()
        with self._changed:
            flushed = self._flushed
        gone: list[Segment] = []
        while len(self._held) > 1 and self._held[-2].position > flushed:
            gone.append(self._held[-1].segment)
            self._cut_newest(None)
        newest = self._held[-1]
        same = flushed.timeline == newest.segment.timeline
        kept = max(newest.segment.start, flushed.lsn) if same else newest.segment.start
        self._cut_newest(kept)
        # What can't be removed now is not held all the same, and written over.
        for segment in gone:
            self._wal.remove(segment)
        self._wal.truncate(newest.segment, kept - newest.segment.start)
        self._wal.abandon()

    def _cut_newest(self, kept: Lsn | None) -> None:
        """The newest segment ends at `kept`, or is gone."""
        with self._changed:
            newest = self._held.pop()
            timeline = newest.segment.timeline
            self._raw_size -= newest.end - (newest.segment.start if kept is None else kept)
            if kept is not None:
                self._held.append(HeldSegment(newest.segment, kept))
            self._received = self._held[-1].position if self._held else START
            self._ends[timeline] = newest.segment.start if kept is None else kept

    def read(self, segment: Segment, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a held segment. Raises HostLacks."""
        return self._wal.read(segment, offset, length)

    def let_go(self, segment: Segment) -> None:
        """Remove a segment's raw file; the newest is always kept (trap 4)."""
        with self._changed:
            index = next((number for number, held in enumerate(self._held) if held.segment == segment), None)
            if index is None or index == len(self._held) - 1:
                return
            gone = self._held.pop(index)
            self._raw_size -= gone.end - gone.segment.start
        self._wal.remove(segment)

    def wait_for(self, position: Position, seconds: float) -> bool:
        """Wait until `position` is durable here, for at most `seconds`; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._flushed >= position, max(0.0, seconds))

    def _find(self, segment: Segment) -> HeldSegment | None:
        with self._changed:
            return next((held for held in reversed(self._held) if held.segment == segment), None)

    def _grow(self, segment: Segment, end: Lsn) -> None:
        with self._changed:
            if self._held and self._held[-1].segment == segment:
                self._raw_size += end - self._held[-1].end
                self._held[-1] = HeldSegment(segment, end)
            else:
                self._raw_size += end - segment.start
                insort(self._held, HeldSegment(segment, end))
            self._received = max(self._received, Position(segment.timeline, end))
            self._begins.setdefault(segment.timeline, segment.start)
            self._ends[segment.timeline] = max(self._ends.get(segment.timeline, end), end)

    def _advance(self, reached: Position) -> None:
        with self._changed:
            self._flushed = max(self._flushed, reached)
            self._changed.notify_all()

    def _read_histories(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with translated(self._directory):
            for path in (self._directory / "history").glob("*.history"):
                if match := _HISTORY.match(path.name):
                    found[int(match[1], 16)] = path.read_bytes()
        return found
