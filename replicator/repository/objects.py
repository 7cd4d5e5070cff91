"""Sealed objects in a store: their verified tables, and their plain bytes by frame.

Owns the order of checks on the way in: trailer, table, signature, name, head, frame digests, decryption. Nothing is
handed out before what it stands on was verified. Never retries and never decides what a damaged object means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError
from replicator.repository.earlier import earlier_contents, read_sound
from replicator.repository.layout import ManifestName, PackName, PieceName, WalName, parse_name
from replicator.seal.digest import digest
from replicator.seal.header import FRAME_SIZE, HEADER_SIZE, SEALED_KEY_SIZE, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import FrameRoom, ObjectOpener, check_head, parse_tail, verify_table
from replicator.seal.table import TAIL_SIZE, Table
from replicator.store.protocol import ReadableStore

#: The most bytes fetched by one request when frames are read one after another.
BATCH_SIZE = 4 * FRAME_SIZE
#: Bytes that nobody asked for are fetched where that saves a request.
_SKIPPED = 256 * 1024


def read_table(store: ReadableStore, name: str, keyring: Keyring, *, tail: int = TAIL_SIZE) -> Table:
    """The signed table of an object, by one suffix range of `tail` bytes (two when it is longer); needs no private key.

    Raises ObjectAbsent, IntegrityError.
    """
    return read_sound(store, name, lambda found: signed_table(found, name, keyring, tail)[0])


def signed_table(store: ReadableStore, name: str, keyring: Keyring, most: int = TAIL_SIZE) -> tuple[Table, bytes]:
    """The table as `read_table`, and its writer's id; earlier contents are not looked for."""
    tail, size = store.get_tail(name, most)
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

    def frames_at(
        self, numbers: Sequence[int], room: FrameRoom, turn: AbstractContextManager[object] | None = None
    ) -> Iterator[memoryview]:
        """The plain bytes of these frames, ascending, by few requests; each lasts until the next. `turn` is held while
        one is opened, not while they are fetched. Raises IntegrityError for a frame that there is not.
        """
        turn = nullcontext() if turn is None else turn
        if numbers and numbers[-1] >= len(self.table.frames):
            raise IntegrityError(f"{self.table.name}: a map names a frame that it has not", object=self.table.name)
        for run in self._runs(numbers):
            start = self._offsets[run[0]]
            sealed = memoryview(self._store.get(self.table.name, start, self._offsets[run[-1] + 1] - start))
            for number in run:
                data = sealed[self._offsets[number] - start : self._offsets[number + 1] - start]
                try:
                    with turn:
                        plain = self._opener.open_frame_into(number, data, room)
                except IntegrityError as error:
                    plain = memoryview(self._frame_before(number, error))
                yield plain

    def _runs(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Frames that one request fetches."""
        run: list[int] = []
        for number in numbers:
            if run:
                gap = self._offsets[number] - self._offsets[run[-1] + 1]
                length = self._offsets[number + 1] - self._offsets[run[0]]
                if gap > _SKIPPED or length > BATCH_SIZE:
                    yield run
                    run = []
            run.append(number)
        if run:
            yield run

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
    table, writer = signed_table(store, name, keyring)
    head = store.get(name, 0, table.head_size)
    header = check_head(keyring, head, table, name)
    check_place(header, table, writer, name)
    return StoredObject(store, ObjectOpener(keyring, header, head, table))


def check_object(store: ReadableStore, name: str, keyring: Keyring) -> Table:
    """Read every byte of an object and check all that needs no private key: head, table, signature, frame digests."""
    table, writer = signed_table(store, name, keyring)
    head = store.get(name, 0, table.head_size)
    check_place(check_head(keyring, head, table, name), table, writer, name)
    offsets = table.offsets
    for number, entry in enumerate(table.frames):
        if digest(store.get(name, offsets[number], entry.sealed_size)) != entry.digest:
            raise IntegrityError(f"{name}: frame {number} is damaged", object=name, frame=number)
    return table


def read_header(store: ReadableStore, name: str, keyring: Keyring) -> Header:
    """An object's header, verified against its signed table. Raises ObjectAbsent, IntegrityError."""
    return read_sound(store, name, lambda found: _read_header(found, name, keyring))


def _read_header(store: ReadableStore, name: str, keyring: Keyring) -> Header:
    table, writer = signed_table(store, name, keyring)
    header = check_head(keyring, store.get(name, 0, table.head_size), table, name)
    check_place(header, table, writer, name)
    return header


def check_place(header: Header, table: Table, writer: bytes, name: str) -> None:
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
