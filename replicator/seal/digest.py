"""BLAKE3 in the three uses the format has: digests, fingerprints, comparison hashes."""

from __future__ import annotations

from threading import Lock

from blake3 import blake3

DIGEST_SIZE = 32
#: A block is compared with what it was before, not with all others: 96 bits under a secret key are plenty.
COMPARISON_SIZE = 12

Bytes = bytes | bytearray | memoryview

#: Each block's hash lets go of the interpreter lock. Threads that do so in turns hash less together than one alone.
_hashing = Lock()

__all__ = [
    "COMPARISON_SIZE",
    "DIGEST_SIZE",
    "Bytes",
    "Fingerprint",
    "block_hash",
    "block_hashes",
    "digest",
    "fingerprint",
    "short_id",
]


def digest(*parts: Bytes) -> bytes:
    """BLAKE3 (32 bytes) of the parts together."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


class Fingerprint:
    """The fingerprint of plain bytes that come part by part: none is kept."""

    def __init__(self, repository_id: bytes) -> None:
        self._hasher = blake3(repository_id)

    def update(self, plain: Bytes) -> None:
        """The next bytes."""
        self._hasher.update(plain)

    def hex(self) -> str:
        """Sixteen hex digits for all bytes so far."""
        return self._hasher.digest(8).hex()


def fingerprint(repository_id: bytes, *plain: Bytes) -> str:
    """Sixteen hex digits that name plain bytes within one repository."""
    mark = Fingerprint(repository_id)
    for part in plain:
        mark.update(part)
    return mark.hex()


def short_id(public: bytes) -> bytes:
    """The 8-byte id of a public key."""
    return digest(public)[:8]


def block_hash(key: bytes, block: Bytes) -> bytes:
    """The 12-byte comparison hash of a block under the 32-byte comparison key."""
    return blake3(block, key=key).digest(COMPARISON_SIZE)


def block_hashes(key: bytes, data: Bytes, unit: int) -> list[bytes]:
    """The comparison hashes of consecutive blocks of `unit` bytes, the last perhaps shorter. May run in any thread."""
    view = memoryview(data)
    size = COMPARISON_SIZE
    with _hashing:
        return [blake3(view[at : at + unit], key=key).digest(size) for at in range(0, len(view), unit)]
