"""A base backup over the network into entries and packs.

Owns what is kept of the server's stream: everything it sends, global/pg_control last. The server leaves out what must
not be in a backup. Refuses a stream without backup_label: such a tree could not be recovered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replicator.errors import ProtocolViolation, SourceUnavailable
from replicator.postgres.basebackup import ArchiveMember, BaseBackup, base_backup
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.datadir import CONTROL_FILE
from replicator.postgres.tar import Kind
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry
from replicator.snapshot.blocks import FileBlocks
from replicator.snapshot.runs import choose_block_size
from replicator.snapshot.source import LABEL_FILE, Asked, Ended, Intake, ReadingProgress, Totals


@contextmanager
def network_source(connection: ReplicationConnection, asked: Asked) -> Iterator[NetworkSource]:
    """BASE_BACKUP on that connection, which is the source's from now on."""
    with base_backup(
        connection, label=asked.label, checkpoint=asked.checkpoint, max_rate=asked.rate_limit
    ) as backup:  # fmt: skip
        yield NetworkSource(backup)


class NetworkSource:
    """One running BASE_BACKUP."""

    def __init__(self, backup: BaseBackup) -> None:
        self._backup = backup
        #: Where it begins.
        self.timeline, self.start_lsn = backup.timeline, backup.start_lsn

    def read(self, intake: Intake) -> tuple[Totals, Ended]:
        """Every member, to the end of the backup. Raises Interrupted, ProtocolViolation, and what the source raises."""
        totals = BackupReader(intake, self._backup.expected_bytes).read(self._backup)
        return totals, self._ended()

    def _ended(self) -> Ended:
        backup = self._backup
        if backup.stop_lsn is None or backup.stop_timeline != backup.timeline:
            raise SourceUnavailable(
                f"the server changed from timeline {backup.timeline} to {backup.stop_timeline} during the backup",
                hint="Take the snapshot again.",
            )
        spaces = tuple(
            {"in_place": not space.location.startswith("/"), "location": space.location, "oid": space.oid}
            for space in backup.tablespaces
            if space.oid is not None
        )
        damage: tuple[str, ...] = ()
        if backup.checksum_failures:
            damage = tuple(backup.warnings) or ("the server found pages with wrong checksums",)
        return Ended(backup.timeline, backup.start_lsn, backup.stop_lsn, spaces, damage)


class BackupReader:
    """Reads one backup. Memory: a chunk of a file and its hashes."""

    def __init__(self, intake: Intake, expected: int) -> None:
        self.totals = Totals()
        self._intake = intake
        self._expected = expected
        self._progress = ReadingProgress(self.totals, expected, intake.report, intake.stop)
        self._control: tuple[FileEntry, list[bytes]] | None = None
        self._labelled = False

    def read(self, backup: BaseBackup) -> Totals:
        """Every member, to the end of the backup. Raises Interrupted, ProtocolViolation, and what the source raises."""
        for member in backup.archives():
            self._member(member)
        if not self._labelled or self._control is None:
            raise ProtocolViolation(
                f"the base backup has no {CONTROL_FILE if self._labelled else LABEL_FILE}",
                hint="Nothing was kept; look at the server's log.",
            )
        self._intake.index.add(*self._control)
        self._progress.finish()
        return self.totals

    def _member(self, member: ArchiveMember) -> None:
        if member.kind is Kind.FILE:
            self._file(member)
        elif member.kind is Kind.DIRECTORY:
            self._intake.index.add(DirectoryEntry(member.path, member.mode))
        else:
            self._intake.index.add(LinkEntry(member.path, member.mode, member.link_target))

    def _file(self, member: ArchiveMember) -> None:
        intake = self._intake
        intake.step("file")
        old = intake.parent.file(member.path) if intake.parent is not None else None
        fresh = choose_block_size(member.size, intake.page, self._expected)
        block_size = old.block_size if old is not None else fresh
        blocks = FileBlocks(
            intake.placer, intake.key, block_size, old, hashing=intake.executor, ahead=intake.workers + 1
        )
        intake.index.reading(member.path, blocks)
        for data in member.chunks():
            blocks.feed(data)
            self._progress.add(len(data))
        blocks.finish()
        entry = FileEntry(member.path, member.mode, blocks.size, member.mtime, block_size, tuple(blocks.chunks))
        self.totals.files += 1
        self.totals.packs |= blocks.packs
        self._labelled = self._labelled or member.path == LABEL_FILE
        if member.path == CONTROL_FILE:
            self._control = entry, blocks.chunk_bytes
        else:
            intake.index.add(entry, blocks.chunk_bytes, live=blocks.live)
