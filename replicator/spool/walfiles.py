"""Raw WAL on disk: one file per segment, `.partial` until it is complete and durable, append-only by size.

Owns names, sizes and durability of the files. A file's end is where receiving stopped: nothing is preallocated. An
empty `.ended` file beside a partial one says that all of it is durable and no more comes: a gap follows.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replicator.core.lsn import Lsn, Segment
from replicator.errors import HostLacks, UsageError
from replicator.spool.files import make_directory, open_private, sync_directory, translated, write_whole
from replicator.spool.position import Position

_PARTIAL = ".partial"
_ENDED = ".ended"
_VECTORS = 512
#: Whole segments whose last fsync may be under way while the next one is written.
_BEHIND = 2


@dataclass(frozen=True, slots=True, order=True)
class HeldSegment:
    """A segment in the spool, held from its start to `end`."""

    segment: Segment
    end: Lsn

    @property
    def complete(self) -> bool:
        """Whether all of it is here."""
        return self.end == self.segment.end

    @property
    def position(self) -> Position:
        """Where it ends."""
        return Position(self.segment.timeline, self.end)


class WalFiles:
    """The files under `directory`. One thread writes; any may read and remove. Whole segments are made durable by a
    thread of its own, in order: a disk that is busy with one must not stop the socket of the next.
    """

    def __init__(self, directory: Path, segment_size: int) -> None:
        self.directory = directory
        self._size = segment_size
        self._open: tuple[Segment, int] | None = None
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="fsync")
        self._finishing: deque[tuple[Segment, Future[None]]] = deque()
        self._failed = False

    def recover(self) -> list[HeldSegment]:
        """What a former process left, made durable; in the order of the stream.

        The partial file that the last durable one of its timeline is followed by is the newest that may have counted.
        What comes after it was written while that one was not durable, and a crash of the machine may have torn both:
        it goes, and the partial one loses its last byte if it has all. So the source is asked for it again, and its
        bytes are compared. Raises HostLacks.
        """
        found = self.scan()
        durable = {held.segment.timeline: held.segment for held in found if self._known_durable(held.segment)}
        kept: list[HeldSegment] = []
        doubtful: dict[int, int] = {}
        for held in found:
            last = durable.get(held.segment.timeline)
            if last is None or held.segment > last:
                if held.segment.timeline in doubtful:
                    self.remove(held.segment)
                    continue
                doubtful[held.segment.timeline] = len(kept)
            kept.append(held)
        for index in doubtful.values():
            held = kept[index]
            if held.complete and index == len(kept) - 1:
                held = kept[index] = HeldSegment(held.segment, Lsn(held.end - 1))
            self.truncate(held.segment, held.end - held.segment.start)
            self.sync()
        with translated(self.directory):
            for directory in [*self.directory.glob("????????"), self.directory]:
                if directory.is_dir():
                    sync_directory(directory)
        return kept

    def _known_durable(self, segment: Segment) -> bool:
        with translated(self.directory):
            return self.path(segment, complete=True).exists() or self._ended(segment).exists()

    def _ended(self, segment: Segment) -> Path:
        return self.path(segment, complete=True).with_suffix(_ENDED)

    def path(self, segment: Segment, *, complete: bool) -> Path:
        """Where a segment is."""
        return self.directory / f"{segment.timeline:08X}" / (segment.name + ("" if complete else _PARTIAL))

    def scan(self) -> list[HeldSegment]:
        """What is there, in the order of the stream. A file of a whole segment's name and another size is no WAL."""
        found: dict[Segment, HeldSegment] = {}
        with translated(self.directory):
            for path in self.directory.glob("????????/*"):
                held = self._held(path)
                if held is not None and (held.segment not in found or held > found[held.segment]):
                    found[held.segment] = held
        return sorted(found.values())

    def _held(self, path: Path) -> HeldSegment | None:
        try:
            segment = Segment.parse(path.name.removesuffix(_PARTIAL), self._size)
        except UsageError:
            return None
        size = path.stat().st_size
        if size > self._size or (path.suffix != _PARTIAL and size != self._size):
            return None
        return HeldSegment(segment, segment.start + size)

    def write(self, segment: Segment, offset: int, views: Sequence[memoryview]) -> None:
        """Append at `offset`, which is the file's end. After an error the file ends there again. Raises SpoolFull."""
        path = self.path(segment, complete=False)
        with translated(path):
            descriptor = self._descriptor(segment, offset)
            try:
                _write_at(descriptor, offset, views)
            except OSError:
                os.ftruncate(descriptor, offset)
                raise

    def truncate(self, segment: Segment, size: int) -> None:
        """Cut the file: what follows is not WAL that we may keep."""
        with translated(self.directory):
            os.ftruncate(self._descriptor(segment, size), size)

    def sync(self) -> None:
        """Make what was written durable. After an error nobody knows what of it is on the disk. Raises HostLacks."""
        self._finish_until(0)
        self._sync_open()

    def _sync_open(self) -> None:
        if self._open is not None:
            with translated(self.path(self._open[0], complete=False)):
                os.fdatasync(self._open[1])

    def end(self, segment: Segment) -> None:
        """No more comes of a partial segment, and all of it is durable: what follows it may count. Raises HostLacks."""
        path = self._ended(segment)
        with translated(path):
            os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
            sync_directory(path.parent)

    def complete(self, segment: Segment, durable: Callable[[], None]) -> None:
        """Begin to make a whole segment durable and to give it its name; `durable` is called from another thread when
        both are: after a crash the name tells it from one whose last fsync was under way, and which may be torn.
        Raises HostLacks, also for an earlier segment that failed.
        """
        self._finish_until(_BEHIND - 1)
        with translated(self.path(segment, complete=False)):
            descriptor = self._descriptor(segment, self._size)
        self._open = None
        self._finishing.append((segment, self._finisher.submit(self._finish, segment, descriptor, durable)))

    def _finish(self, segment: Segment, descriptor: int, durable: Callable[[], None]) -> None:
        partial, whole = self.path(segment, complete=False), self.path(segment, complete=True)
        try:
            with translated(partial):
                try:
                    if self._failed:
                        raise OSError(None, "the segment before it could not be made durable")
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
                partial.rename(whole)
                try:
                    sync_directory(whole.parent)
                except OSError:
                    whole.rename(partial)  # what does not count is cut under this name
                    raise
        except HostLacks:
            self._failed = True  # until `abandon`, nothing that came after it counts either
            raise
        durable()

    def _finish_until(self, left: int) -> None:
        """Wait until at most `left` segments are still being made durable."""
        while len(self._finishing) > left:
            self._finishing[0][1].result()
            self._finishing.popleft()

    def read(self, segment: Segment, offset: int, length: int) -> bytes:
        """Exactly `length` bytes at `offset`; complete or partial. Raises HostLacks."""
        with translated(self.directory):
            descriptor = self._reader(segment)
            try:
                data = os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
            if len(data) != length:
                raise OSError(None, f"segment {segment.name} is shorter than it was")
        return data

    def _reader(self, segment: Segment) -> int:
        for complete in (True, False):
            with suppress(FileNotFoundError):
                return open_private(self.path(segment, complete=complete), os.O_RDONLY)
        return open_private(self.path(segment, complete=True), os.O_RDONLY)  # it was completed between the two looks

    def remove(self, segment: Segment) -> None:
        """Remove a segment's file."""
        wait([future for finishing, future in tuple(self._finishing) if finishing == segment])
        with translated(self.directory):
            for path in (*(self.path(segment, complete=complete) for complete in (True, False)), self._ended(segment)):
                path.unlink(missing_ok=True)

    def take_back(self, segment: Segment, size: int) -> None:
        """Cut the file, or remove it where nothing of it is kept; what was open is let go of."""
        self.abandon()
        if size:
            self.truncate(segment, size)
            self.abandon()
        else:
            self.remove(segment)

    def close(self) -> None:
        """Let go of the open file; the next write opens it again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def abandon(self) -> None:
        """Let go of the open file after an error, whatever closing it says; what was being made durable is or isn't."""
        wait([future for _, future in self._finishing])
        self._finishing.clear()
        self._failed = False
        with suppress(OSError):
            self.close()
        self._open = None

    def _descriptor(self, segment: Segment, least: int) -> int:
        """Of a file with `least` bytes at least: never a hole where bytes were."""
        if self._open is not None and self._open[0] == segment:
            return self._open[1]
        self._sync_open()  # what another segment still has in memory would never be synced again
        self.close()
        path = self.path(segment, complete=False)
        make_directory(path.parent)
        descriptor = open_private(path, os.O_RDWR | (0 if least else os.O_CREAT))
        try:
            size = os.fstat(descriptor).st_size
            if size < least:
                raise OSError(None, f"segment {segment.name} is shorter than it was")
            if not size:  # new, or its name could not be made durable the last time
                sync_directory(path.parent)
        except OSError:
            os.close(descriptor)
            raise
        self._open = (segment, descriptor)
        return descriptor


def _write_at(descriptor: int, offset: int, views: Sequence[memoryview]) -> None:
    """Write all of `views` one after another, many by one call."""
    waiting = [view for view in views if len(view)]
    while waiting:
        written = os.pwritev(descriptor, waiting[:_VECTORS], offset)
        offset += written
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if written:
            waiting[0] = waiting[0][written:]


class SegmentSizeFile:
    """The cluster's segment size, remembered so that the spool can be read while the source is away."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "segment-size"

    def read(self) -> int | None:
        """The size in bytes; None when none was written."""
        with translated(self._path):
            try:
                text = self._path.read_text("ascii").strip()
            except FileNotFoundError:
                return None
        return int(text) if text.isdecimal() else None

    def write(self, size: int) -> None:
        """Remember it."""
        write_whole(self._path, f"{size}\n".encode("ascii"))
