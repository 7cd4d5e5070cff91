"""A base backup into entries and packs.

Owns what is kept of the server's stream: everything it sends, global/pg_control last. The server leaves out what must
not be in a backup. Refuses a stream without backup_label: such a tree could not be recovered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from replicator.core.progress import Progress, Report
from replicator.errors import Interrupted, ProtocolViolation
from replicator.postgres.basebackup import ArchiveMember, BaseBackup
from replicator.postgres.tar import Kind
from replicator.repository.layout import PackId
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry
from replicator.snapshot.blocks import FileBlocks, Placer
from replicator.snapshot.index import IndexWriter, ParentIndex
from replicator.snapshot.runs import SMALLEST, choose_block_size

LABEL_FILE = "backup_label"
CONTROL_FILE = "global/pg_control"
_REPORT_EVERY = 8 * 2**20


@dataclass
class Totals:
    """What was read: bytes of files, files, and every pack that they need."""

    bytes: int = 0
    files: int = 0
    packs: set[PackId] = field(default_factory=set)


class BackupReader:
    """Reads one backup. Memory: a chunk of a file and its hashes."""

    def __init__(
        self, index: IndexWriter, placer: Placer, key: bytes, parent: ParentIndex | None, *, page: int,
        report: Report, stop: Event, step: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.totals = Totals()
        self._index = index
        self._placer = placer
        self._key = key
        self._parent = parent
        self._page = max(page, SMALLEST)
        self._report = report
        self._stop = stop
        self._step = step
        self._expected = 0
        self._reported = 0
        self._control: tuple[FileEntry, list[bytes]] | None = None
        self._labelled = False

    def read(self, backup: BaseBackup) -> Totals:
        """Every member, to the end of the backup. Raises Interrupted, ProtocolViolation, and what the source raises."""
        self._expected = backup.expected_bytes
        for member in backup.archives():
            self._member(member)
        if not self._labelled or self._control is None:
            raise ProtocolViolation(
                f"the base backup has no {CONTROL_FILE if self._labelled else LABEL_FILE}",
                hint="Nothing was kept; look at the server's log.",
            )
        self._index.add(*self._control)
        self._report(Progress("snapshot", "read", self.totals.bytes, self.totals.bytes))
        return self.totals

    def _member(self, member: ArchiveMember) -> None:
        if member.kind is Kind.FILE:
            self._file(member)
        elif member.kind is Kind.DIRECTORY:
            self._index.add(DirectoryEntry(member.path, member.mode))
        else:
            self._index.add(LinkEntry(member.path, member.mode, member.link_target))

    def _file(self, member: ArchiveMember) -> None:
        self._step("file")
        old = self._parent.file(member.path) if self._parent is not None else None
        block_size = old.block_size if old is not None else choose_block_size(member.size, self._page)
        blocks = FileBlocks(self._placer, self._key, block_size, old)
        for data in member.chunks():
            blocks.feed(data)
            self._read(len(data))
        blocks.finish()
        entry = FileEntry(member.path, member.mode, blocks.size, member.mtime, block_size, tuple(blocks.chunks))
        self.totals.files += 1
        self.totals.packs |= blocks.packs
        self._labelled = self._labelled or member.path == LABEL_FILE
        if member.path == CONTROL_FILE:
            self._control = entry, blocks.chunk_bytes
        else:
            self._index.add(entry, blocks.chunk_bytes)

    def _read(self, count: int) -> None:
        if self._stop.is_set():
            raise Interrupted("the snapshot was stopped")
        self.totals.bytes += count
        if self.totals.bytes - self._reported >= _REPORT_EVERY:
            self._reported = self.totals.bytes
            total = max(self._expected, self.totals.bytes)
            self._report(Progress("snapshot", "read", self.totals.bytes, total))
