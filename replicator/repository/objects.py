"""Sealed objects in a store: their verified tables, and their plain bytes by frame.

Owns the order of checks on the way in: trailer, table, signature, name, head, frame digests, decryption. Nothing is
handed out before what it stands on was verified. Never retries and never decides what a damaged object means.
"""

from __future__ import annotations

from collections.abc import Iterator

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError
from replicator.repository.layout import ManifestName, PackName, PieceName, WalName, parse_name
from replicator.seal.digest import digest
from replicator.seal.header import FRAME_SIZE, HEADER_SIZE, SEALED_KEY_SIZE, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectOpener, check_head, parse_tail, verify_table
from replicator.seal.table import TAIL_SIZE, Table
from replicator.store.protocol import ReadableStore

#: The most bytes fetched by one request when frames are read one after another.
BATCH_SIZE = 4 * FRAME_SIZE


def read_table(store: ReadableStore, name: str, keyring: Keyring) -> Table:
    """The signed table of an object, by one suffix range (two when it is long); needs no private key.

    Raises ObjectAbsent, IntegrityError.
    """
    return _read_table(store, name, keyring)[0]


def _read_table(store: ReadableStore, name: str, keyring: Keyring) -> tuple[Table, bytes]:
    tail, size = store.get_tail(name, TAIL_SIZE)
    found = parse_tail(tail, size, name)
    if isinstance(found, int):
        tail, size = store.get_tail(name, found)
        found = parse_tail(tail, size, name)
    if isinstance(found, int):
        raise IntegrityError(f"{name}: its table could not be read whole", object=name)
    table, signature, data = found
    if not HEADER_SIZE <= table.head_size <= HEADER_SIZE + SEALED_KEY_SIZE:
        raise IntegrityError(f"{name}: its head has the wrong length", object=name)
    writer = verify_table(keyring, signature, data, name)
    return table, writer


class StoredObject:
    """One object whose head and table are verified; frames are fetched on demand and verified one by one."""

    def __init__(self, store: ReadableStore, opener: ObjectOpener) -> None:
        self._store = store
        self._opener = opener
        self._offsets = opener.table.offsets

    @property
    def header(self) -> Header:
        """The clear header."""
        return self._opener.header

    @property
    def table(self) -> Table:
        """The signed table."""
        return self._opener.table

    def frame(self, number: int) -> bytes:
        """The plain bytes of one frame, by one range request. Raises IntegrityError."""
        entry = self.table.frames[number]
        sealed = self._store.get(self.table.name, self._offsets[number], entry.sealed_size)
        return self._opener.open_frame(number, sealed)

    def frames(self, first: int = 0, count: int | None = None) -> Iterator[bytes]:
        """The plain bytes of consecutive frames, several by each request."""
        end = len(self.table.frames) if count is None else first + count
        while first < end:
            last = first + 1
            while last < end and self._offsets[last + 1] - self._offsets[first] <= BATCH_SIZE:
                last += 1
            start = self._offsets[first]
            sealed = memoryview(self._store.get(self.table.name, start, self._offsets[last] - start))
            for number in range(first, last):
                low, high = self._offsets[number] - start, self._offsets[number + 1] - start
                yield self._opener.open_frame(number, sealed[low:high])
            first = last

    def read(self) -> bytes:
        """All plain bytes: for objects known to be small."""
        return b"".join(self.frames())


def open_object(store: ReadableStore, name: str, keyring: Keyring) -> StoredObject:
    """An object ready to give its plain bytes. Raises ObjectAbsent, IntegrityError, CannotOpen."""
    table, writer = _read_table(store, name, keyring)
    head = store.get(name, 0, table.head_size)
    header = check_head(keyring, head, table, name)
    _check_place(header, table, writer, name)
    return StoredObject(store, ObjectOpener(keyring, header, head, table))


def check_object(store: ReadableStore, name: str, keyring: Keyring) -> Table:
    """Read every byte of an object and check all that needs no private key: head, table, signature, frame digests."""
    table, writer = _read_table(store, name, keyring)
    head = store.get(name, 0, table.head_size)
    _check_place(check_head(keyring, head, table, name), table, writer, name)
    offsets = table.offsets
    for number, entry in enumerate(table.frames):
        if digest(store.get(name, offsets[number], entry.sealed_size)) != entry.digest:
            raise IntegrityError(f"{name}: frame {number} is damaged", object=name, frame=number)
    return table


def read_header(store: ReadableStore, name: str, keyring: Keyring) -> Header:
    """An object's header, verified against its signed table. Raises ObjectAbsent, IntegrityError."""
    table, writer = _read_table(store, name, keyring)
    header = check_head(keyring, store.get(name, 0, table.head_size), table, name)
    _check_place(header, table, writer, name)
    return header


def _check_place(header: Header, table: Table, writer: bytes, name: str) -> None:
    """Raise IntegrityError unless header and table say the same as the name."""
    place = parse_name(name)
    facts: tuple[object, ...]
    match place:
        case WalName(system_id, timeline, segment, _):
            end = Lsn(header.start + header.segment_size)
            facts = (Kind.WAL, system_id, timeline, header.start, end)
            held: tuple[object, ...] = (header.kind, header.system_id, header.timeline, table.start, table.end)
            facts, held = (*facts, segment), (*held, _segment_name(header))
        case PieceName(system_id, timeline, segment, start, end, _):
            facts = (Kind.PIECE, system_id, timeline, start, start, end, segment)
            held = (header.kind, header.system_id, header.timeline, header.start, table.start, table.end,
                    _segment_name(header))  # fmt: skip
        case PackName(system_id, pack):
            facts = (Kind.PACK, system_id, pack.label, pack.attempt, pack.number)
            held = (header.kind, header.system_id, header.label, header.attempt, header.number)
        case ManifestName(snapshot):
            facts = (
                Kind.MANIFEST,
                snapshot.system_id,
                snapshot.timeline,
                snapshot.label,
                snapshot.start,
                snapshot.stop,
            )
            held = (header.kind, header.system_id, header.timeline, header.label, table.start, table.end)
        case _:
            raise IntegrityError(f"{name}: no name of a sealed object", object=name)
    if facts != held or writer != header.writer_id:
        raise IntegrityError(f"{name}: its header is another object's", hint="It was renamed or swapped.", object=name)


def _segment_name(header: Header) -> str:
    size = header.segment_size
    if size <= 0 or 2**32 % size:
        return ""
    number = header.start // size
    return f"{header.timeline:08X}{number // (2**32 // size):08X}{number % (2**32 // size):08X}"
