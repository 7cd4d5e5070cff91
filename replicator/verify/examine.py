"""One object, looked at from end to end: name, place, size, signature, digests, and its plain bytes where they open.

Owns what "well" means for each kind of object. Reads only; finds at most one damage per object, the first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.errors import IntegrityError, UsageError
from replicator.repository.blockmap import MapChunk
from replicator.repository.examined import examine_object
from replicator.repository.layout import (
    ROOT,
    BeginName,
    HistoryName,
    ManifestName,
    NoteName,
    PackName,
    PieceName,
    RangeName,
    RangesName,
    RecordName,
    SummaryName,
    WalName,
    parse_key_name,
    parse_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.repository.manifests import FileEntry, ManifestReader, MapRef, summary_of
from replicator.repository.ranges import parse_range
from replicator.repository.records import parse_record
from replicator.repository.removals import parse_removal_name
from replicator.repository.repository import Repository
from replicator.repository.summaries import parse_summaries
from replicator.seal.digest import fingerprint, short_id
from replicator.seal.document import MOST_BYTES, canonical, open_document
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SEALING, SIGNING, from_base64url, parse_key
from replicator.store.protocol import ReadableStore
from replicator.verify.held import held
from replicator.verify.shapes import Places, Shapes

#: Told the sealed bytes of each large read; may raise to end the work.
Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Examined:
    """An object that is well. `opened`: its plain bytes were looked at too. `size` in bytes, as it was read."""

    size: int
    opened: bool
    segment_size: int = 0


def examine(
    repository: Repository,
    store: str,
    name: str,
    tick: Tick,
    *,
    size: int | None = None,
    pool: Executor | None = None,
    shapes: Shapes | None = None,
) -> Examined:
    """Look at one object. `size`: what the store's listing says; a small one is read by one request. What was read is
    opened by the threads of `pool`; `shapes` are kept from look to look.

    Raises IntegrityError, ObjectAbsent, StoreUnavailable, UntrustedRepository.
    """
    source, keyring = held(repository.store(store), name, size), repository.keyring
    shapes = shapes or Shapes()
    place = parse_name(name)
    match place:
        case WalName() | PieceName():
            found = examine_object(source, name, keyring, tick, place.fingerprint, pool)
            return Examined(found.table.size, found.opened, found.segment_size)
        case PackName(system_id, pack):
            found = examine_object(source, name, keyring, tick, "", pool)
            shapes.keep(system_id, pack, found.table)
            return Examined(found.table.size, found.opened)
        case ManifestName(snapshot):
            found = examine_object(source, name, keyring, tick, "", pool)
            summary_of(found.table, snapshot)
            if found.opened:
                _read_manifest(source, snapshot, keyring, shapes)
            return Examined(found.table.size, found.opened, found.segment_size)
        case HistoryName() | BeginName() | NoteName() | RecordName() | RangeName() | SummaryName():
            read = _document(source, keyring, name, place)
        case _:
            read = _root_document(source, keyring, name)
    tick(read)
    return Examined(read, opened=True)


def _document(
    source: ReadableStore,
    keyring: Keyring,
    name: str,
    place: HistoryName | BeginName | NoteName | RecordName | RangesName,
) -> int:
    """A document that a writer signed."""
    data = _whole(source, name)
    match place:
        case RangeName():
            parse_range(keyring, place, data)
        case SummaryName():
            parse_summaries(keyring, place, data)
        case RecordName():
            parse_record(data, place, keyring)
        case NoteName():
            body = open_document(keyring, "note", name, data)
            if fingerprint(keyring.repository_id, canonical(body)) != place.fingerprint:
                raise IntegrityError(f"{name}: its fingerprint is another's", object=name)
        case BeginName():
            open_document(keyring, "begin", name, data)
        case HistoryName(_, timeline):
            body = open_document(keyring, "history", name, data)
            try:
                TimelineHistory.parse(timeline, from_base64url(body["content"]))
            except (KeyError, UsageError) as error:
                raise IntegrityError(f"{name}: a history that makes no sense", object=name) from error
    return len(data)


def _root_document(source: ReadableStore, keyring: Keyring, name: str) -> int:
    """A document that the root signed."""
    data = _whole(source, name)
    if name == ROOT:
        open_document(keyring, "repository", name, data)
    elif (key_id := parse_key_name(name)) is not None:
        body = open_document(keyring, "key", name, data)
        _named(name, key_id, parse_key(SEALING, body["public"]))
    elif parse_recipient_name(name) is not None:
        open_document(keyring, "recipient", name, data)
    elif (writer_id := parse_writer_name(name)) is not None:
        body = open_document(keyring, "writer", name, data)
        _named(name, writer_id, parse_key(SIGNING, body["public"]))
    elif open_document(keyring, "removal", name, data).get("removes") != parse_removal_name(name):
        raise IntegrityError(f"{name}: removes something else", object=name)
    return len(data)


def _named(name: str, key_id: bytes, public: bytes) -> None:
    if short_id(public) != key_id:
        raise IntegrityError(f"{name}: holds another key", hint="It was renamed or swapped.", object=name)


def _whole(source: ReadableStore, name: str) -> bytes:
    data, size = source.get_tail(name, MOST_BYTES)
    if size != len(data):
        raise IntegrityError(f"{name}: {size} bytes are too many for a document", object=name)
    return data


def _read_manifest(source: ReadableStore, snapshot: Snapshot, keyring: Keyring, shapes: Shapes) -> None:
    """Every entry of an opened manifest makes sense, and every block has a place in a pack that the table names."""
    reader = ManifestReader(source, snapshot, keyring)
    places = Places(shapes, source, snapshot.system_id, keyring, frozenset(reader.summary.packs))
    for entry in reader.entries():
        if isinstance(entry, FileEntry):
            for chunk in entry.chunks:
                if isinstance(chunk, MapRef):
                    places.check(chunk.pack, chunk.frame, chunk.offset, chunk.length)
                else:
                    _check_chunk(places, chunk, entry.block_size)


def _check_chunk(places: Places, data: bytes, block_size: int) -> None:
    for run in MapChunk.parse(data).runs:
        if run.pack is not None:  # the last block of a file may be shorter
            places.check(run.pack, run.frame, run.offset, (run.blocks - 1) * block_size + 1)
