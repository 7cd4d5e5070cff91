"""BLAKE3 in the three uses the format has: digests, fingerprints, comparison hashes."""

from __future__ import annotations

from blake3 import blake3

DIGEST_SIZE = 32
COMPARISON_SIZE = 16

Bytes = bytes | bytearray | memoryview

__all__ = ["COMPARISON_SIZE", "DIGEST_SIZE", "Bytes", "block_hash", "digest", "fingerprint", "short_id"]


def digest(*parts: Bytes) -> bytes:
    """BLAKE3 (32 bytes) of the parts together."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def fingerprint(repository_id: bytes, *plain: Bytes) -> str:
    """Sixteen hex digits that name plain bytes within one repository."""
    return digest(repository_id, *plain)[:8].hex()


def short_id(public: bytes) -> bytes:
    """The 8-byte id of a public key."""
    return digest(public)[:8]


def block_hash(key: bytes, block: Bytes) -> bytes:
    """The 16-byte comparison hash of a block under the 32-byte comparison key."""
    return blake3(block, key=key).digest(COMPARISON_SIZE)
