"""Wrapping the repository's private halves for a recipient (docs/format.md, section 3)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from replicator.errors import IntegrityError
from replicator.seal.cipher import hpke_open, hpke_seal
from replicator.seal.digest import short_id
from replicator.seal.signature import SEALING, base64url, from_base64url, key_text, parse_key, x25519_public

#: 0.5 s and 128 MiB on one core of 2026.
SCRYPT_N = 2**17
SCRYPT_R = 8
SCRYPT_P = 1
#: What a stranger's document may make us spend at most: 1 GiB.
_MOST_SCRYPT = 2**30


@dataclass(frozen=True)
class WrappedSecret:
    """What a recipient unwraps: the repository key's private half (None without encryption) and the root's seed."""

    private: bytes | None = field(repr=False)
    root_seed: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """64 bytes."""
        return (self.private or bytes(32)) + self.root_seed

    @classmethod
    def parse(cls, data: bytes) -> WrappedSecret:
        """Read them. Raises IntegrityError."""
        if len(data) != 64:
            raise IntegrityError("a wrapped secret of the wrong length")
        return cls(data[:32] if any(data[:32]) else None, data[32:])


def wrap_for_x25519(
    secret: WrappedSecret, recipient: bytes, repository_id: bytes, key_id: bytes
) -> tuple[str, dict[str, Any]]:
    """(recipient id, document body without `created` and `label`) for an X25519 public half."""
    name = f"x25519-{short_id(recipient).hex()}"
    sealed = hpke_seal(recipient, secret.to_bytes(), _info(repository_id, key_id, name))
    return name, {"type": "x25519", "public": key_text(SEALING, recipient), "sealed": base64url(sealed)}


def wrap_for_passphrase(secret: WrappedSecret, passphrase: bytes, repository_id: bytes, key_id: bytes, *,
                        n: int = SCRYPT_N) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """(recipient id, document body without `created` and `label`) for a passphrase."""
    salt = os.urandom(16)
    name = f"passphrase-{salt[:8].hex()}"
    key = Scrypt(salt=salt, length=32, n=n, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
    sealed = AESGCM(key).encrypt(bytes(12), secret.to_bytes(), _info(repository_id, key_id, name))
    return name, {
        "type": "passphrase",
        "n": n,
        "r": SCRYPT_R,
        "p": SCRYPT_P,
        "salt": base64url(salt),
        "sealed": base64url(sealed),
    }


def unwrap_with_identity(
    body: dict[str, Any], private: bytes, name: str, repository_id: bytes, key_id: bytes
) -> WrappedSecret | None:
    """The secret; None when this recipient is not that identity's. Raises IntegrityError when it should open."""
    if body.get("type") != "x25519" or parse_key(SEALING, body["public"]) != x25519_public(private):
        return None
    key = X25519PrivateKey.from_private_bytes(private)
    plain = hpke_open(key, from_base64url(body["sealed"]), _info(repository_id, key_id, name))
    if plain is None:
        raise IntegrityError(f"keys/{key_id.hex()}/{name}: does not open for the identity that it names")
    return WrappedSecret.parse(plain)


def unwrap_with_passphrase(
    body: dict[str, Any], passphrase: bytes, name: str, repository_id: bytes, key_id: bytes
) -> WrappedSecret | None:
    """The secret; None when the passphrase does not fit."""
    if body.get("type") != "passphrase":
        return None
    n, r, p = body["n"], body["r"], body["p"]
    if not all(isinstance(value, int) and value > 0 for value in (n, r, p)) or 128 * n * r > _MOST_SCRYPT or p > 16:
        raise IntegrityError(f"keys/{key_id.hex()}/{name}: scrypt parameters out of bounds")
    key = Scrypt(salt=from_base64url(body["salt"]), length=32, n=n, r=r, p=p).derive(passphrase)
    try:
        plain = AESGCM(key).decrypt(bytes(12), from_base64url(body["sealed"]), _info(repository_id, key_id, name))
    except InvalidTag:
        return None
    return WrappedSecret.parse(plain)


def _info(repository_id: bytes, key_id: bytes, name: str) -> bytes:
    return b"replicator recipient 1\0" + repository_id + key_id + name.encode("ascii")
