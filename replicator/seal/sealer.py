"""Sealing one object frame by frame, and opening one from its ends and frames (docs/format.md, section 4)."""

from __future__ import annotations

import mmap
from dataclasses import replace
from typing import Any

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError, ReplicatorError
from replicator.seal.cipher import TAG_SIZE, FrameCipher, new_key
from replicator.seal.compress import compress, decompress, decompress_into
from replicator.seal.digest import Bytes, digest
from replicator.seal.header import FRAME_SIZE, HEADER_SIZE, Cipher, Header
from replicator.seal.keyring import Keyring
from replicator.seal.table import SIGNATURE_SIZE, TRAILER_SIZE, FrameEntry, Table, parse_trailer, trailer

_SIGNED = b"replicator table 1\0"


class ObjectSealer:
    """Seals one object. Its random key lives as long as this value and is used for nothing else.

    `seal_frame` is pure and may run in several threads, each number once; `append` takes the entries in order.
    """

    def __init__(self, keyring: Keyring, header: Header, level: int) -> None:
        if keyring.writer is None:
            keyring.sign(b"")
        assert keyring.writer is not None
        self.header = replace(
            header,
            cipher=keyring.cipher,
            repository_id=keyring.repository_id,
            key_id=keyring.current,
            writer_id=keyring.writer.id,
        )
        self._keyring = keyring
        self._level = level
        clear = self.header.to_bytes()
        key = new_key()
        sealed_key = b"" if keyring.cipher is Cipher.NONE else keyring.seal_key(key, clear)
        #: The object's first bytes: header and sealed key.
        self.head = clear + sealed_key
        self._digest = digest(self.head)
        self._cipher = None if keyring.cipher is Cipher.NONE else FrameCipher(key, self._digest)
        self._entries: list[FrameEntry] = []

    def seal_frame(self, number: int, plain: Bytes) -> tuple[bytes, FrameEntry]:
        """Frame `number`: its sealed bytes and its entry. `plain` has at most 2 MiB."""
        if not 0 < len(plain) <= FRAME_SIZE:
            raise ReplicatorError(f"a frame of {len(plain)} bytes")
        sealed = compress(self.header.compression, self._level, plain)
        if self._cipher is not None:
            sealed = self._cipher.seal(number, sealed)
        return sealed, FrameEntry(digest(sealed), len(sealed), len(plain))

    def append(self, entry: FrameEntry) -> None:
        """The entry of the next frame in order."""
        self._entries.append(entry)

    def frame(self, plain: Bytes) -> bytes:
        """The next frame in order, sealed."""
        sealed, entry = self.seal_frame(len(self._entries), plain)
        self.append(entry)
        return sealed

    @property
    def frames(self) -> int:
        """How many frames were appended."""
        return len(self._entries)

    def finish(
        self, name: str, *, start: Lsn = Lsn(0), end: Lsn = Lsn(0), first_us: int = 0, last_us: int = 0,  # noqa: B008
        extra: bytes = b"",
    ) -> bytes:  # fmt: skip
        """Table, signature and trailer: the object's last bytes."""
        table = Table(
            name, self._digest, start, end, first_us, last_us,
            sum(entry.plain_size for entry in self._entries), tuple(self._entries), extra,
        ).to_bytes()  # fmt: skip
        return table + self._keyring.sign(_signed(self._keyring, table)) + trailer(len(table), len(self.head))


def _signed(keyring: Keyring, table: bytes) -> bytes:
    """What the writer signs: a table counts in its own repository only."""
    return _SIGNED + keyring.repository_id + table


def parse_tail(tail: bytes, size: int, name: str) -> tuple[Table, bytes, bytes] | int:
    """From an object's last bytes: (table, signature, table's bytes), or how many bytes it takes.

    Nothing is verified yet but the shape. Raises IntegrityError.
    """
    table_size, head_size = parse_trailer(tail, name)
    needed = table_size + SIGNATURE_SIZE + TRAILER_SIZE
    if needed + head_size > size:
        raise IntegrityError(f"{name}: its table does not fit", object=name)
    if needed > len(tail):
        return needed
    data = tail[-needed : -(SIGNATURE_SIZE + TRAILER_SIZE)]
    table = Table.parse(data, head_size, name)
    if table.size != size:
        raise IntegrityError(f"{name}: {size} bytes where its table says {table.size}", object=name)
    return table, tail[-(SIGNATURE_SIZE + TRAILER_SIZE) : -TRAILER_SIZE], data


def check_head(keyring: Keyring, head: bytes, table: Table, name: str) -> Header:
    """The header, checked against the table and this repository. Raises IntegrityError."""
    header = Header.parse(head, name)
    if header.repository_id != keyring.repository_id:
        raise IntegrityError(f"{name}: belongs to another repository", object=name)
    if len(head) != table.head_size or len(head) != HEADER_SIZE + header.sealed_key_size:
        raise IntegrityError(f"{name}: its head has the wrong length", object=name)
    if digest(head) != table.header_digest:
        raise IntegrityError(f"{name}: its head is not the one that was signed", object=name)
    if header.cipher is not keyring.cipher:
        raise IntegrityError(f"{name}: sealed with another cipher than the repository's", object=name)
    return header


def verify_table(keyring: Keyring, signature: bytes, data: bytes, name: str) -> bytes:
    """The id of the writer that signed the table. Raises IntegrityError."""
    return keyring.verify_writer(signature, _signed(keyring, data), name)


class FrameRoom:
    """Memory for opening frames one after another without asking the system for more. One thread's at a time."""

    def __init__(self) -> None:
        self._packed = memoryview(bytearray(FRAME_SIZE + FRAME_SIZE // 8))
        self._plain = memoryview(mmap.mmap(-1, FRAME_SIZE))  # whole pages: what is written past the page cache must be

    def packed(self, size: int) -> memoryview:
        """Room for what is decrypted and still compressed."""
        return self._packed[:size] if size <= len(self._packed) else memoryview(bytearray(size))

    def plain(self, size: int) -> memoryview:
        """Room for plain bytes. Raises IntegrityError for more than a frame has."""
        if size > FRAME_SIZE:
            raise IntegrityError(f"a frame of {size} bytes")
        return self._plain[:size]


class ObjectOpener:
    """Opens frames of one object whose head and table are verified. Safe to use from several threads."""

    def __init__(self, keyring: Keyring, header: Header, head: bytes, table: Table) -> None:
        self.header = header
        self.table = table
        self._cipher: FrameCipher | None = None
        if header.cipher is not Cipher.NONE:
            key = keyring.open_key(header.key_id, head[HEADER_SIZE:], head[:HEADER_SIZE], table.name)
            self._cipher = FrameCipher(key, table.header_digest)

    def open_frame(self, number: int, sealed: Bytes) -> bytes:
        """The plain bytes of frame `number`. Raises IntegrityError that names object and frame."""
        entry = self._checked(number, sealed)
        try:
            data = sealed if self._cipher is None else self._cipher.open(number, sealed)
            return decompress(self.header.compression, data, entry.plain_size)
        except IntegrityError as error:
            raise self._named(number, error) from error

    def open_frame_into(self, number: int, sealed: Bytes, room: FrameRoom) -> memoryview:
        """As `open_frame`, in `room`: the bytes last until it is used again."""
        entry = self._checked(number, sealed)
        try:
            if self._cipher is None:
                data: Bytes = sealed
            else:
                data = room.packed(max(0, len(sealed) - TAG_SIZE))
                self._cipher.open_into(number, sealed, data)
            plain = room.plain(entry.plain_size)
            decompress_into(self.header.compression, data, plain)
        except IntegrityError as error:
            raise self._named(number, error) from error
        return plain

    def _checked(self, number: int, sealed: Bytes) -> FrameEntry:
        entry = self.table.frames[number]
        if len(sealed) != entry.sealed_size or digest(sealed) != entry.digest:
            raise self._named(number, IntegrityError(f"frame {number} is damaged"))
        return entry

    def _named(self, number: int, error: IntegrityError) -> IntegrityError:
        context: dict[str, Any] = {"object": self.table.name, "frame": number}
        return IntegrityError(f"{self.table.name}: {error.message}", **context)
