"""Sealed objects in a store: their verified tables, and their plain bytes by frame.

Owns the order of checks on the way in: trailer, table, signature, name, head, frame digests, decryption. Nothing is
handed out before what it stands on was verified. Never retries and never decides what a damaged object means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError
from replicator.repository.earlier import earlier_contents, read_sound
from replicator.repository.layout import ManifestName, PackName, PieceName, WalName, parse_name
from replicator.seal.digest import Fingerprint, digest
from replicator.seal.header import FRAME_SIZE, HEADER_SIZE, SEALED_KEY_SIZE, Cipher, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectOpener, check_head, parse_tail, verify_table
from replicator.seal.table import TAIL_SIZE, Table
from replicator.store.protocol import ReadableStore

#: The most bytes fetched by one request when frames are read one after another.
BATCH_SIZE = 4 * FRAME_SIZE
#: The same when all is only looked at: more memory at a time is given back to the system and cleared again each time.
EXAMINE_SIZE = 2 * FRAME_SIZE


def read_table(store: ReadableStore, name: str, keyring: Keyring) -> Table:
    """The signed table of an object, by one suffix range (two when it is long); needs no private key.

    Raises ObjectAbsent, IntegrityError.
    """
    return read_sound(store, name, lambda found: _read_table(found, name, keyring)[0])


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

    def __init__(self, store: ReadableStore, opener: ObjectOpener, keyring: Keyring | None = None) -> None:
        """With a keyring earlier contents are looked for when a frame is damaged."""
        self._store = store
        self._opener = opener
        self._keyring = keyring
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
        return next(self.frames(number, 1))

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
                try:
                    plain = self._opener.open_frame(number, sealed[low:high])
                except IntegrityError as error:
                    plain = self._frame_before(number, error)
                yield plain
            first = last

    def _frame_before(self, number: int, error: IntegrityError) -> bytes:
        """The frame from an earlier content of the same object; raises `error` when there is none that is well."""
        if self._keyring is not None:
            for found in earlier_contents(self._store, self.table.name):
                try:
                    before = _open_object(found, self.table.name, self._keyring)
                    if before.table == self.table:
                        return before.frame(number)
                except IntegrityError:
                    continue
        raise error

    def read(self) -> bytes:
        """All plain bytes: for objects known to be small."""
        return b"".join(self.frames())


def open_object(store: ReadableStore, name: str, keyring: Keyring) -> StoredObject:
    """An object ready to give its plain bytes. Raises ObjectAbsent, IntegrityError, CannotOpen."""
    found = read_sound(store, name, lambda found: _open_object(found, name, keyring))
    found._keyring = keyring
    return found


def _open_object(store: ReadableStore, name: str, keyring: Keyring) -> StoredObject:
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


@dataclass(frozen=True, slots=True)
class ExaminedObject:
    """An object whose every byte was looked at. `opened`: so were its plain bytes. `segment_size`: 0 for a pack."""

    table: Table
    opened: bool
    segment_size: int


def examine_object(
    store: ReadableStore, name: str, keyring: Keyring, tick: Callable[[int], None], fingerprint: str = ""
) -> ExaminedObject:
    """Read all of an object, by large reads in turn, and check what can be checked here: without the private key head,
    table, signature, place and frame digests; with it the plain bytes too, and that they have this `fingerprint`.

    `tick` is told the bytes of each read. Raises ObjectAbsent, IntegrityError, and whatever `tick` raises.
    """
    table, writer = _read_table(store, name, keyring)
    head = store.get(name, 0, table.head_size)
    header = check_head(keyring, head, table, name)
    _check_place(header, table, writer, name)
    opened = header.cipher is Cipher.NONE or header.key_id in keyring.private
    opener = ObjectOpener(keyring, header, head, table) if opened else None
    mark = Fingerprint(keyring.repository_id)
    for number, sealed in _sealed_frames(store, table, tick):
        if opener is not None:
            plain = opener.open_frame(number, sealed)
            if fingerprint:
                mark.update(plain)
        elif digest(sealed) != table.frames[number].digest:
            raise IntegrityError(f"{name}: frame {number} is damaged", object=name, frame=number)
    if opened and fingerprint and mark.hex() != fingerprint:
        raise IntegrityError(f"{name}: its fingerprint is another's", object=name)
    return ExaminedObject(table, opened, header.segment_size)


def _sealed_frames(store: ReadableStore, table: Table, tick: Callable[[int], None]) -> Iterator[tuple[int, memoryview]]:
    """Every frame as it is stored, several by each request."""
    offsets, end, first = table.offsets, len(table.frames), 0
    while first < end:
        last = first + 1
        while last < end and offsets[last + 1] - offsets[first] <= EXAMINE_SIZE:
            last += 1
        start = offsets[first]
        sealed = memoryview(store.get(table.name, start, offsets[last] - start))
        for number in range(first, last):
            yield number, sealed[offsets[number] - start : offsets[number + 1] - start]
        tick(len(sealed))
        first = last


def read_header(store: ReadableStore, name: str, keyring: Keyring) -> Header:
    """An object's header, verified against its signed table. Raises ObjectAbsent, IntegrityError."""
    return read_sound(store, name, lambda found: _read_header(found, name, keyring))


def _read_header(store: ReadableStore, name: str, keyring: Keyring) -> Header:
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
