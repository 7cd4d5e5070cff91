"""Raw WAL on disk: one file per segment, `.partial` until it is complete, append-only by size.

Owns names, sizes and durability of the files. A file's end is where receiving stopped: nothing is preallocated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from replicator.core.lsn import Lsn, Segment
from replicator.errors import UsageError
from replicator.spool.files import make_directory, open_private, sync_directory, translated, write_whole
from replicator.spool.position import Position

_PARTIAL = ".partial"
_VECTORS = 512


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
    """The files under `directory`. One thread writes; any may read and remove."""

    def __init__(self, directory: Path, segment_size: int) -> None:
        self.directory = directory
        self._size = segment_size
        self._open: tuple[Segment, int] | None = None

    def settle(self) -> None:
        """Make the names that a former process left durable: it may have died between making and syncing one."""
        with translated(self.directory):
            for directory in [*self.directory.glob("????????"), self.directory]:
                if directory.is_dir():
                    sync_directory(directory)

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
            descriptor = self._descriptor(segment)
            try:
                _write_at(descriptor, offset, views)
            except OSError:
                os.ftruncate(descriptor, offset)
                raise

    def truncate(self, segment: Segment, size: int) -> None:
        """Cut the file: what follows is not WAL that we may keep."""
        with translated(self.directory):
            os.ftruncate(self._descriptor(segment), size)

    def sync(self) -> None:
        """Make what was written durable. After an error nobody knows what of it is on the disk. Raises HostLacks."""
        if self._open is not None:
            with translated(self.path(self._open[0], complete=False)):
                os.fdatasync(self._open[1])

    def complete(self, segment: Segment) -> None:
        """Make a whole segment durable and give it its name. The name need not be durable: a file of full size under
        the name that was made durable before its first byte says the same after a crash.
        """
        partial, whole = self.path(segment, complete=False), self.path(segment, complete=True)
        with translated(partial):
            os.fdatasync(self._descriptor(segment))
            self.close()
            partial.rename(whole)

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
        with translated(self.directory):
            for complete in (True, False):
                self.path(segment, complete=complete).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the open file; the next write opens it again."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def abandon(self) -> None:
        """Let go of the open file after an error, whatever closing it says."""
        with suppress(OSError):
            self.close()
        self._open = None

    def _descriptor(self, segment: Segment) -> int:
        if self._open is not None and self._open[0] == segment:
            return self._open[1]
        self.sync()  # what another segment still has in memory would never be synced again
        self.close()
        path = self.path(segment, complete=False)
        make_directory(path.parent)
        new = not path.exists()
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        self._open = (segment, descriptor)
        if new:
            sync_directory(path.parent)
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
