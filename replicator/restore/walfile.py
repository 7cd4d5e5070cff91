"""One WAL file put together from its objects, as restore_command delivers it.

Owns the clipping at `until` and the padding with zeros. Every frame is verified before a byte of it is written.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from replicator.core.lsn import Lsn, Segment
from replicator.errors import HostLacks, IntegrityError, ObjectAbsent, WalConflict
from replicator.repository.layout import PieceName, WalName, parse_name, pieces_prefix, segment_prefix
from replicator.repository.objects import open_object
from replicator.restore.files import write_but_zeros
from replicator.restore.route import WalFile, WalSource, chain
from replicator.seal.digest import fingerprint
from replicator.seal.header import FRAME_SIZE
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import FrameRoom
from replicator.store.protocol import ReadableStore

#: How often a file is looked up anew when an object of it has gone.
_RENEWALS = 3


def write_wal_file(
    store: ReadableStore, keyring: Keyring, file: WalFile, path: Path, *, mode: int = 0o600, durable: bool = True
) -> None:
    """Write `file` to `path` whole or not at all: temporary name, verify, fsync (if it is to be `durable`), rename.

    Raises IntegrityError, CannotOpen, StoreUnavailable, HostLacks (disk). An object that has gone since the catalog was
    read is looked up again: WalConflict when what is there now has other bytes.
    """
    planned = file
    for left in reversed(range(_RENEWALS + 1)):
        try:
            _write(store, keyring, file, path, planned, mode=mode, durable=durable)
            return
        except ObjectAbsent as error:
            if not left:
                raise IntegrityError(
                    f"{error.message}, which the plan needs", hint="Restore from another store.", file=file.name
                ) from error
            file = renewed(store, file)


def renewed(store: ReadableStore, file: WalFile) -> WalFile:
    """`file` from what the store lists now: while a stream runs, pieces give way to larger ones and to their segment.

    Raises IntegrityError when the store no longer holds all of it (inside a plan nothing is ever absent), WalConflict.
    """
    found: list[WalSource] = []
    for system_id, segment in dict.fromkeys(_segment_of(source, file.size) for source in file.sources):
        place = system_id, segment
        cut = max(source.end for source in file.sources if _segment_of(source, file.size) == place)
        # Pieces are listed first: they go once their segment is there.
        for info in store.list(pieces_prefix(system_id, segment)):
            piece = parse_name(info.name)
            if isinstance(piece, PieceName):
                found.append(WalSource(info.name, piece.start, min(piece.end, cut), whole=False))
        whole = whole_of(store, system_id, segment, cut)
        planned = {source.name for source in file.sources if source.whole and _segment_of(source, file.size) == place}
        if planned and not planned.issuperset(source.name for source in whole):
            # The name carries a fingerprint of the bytes: this is other WAL than what was planned.
            raise WalConflict(
                f"segment {segment.name} has another content in store {store.name} than the plan names",
                hint="Name one store with --store.",
                names=(*sorted(planned), *(source.name for source in whole)),
            )
        found += whole
    now = replace(file, sources=tuple(chain(found, file.start)))
    if now.end < file.end:
        raise IntegrityError(
            f"{file.name}: store {store.name} no longer holds its bytes up to {file.end}",
            hint="Restore from another store.",
            file=file.name,
        )
    return now


def whole_of(store: ReadableStore, system_id: int, segment: Segment, cut: Lsn) -> list[WalSource]:
    """The complete segment up to `cut`, as the store lists it now: one source or none. Raises WalConflict."""
    names = [info.name for info in store.list(segment_prefix(system_id, segment))]
    if len(names) > 1:
        raise WalConflict(
            f"segment {segment.name} has {len(names)} contents in store {store.name}",
            hint="Name another store with --store.",
            names=tuple(names),
        )
    return [WalSource(name, segment.start, cut, whole=True) for name in names]


def _segment_of(source: WalSource, size: int) -> tuple[int, Segment]:
    place = parse_name(source.name)
    if not isinstance(place, WalName | PieceName):
        raise IntegrityError(f"{source.name}: no name of WAL", object=source.name)
    return place.system_id, Segment.parse(place.segment, size)


def _write(
    store: ReadableStore, keyring: Keyring, file: WalFile, path: Path, planned: WalFile, *, mode: int, durable: bool
) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "w+b", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, mode)) as out:
            out.truncate(file.size)
            room = FrameRoom()
            for source in file.sources:
                _copy(store, keyring, source, file.start, out.fileno(), room)
            if file is not planned:
                _check_same(out, planned, keyring)
            if durable:
                os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        raise HostLacks(
            f"{path} can not be written: {(error.strerror or 'unknown reason').lower()}",
            hint="Make room on that disk, or restore elsewhere.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_same(out: BinaryIO, planned: WalFile, keyring: Keyring) -> None:
    """Raise WalConflict unless the file holds what the planned pieces name by their fingerprints. A piece that is cut
    at the end of its timeline can't be told from its name.
    """
    for source in planned.sources:
        place = parse_name(source.name)
        if isinstance(place, PieceName) and source.end == place.end:
            out.seek(place.start - planned.start)
            if fingerprint(keyring.repository_id, out.read(place.end - place.start)) != place.fingerprint:
                raise WalConflict(
                    f"{source.name} was planned, and there is other WAL in its place",
                    hint="Name one store with --store.",
                    names=(source.name,),
                )


def _copy(store: ReadableStore, keyring: Keyring, source: WalSource, origin: Lsn, handle: int, room: FrameRoom) -> None:
    found = open_object(store, source.name, keyring)
    begin = found.table.start
    if not begin <= source.start < source.end <= found.table.end:
        raise IntegrityError(f"{source.name}: does not hold the bytes its name promises", object=source.name)
    first = (source.start - begin) // FRAME_SIZE
    last = (source.end - 1 - begin) // FRAME_SIZE
    position = begin + first * FRAME_SIZE
    for frame in found.frames_at(range(first, last + 1), room):
        low, high = max(source.start, position), min(source.end, position + len(frame))
        if low < high:
            write_but_zeros(handle, frame[low - position : high - position], low - origin)
        position = Lsn(position + len(frame))
    if position < source.end:
        raise IntegrityError(f"{source.name}: holds fewer bytes than its table says", object=source.name)
