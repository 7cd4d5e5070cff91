"""Ed25519 signatures and the text forms of keys (docs/format.md, section 1)."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from replicator.errors import KeysError
from replicator.seal.digest import short_id

SIGNING = "ed25519"
SIGNING_SECRET = "ed25519-secret"  # noqa: S105 — a prefix, not a secret
SEALING = "x25519"
SEALING_SECRET = "x25519-secret"  # noqa: S105


def base64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64url(text: str) -> bytes:
    """The reverse. Raises KeysError."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeysError("not base64url") from error


def key_text(prefix: str, key: bytes) -> str:
    """`ed25519:…` and its like."""
    return f"{prefix}:{base64url(key)}"


def parse_key(prefix: str, text: str) -> bytes:
    """The 32 bytes behind `prefix:`. Raises KeysError that never repeats the text."""
    found, colon, value = text.strip().partition(":")
    if not colon or found != prefix:
        raise KeysError(f"not a key of the form {prefix}:…")
    key = from_base64url(value)
    if len(key) != 32:
        raise KeysError(f"a key of {len(key)} bytes where {prefix}: has 32")
    return key


def x25519_public(private: bytes) -> bytes:
    """The public half of an X25519 private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def new_x25519() -> bytes:
    """A random X25519 private key."""
    return os.urandom(32)


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 private key: a writer's or the root's."""

    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> SigningKey:
        """A random one."""
        return cls(os.urandom(32))

    @property
    def public(self) -> bytes:
        """Its public half, 32 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    @property
    def id(self) -> bytes:
        """Its 8-byte id."""
        return short_id(self.public)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is that of `public` over `message`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True
