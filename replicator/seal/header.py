"""The clear header of a sealed object (docs/format.md, section 4.2). Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError

MAGIC = b"\x89REPLOB\n"
VERSION = 1
HEADER_SIZE = 96
SEALED_KEY_SIZE = 80
#: The most plain bytes in one frame.
FRAME_SIZE = 2 * 1024 * 1024

_LAYOUT = struct.Struct(">8sHBBBBH16s8s8sQIIQ16sII")


class Kind(IntEnum):
    """What a sealed object is."""

    WAL = 1
    PIECE = 2
    PACK = 3
    MANIFEST = 4


class Cipher(IntEnum):
    """How frames are encrypted."""

    NONE = 0
    AES_256_GCM = 1


class Compression(IntEnum):
    """How frames are compressed."""

    NONE = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an object before its first frame."""

    kind: Kind
    cipher: Cipher
    compression: Compression
    repository_id: bytes
    key_id: bytes
    writer_id: bytes
    system_id: int
    timeline: int = 0
    segment_size: int = 0
    start: Lsn = Lsn(0)  # noqa: RUF009 — immutable
    label: str = ""
    attempt: int = 0
    number: int = 0

    @property
    def sealed_key_size(self) -> int:
        """80, or 0 without a cipher."""
        return SEALED_KEY_SIZE if self.cipher is not Cipher.NONE else 0

    def to_bytes(self) -> bytes:
        """The 96 bytes."""
        return _LAYOUT.pack(
            MAGIC, VERSION, self.kind, self.cipher, self.compression, self.sealed_key_size, 0,
            self.repository_id, self.key_id, self.writer_id, self.system_id, self.timeline, self.segment_size,
            self.start, self.label.encode("ascii"), self.attempt, self.number,
        )  # fmt: skip

    @classmethod
    def parse(cls, data: bytes, name: str) -> Header:
        """Read the first 96 bytes of the object `name`. Raises IntegrityError."""
        if len(data) < HEADER_SIZE:
            raise IntegrityError(f"{name}: too short for a sealed object", object=name)
        fields = _LAYOUT.unpack_from(data)
        magic, version, kind, cipher, compression, sealed_key, zero = fields[:7]
        if magic != MAGIC:
            raise IntegrityError(f"{name}: not a sealed object", object=name)
        if version != VERSION:
            raise IntegrityError(
                f"{name}: format version {version}", hint="A newer replicator wrote this object.", object=name
            )
        try:
            header = cls(
                kind=Kind(kind), cipher=Cipher(cipher), compression=Compression(compression),
                repository_id=fields[7], key_id=fields[8], writer_id=fields[9], system_id=fields[10],
                timeline=fields[11], segment_size=fields[12], start=Lsn(fields[13]),
                label=fields[14].rstrip(b"\0").decode("ascii"), attempt=fields[15], number=fields[16],
            )  # fmt: skip
        except ValueError as error:
            raise IntegrityError(f"{name}: a header that makes no sense", object=name) from error
        if zero or sealed_key != header.sealed_key_size:
            raise IntegrityError(f"{name}: a header that makes no sense", object=name)
        return header
