"""One WAL file from a repository: `replicator wal get`.

Owns the difference between absent and unreadable: absent is said only when every store asked has answered, twice.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from replicator.core.lsn import Lsn, Segment
from replicator.errors import NotFound, ObjectAbsent, StoreUnavailable, UsageError
from replicator.repository.catalog import list_snapshots, read_history_file, system_ids
from replicator.repository.layout import PieceName, parse_name, piece_object, pieces_prefix, wal_prefix
from replicator.repository.objects import read_header
from replicator.repository.repository import Repository
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.route import WalFile, WalSource, chain
from replicator.restore.tree import host_errors
from replicator.restore.walfile import whole_of, write_wal_file
from replicator.seal.keyring import Keyring
from replicator.store.protocol import Store

_SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history\Z")


def wal_get(
    repository: Repository, name: str, path: Path, until: Lsn | None = None, *, system_id: int | None = None
) -> None:
    """Deliver the file `name` to `path`. `until`: zeros from there on, pieces allowed, and a miss before it an error;
    without it only complete segments are served (a padded one would shadow a standby's better WAL). `system_id`: of the
    server that asks; a file of the same name of an earlier system would shadow its own WAL. None: the newest that has
    it.

    Raises ObjectAbsent, NotFound (less than up to `until`), WalConflict, IntegrityError, CannotOpen, StoreUnavailable,
    HostLacks.
    """
    failed: StoreUnavailable | NotFound | None = None
    for _ in range(2):  # listed again after a miss
        for store in repository.stores.values():
            try:
                if _deliver(store, repository.keyring, name, path, until, system_id):
                    return
            except StoreUnavailable as error:
                failed = error
            except NotFound as error:  # this store holds too little of it, another may hold all
                failed = failed or error
    if failed is not None:
        raise failed
    raise ObjectAbsent(f"{name} is in no store of {repository.cluster}")


def wal_get_planned(directory: Path, name: str, path: Path) -> None:
    """The same from a recovery directory alone, for restore_command. Within its plan nothing is ever absent.

    Raises ObjectAbsent for a file outside the plan, NotFound for a miss within it.
    """
    recovery = RecoveryDirectory(directory)
    file = recovery.file(name)
    repository = recovery.repository()
    try:
        write_wal_file(next(iter(repository.stores.values())), repository.keyring, file, path)
    except ObjectAbsent as error:
        raise NotFound(f"{name} of the plan: {error.message}", hint="Plan the restore again.") from error


def _deliver(store: Store, keyring: Keyring, name: str, path: Path, until: Lsn | None, only: int | None) -> bool:
    """Whether this store had it."""
    history = _HISTORY.match(name)
    if history is None and not _SEGMENT.match(name):
        return False  # `.partial`, `.backup`: never kept
    newest = sorted(system_ids(store), key=lambda found: _newest(store, found), reverse=True)
    for system_id in newest if only is None else [only]:
        if history is not None:
            try:
                content = read_history_file(store, system_id, int(history[1], 16), keyring)
            except ObjectAbsent:
                continue
            _write_whole(path, content)
            return True
        file = _find(store, keyring, system_id, name, until)
        if file is not None:
            write_wal_file(store, keyring, file, path)
            return True
    return False


def _newest(store: Store, system_id: int) -> str:
    snapshots = list_snapshots(store, system_id)
    return snapshots[-1].label if snapshots else ""


def _find(store: Store, keyring: Keyring, system_id: int, name: str, until: Lsn | None) -> WalFile | None:
    size = segment_size(store, keyring, system_id)
    try:
        segment = Segment.parse(name, size) if size else None
    except UsageError:
        return None
    if segment is None or (until is not None and segment.start >= until):
        return None
    end = segment.end if until is None else min(segment.end, until)
    # Pieces are listed first: they go once their segment is there.
    pieces = _pieces(store, system_id, segment) if until is not None else []
    sources = whole_of(store, system_id, segment, end)
    if until is not None and not sources:
        held = [WalSource(piece_object(of), of.start, min(of.end, end), whole=False) for of in pieces]
        sources = list(chain(held, segment.start))
        if not sources or sources[-1].end < end:
            reach = sources[-1].end if sources else segment.start
            raise NotFound(
                f"store {store.name} holds {name} only up to {reach}, not {end}",
                hint="Name another store with --store, or an earlier --until.",
            )
    return WalFile(name, segment.start, size, tuple(sources)) if sources else None


def _pieces(store: Store, system_id: int, segment: Segment) -> list[PieceName]:
    places = (parse_name(info.name) for info in store.list(pieces_prefix(system_id, segment)))
    return [place for place in places if isinstance(place, PieceName)]


def segment_size(store: Store, keyring: Keyring, system_id: int) -> int:
    """The segment size of a cluster, from any object's header; 0 when there is no WAL."""
    for prefix in (wal_prefix(system_id), pieces_prefix(system_id)):
        for info in store.list(prefix):
            try:
                return read_header(store, info.name, keyring).segment_size
            except ObjectAbsent:  # a piece that has given way to its segment
                continue
    return 0


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with host_errors(path):
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
