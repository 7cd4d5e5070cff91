"""Object keys and frames: HPKE (RFC 9180) to the repository key, AES-256-GCM for the frames."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from replicator.errors import IntegrityError
from replicator.seal.digest import Bytes

OBJECT_INFO = b"replicator object key 1\0"
KEY_SIZE = 32
#: What AES-GCM adds to a frame.
TAG_SIZE = 16

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def new_key() -> bytes:
    """A random object key."""
    return os.urandom(KEY_SIZE)


def hpke_seal(public: bytes, plain: bytes, info: bytes) -> bytes:
    """`plain` sealed to an X25519 public half."""
    return _SUITE.encrypt(plain, X25519PublicKey.from_public_bytes(public), info=info)


def hpke_open(private: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes | None:
    """The plain bytes; None when they were not sealed for this key and `info`."""
    try:
        return _SUITE.decrypt(sealed, private, info=info)
    except InvalidTag:
        return None


class FrameCipher:
    """Seals and opens the frames of one object. Safe to use from several threads."""

    def __init__(self, key: bytes, header_digest: bytes) -> None:
        self._aead = AESGCM(key)
        self._header_digest = header_digest

    def seal(self, number: int, data: Bytes) -> bytes:
        """Frame `number`, encrypted."""
        return self._aead.encrypt(number.to_bytes(12, "big"), data, self._associated(number))

    def open(self, number: int, sealed: Bytes) -> bytes:
        """Frame `number`, decrypted. Raises IntegrityError."""
        try:
            return self._aead.decrypt(number.to_bytes(12, "big"), sealed, self._associated(number))
        except InvalidTag as error:
            raise IntegrityError(f"frame {number} does not open") from error

    def open_into(self, number: int, sealed: Bytes, room: memoryview) -> None:
        """As `open`, into `room`, which is as long as the plain bytes. Raises IntegrityError."""
        try:
            self._aead.decrypt_into(number.to_bytes(12, "big"), sealed, self._associated(number), room)
        except InvalidTag as error:
            raise IntegrityError(f"frame {number} does not open") from error

    def _associated(self, number: int) -> bytes:
        return self._header_digest + number.to_bytes(8, "big")
