"""One base backup over the replication protocol, as a stream of files (PostgreSQL manual, section 55.4 BASE_BACKUP).

Owns the order of the stream: tablespaces, base directory, manifest, end position. Memory holds about one chunk,
whatever the cluster's size. It stores nothing and skips nothing: what to keep is the snapshot's matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from replicator.core.lsn import Lsn
from replicator.errors import ProtocolViolation, UsageError
from replicator.postgres import conversation
from replicator.postgres.backupmanifest import ManifestCheck
from replicator.postgres.backupwire import DOING, BackupWire, Rows
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import text
from replicator.postgres.libpqwire import LibpqWire
from replicator.postgres.messages import NewArchive
from replicator.postgres.socketwire import SocketWire, reads_plainly
from replicator.postgres.sqlstate import DATA_CORRUPTED
from replicator.postgres.tar import CHUNK, Kind, TarReader, check_path

MANIFEST = "backup_manifest"


@dataclass(frozen=True, slots=True)
class Tablespace:
    """One tablespace: the base directory has oid None and no location. `size_kb` is the server's estimate."""

    oid: int | None
    location: str
    size_kb: int | None


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One file, directory or symlink. `path` is relative to the data directory (`pg_tblspc/<oid>/…` inside a
    tablespace); `mtime` in Unix seconds; `size` -1 for the manifest, whose size nobody tells beforehand.
    """

    tablespace_oid: int | None
    path: str
    kind: Kind
    size: int
    mode: int
    mtime: int
    link_target: str
    _chunks: Iterator[memoryview] = field(repr=False, compare=False)

    def chunks(self) -> Iterator[memoryview]:
        """The content in pieces of 2 MiB, the last smaller; to be taken before the next member, at most once."""
        return self._chunks


class BaseBackup:
    """A base backup that runs. `start_lsn` is the label's START (redo). Take `archives` to its end, then `stop_lsn`,
    `stop_timeline`, `checksum_failures` and `warnings` say how it ended. It closes the connection, early or late: left
    early, that ends the backup on the server.
    """

    def __init__(
        self, connection: ReplicationConnection, wire: BackupWire, *, manifest: bool, first_wait: float, silence: float
    ) -> None:
        self._connection = connection
        self._wire = wire
        self._with_manifest = manifest
        self._silence = silence
        self.checksum_failures = False
        self.stop_lsn: Lsn | None = None
        self.stop_timeline: int | None = None
        self.finished = False
        self.start_lsn, self.timeline = _position(self._rows(first_wait, 2))
        self.tablespaces: tuple[Tablespace, ...] = tuple(map(_tablespace, self._rows(silence, 3)))

    def _rows(self, seconds: float, columns: int) -> Rows:
        answer = self._wire.answer(seconds)
        if answer is not None and answer.failure is not None:
            raise answer.failure
        if answer is None or not answer.rows or any(len(row) < columns for row in answer.rows):
            raise ProtocolViolation(f"{DOING}: the server's answer is not a row of {columns} columns")
        return answer.rows

    def __enter__(self) -> BaseBackup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wire.close()
        self._connection.close()

    @property
    def warnings(self) -> list[str]:
        """What the server warned of so far, in its words."""
        return self._wire.warnings

    @property
    def expected_bytes(self) -> int:
        """The server's estimate of the whole, 0 when it was not asked for."""
        return sum(space.size_kb or 0 for space in self.tablespaces) * 1024

    def archives(self) -> Iterator[ArchiveMember]:
        """Every member in the server's order, the manifest last. Raises IntegrityError when the manifest does not
        match its own checksum, ProtocolViolation, SourceUnavailable, Interrupted.
        """
        for event in self._wire.parts([space.oid for space in self.tablespaces], manifest=self._with_manifest):
            if isinstance(event, NewArchive):
                yield from self._members(self._oid_of(event))
            else:
                yield from self._manifest()
        self._finish()

    def _oid_of(self, archive: NewArchive) -> int | None:
        """The tablespace of an archive, None for the base directory. Raises ProtocolViolation for an unknown one."""
        stem = archive.name.removesuffix(".tar")
        oid = None if stem == "base" else int(stem) if stem.isascii() and stem.isdigit() else -1
        if all(oid != space.oid for space in self.tablespaces):
            raise ProtocolViolation(f"{DOING}: an archive of no tablespace, {archive.name!r}")
        return oid

    def _members(self, oid: int | None) -> Iterator[ArchiveMember]:
        reader = TarReader(self._wire)
        prefix = f"pg_tblspc/{oid}/" if oid is not None else ""
        for header in reader.members():
            path = check_path(prefix + header.path)
            yield ArchiveMember(
                oid, path, header.kind, header.size, header.mode, header.mtime, header.link, reader.chunks()
            )

    def _manifest(self) -> Iterator[ArchiveMember]:
        content = self._checked()
        yield ArchiveMember(None, MANIFEST, Kind.FILE, -1, 0o600, 0, "", content)
        for _ in content:
            pass

    def _checked(self) -> Iterator[memoryview]:
        check = ManifestCheck()
        full = True
        while full:
            room = memoryview(bytearray(CHUNK))
            count = self._wire.fill(room)
            full = count == len(room)
            if count:
                check.feed(room[:count])
                yield room[:count]
        check.finish()

    def _finish(self) -> None:
        """After the last archive: the stop position, and whether the server found damaged pages (XX001)."""
        self.stop_lsn, self.stop_timeline = _position(self._rows(self._silence, 2))
        while (answer := self._wire.answer(self._silence)) is not None:
            if answer.failure is not None:
                if answer.failure.context.get("sqlstate") != DATA_CORRUPTED:
                    raise answer.failure
                self.checksum_failures = True
        self.finished = True


def base_backup(
    connection: ReplicationConnection,
    *,
    label: str,
    checkpoint: str = "fast",
    progress: bool = True,
    manifest: bool = True,
    verify_checksums: bool = True,
    max_rate: int | None = None,
    wait: bool = False,
    plain: bool = True,
    checkpoint_wait: float = 3700.0,
    silence: float = 120.0,
) -> BaseBackup:
    """Start a base backup on `connection`. `checkpoint` is "fast" or "spread"; `max_rate` in bytes per second.

    `checkpoint_wait` seconds may pass before it starts (a spread checkpoint takes up to checkpoint_timeout), then
    `silence` seconds between any two messages. Not `plain`: all goes through libpq, even where the socket could be
    read itself. The connection is the backup's from now on, and closed with it.

    Raises UsageError and what the server's SQLSTATE says.
    """
    if checkpoint not in ("fast", "spread"):
        raise UsageError(f"{checkpoint!r} is not a kind of checkpoint", hint='Write "fast" or "spread".')
    if "\0" in label or len(label) > 1000:
        raise UsageError("the label of a base backup is too long or holds a zero byte")
    modern = connection.server_version >= 150000
    rate = None if max_rate is None else max(32, min(2**20, max_rate // 1024))
    quoted = "'" + label.replace("'", "''") + "'"
    options = (_options if modern else _options_before_15)(
        quoted, checkpoint, progress=progress, manifest=manifest, verify=verify_checksums, rate=rate, wait=wait
    )
    command = f"BASE_BACKUP ({', '.join(options)})" if modern else f"BASE_BACKUP {' '.join(options)}"
    connection.run(conversation.send(connection.pgconn, command, doing=DOING), doing=DOING)
    plain = plain and reads_plainly(connection, checkpoint_wait)
    wire = SocketWire(connection, silence) if plain else LibpqWire(connection, silence)
    try:
        return BaseBackup(connection, wire, manifest=manifest, first_wait=checkpoint_wait, silence=silence)
    except BaseException:
        wire.close()
        raise


def _options(
    label: str, checkpoint: str, *, progress: bool, manifest: bool, verify: bool, rate: int | None, wait: bool
) -> list[str]:
    options = [f"LABEL {label}", f"CHECKPOINT '{checkpoint}'", "TABLESPACE_MAP true"]
    options += [f"PROGRESS {_boolean(progress)}", f"WAIT {_boolean(wait)}", f"VERIFY_CHECKSUMS {_boolean(verify)}"]
    options += ["MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"] if manifest else []
    options += [f"MAX_RATE {rate}"] if rate is not None else []
    return options


def _options_before_15(
    label: str, checkpoint: str, *, progress: bool, manifest: bool, verify: bool, rate: int | None, wait: bool
) -> list[str]:
    options = [f"LABEL {label}", "TABLESPACE_MAP"]
    options += ["FAST"] if checkpoint == "fast" else []
    options += ["PROGRESS"] if progress else []
    options += [] if wait else ["NOWAIT"]
    options += [] if verify else ["NOVERIFY_CHECKSUMS"]
    options += ["MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"] if manifest else []
    options += [f"MAX_RATE {rate}"] if rate is not None else []
    return options


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _position(rows: Rows) -> tuple[Lsn, int]:
    return Lsn.parse(text(rows[0][0])), int(text(rows[0][1]))


def _tablespace(row: Sequence[bytes | None]) -> Tablespace:
    oid, location, size = row[:3]
    return Tablespace(int(oid) if oid else None, text(location), int(size) if size else None)
