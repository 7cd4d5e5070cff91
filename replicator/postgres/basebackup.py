"""One base backup over the replication protocol, as a stream of files (PostgreSQL manual, section 55.4 BASE_BACKUP).

Owns the order of the stream: tablespaces, base directory, manifest, end position. Memory holds about one chunk,
whatever the cluster's size. It stores nothing and skips nothing: what to keep is the snapshot's matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType

from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from replicator.core.lsn import Lsn
from replicator.errors import ProtocolViolation, UsageError
from replicator.postgres import conversation
from replicator.postgres.backupmanifest import ManifestCheck
from replicator.postgres.backupstream import BackupEvents
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.conversation import FAILED, text
from replicator.postgres.messages import ManifestStart, NewArchive
from replicator.postgres.sqlstate import DATA_CORRUPTED
from replicator.postgres.tar import CHUNK, Kind, TarReader, check_path

MANIFEST = "backup_manifest"
_MOST_WARNINGS = 1000
_DOING = "taking a base backup"


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
    _chunks: Iterator[bytes] = field(repr=False, compare=False)

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of about 2 MiB; to be taken before the next member, at most once."""
        return self._chunks


class BaseBackup:
    """A base backup that runs. `start_lsn` is the label's START (redo). Take `archives` to its end, then `stop_lsn`,
    `stop_timeline`, `checksum_failures` and `warnings` say how it ended. Leaving it early closes the connection,
    which ends the backup on the server.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        command: str,
        *,
        manifest: bool,
        checkpoint_wait: float,
        silence: float,
    ) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._silence = silence
        self.warnings: list[str] = []
        self.checksum_failures = False
        self.stop_lsn: Lsn | None = None
        self.stop_timeline: int | None = None
        self.finished = False
        self._pgconn.notice_handler = self._notice
        self._start(command, checkpoint_wait)
        self._events = BackupEvents(
            connection, [space.oid for space in self.tablespaces], manifest=manifest, silence=silence
        )

    def _start(self, command: str, checkpoint_wait: float) -> None:
        begin = self._tuples(self._result(command, checkpoint_wait), 2)
        self.start_lsn, self.timeline = _position(begin)
        spaces = self._tuples(self._result(None, self._silence), 3)
        self.tablespaces: tuple[Tablespace, ...] = tuple(_tablespace(spaces, row) for row in range(spaces.ntuples))

    def _result(self, command: str | None, seconds: float) -> PGresult | None:
        if command is not None:
            self._connection.run(conversation.send(self._pgconn, command, doing=_DOING), doing=_DOING)
        return self._connection.run(conversation.next_result(self._pgconn, doing=_DOING), doing=_DOING, seconds=seconds)

    def _tuples(self, result: PGresult | None, columns: int) -> PGresult:
        if result is not None and result.status in FAILED:
            raise conversation.failure_of(result, doing=_DOING)
        if result is None or result.status != ExecStatus.TUPLES_OK or result.ntuples < 1 or result.nfields < columns:
            raise ProtocolViolation(f"{_DOING}: the server's answer is not a row of {columns} columns")
        return result

    def __enter__(self) -> BaseBackup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self.finished:
            self._connection.close()

    @property
    def expected_bytes(self) -> int:
        """The server's estimate of the whole, 0 when it was not asked for."""
        return sum(space.size_kb or 0 for space in self.tablespaces) * 1024

    def archives(self) -> Iterator[ArchiveMember]:
        """Every member in the server's order, the manifest last. Raises IntegrityError when the manifest does not
        match its own checksum, ProtocolViolation, SourceUnavailable, Interrupted.
        """
        for event in self._events.parts():
            if isinstance(event, NewArchive):
                yield from self._members(self._events.archive_oid(event))
            elif isinstance(event, ManifestStart):
                yield from self._manifest()
        self._finish()

    def _members(self, oid: int | None) -> Iterator[ArchiveMember]:
        reader = TarReader(self._events.data())
        prefix = f"pg_tblspc/{oid}/" if oid is not None else ""
        for header in reader.members():
            path = check_path(prefix + header.path)
            yield ArchiveMember(
                oid, path, header.kind, header.size, header.mode, header.mtime, header.link, reader.chunks()
            )

    def _manifest(self) -> Iterator[ArchiveMember]:
        check = ManifestCheck()

        def chunks() -> Iterator[bytes]:
            held: list[memoryview] = []
            size = 0
            for view in self._events.data():
                held.append(view)
                size += len(view)
                if size >= CHUNK:
                    yield b"".join(held)
                    held, size = [], 0
            if held:
                yield b"".join(held)

        def checked() -> Iterator[bytes]:
            for chunk in chunks():
                check.feed(chunk)
                yield chunk
            check.finish()

        content = checked()
        yield ArchiveMember(None, MANIFEST, Kind.FILE, -1, 0o600, 0, "", content)
        for _ in content:
            pass

    def _finish(self) -> None:
        """After the last archive: the stop position, and whether the server found damaged pages (XX001)."""
        self.stop_lsn, self.stop_timeline = _position(self._tuples(self._result(None, self._silence), 2))
        while (result := self._result(None, self._silence)) is not None:
            if result.status in FAILED:
                if result.error_field(DiagnosticField.SQLSTATE) != DATA_CORRUPTED.encode("ascii"):
                    raise conversation.failure_of(result, doing=_DOING)
                self.checksum_failures = True
        self._pgconn.notice_handler = None
        self.finished = True

    def _notice(self, result: PGresult) -> None:
        if (
            result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING"
            and len(self.warnings) < _MOST_WARNINGS
        ):
            self.warnings.append(text(result.error_field(DiagnosticField.MESSAGE_PRIMARY)))


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
    checkpoint_wait: float = 3700.0,
    silence: float = 120.0,
) -> BaseBackup:
    """Start a base backup on `connection`. `checkpoint` is "fast" or "spread"; `max_rate` in bytes per second.

    `checkpoint_wait` seconds may pass before it starts (a spread checkpoint takes up to checkpoint_timeout), then
    `silence` seconds between any two messages. Raises UsageError and what the server's SQLSTATE says.
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
    return BaseBackup(connection, command, manifest=manifest, checkpoint_wait=checkpoint_wait, silence=silence)


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


def _position(result: PGresult) -> tuple[Lsn, int]:
    return Lsn.parse(text(result.get_value(0, 0))), int(text(result.get_value(0, 1)))


def _tablespace(result: PGresult, row: int) -> Tablespace:
    oid, location, size = (result.get_value(row, column) for column in range(3))
    return Tablespace(int(oid) if oid else None, text(location), int(size) if size else None)
