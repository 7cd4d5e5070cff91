"""What one process knows of a repository's keys: enough to seal, and, where it holds a private half, to open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from replicator.errors import CannotOpen, IntegrityError, KeysError
from replicator.seal.cipher import OBJECT_INFO, hpke_open, hpke_seal
from replicator.seal.header import Cipher
from replicator.seal.signature import SigningKey, verify

NO_KEY = bytes(8)


@dataclass(frozen=True)
class Keyring:
    """Immutable; `with_…` return new ones. `public` are repository keys by id, `current` the one to seal to
    (NO_KEY without encryption), `writers` the public halves that the root signed, `removed` what it removed.
    """

    repository_id: bytes
    cipher: Cipher
    root: bytes
    current: bytes = NO_KEY
    public: Mapping[bytes, bytes] = field(default_factory=dict)
    writers: Mapping[bytes, bytes] = field(default_factory=dict)
    private: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    writer: SigningKey | None = field(default=None, repr=False)
    root_key: SigningKey | None = field(default=None, repr=False)
    removed: frozenset[str] = frozenset()

    @property
    def can_open(self) -> bool:
        """Whether this process can read what is sealed."""
        return self.cipher is Cipher.NONE or bool(self.private)

    @property
    def can_write(self) -> bool:
        """Whether this process holds a writer's key that the root signed."""
        return self.writer is not None and self.writers.get(self.writer.id) == self.writer.public

    def with_private(self, key_id: bytes, private: bytes) -> Keyring:
        """This keyring with one more private half."""
        return replace(self, private={**self.private, key_id: private})

    def with_writer(self, writer: SigningKey | None) -> Keyring:
        """This keyring signing as `writer`."""
        return replace(self, writer=writer)

    def with_root(self, root: SigningKey) -> Keyring:
        """This keyring with the root's private half."""
        return replace(self, root_key=root)

    def without_secrets(self) -> Keyring:
        """The same without private halves and root: what a host that only writes has."""
        return replace(self, private={}, root_key=None)

    def seal_key(self, key: bytes, header: bytes) -> bytes:
        """An object's key sealed to the repository's public half."""
        return hpke_seal(self.public[self.current], key, OBJECT_INFO + header)

    def open_key(self, key_id: bytes, sealed: bytes, header: bytes, name: str) -> bytes:
        """An object's key. Raises CannotOpen, or IntegrityError when it was not sealed for this header."""
        private = self.private.get(key_id)
        if private is None:
            raise CannotOpen(
                f"{name}: this host holds no private key for the repository",
                hint="Give the passphrase or identity in [encryption], or use --identity or --sheet.",
                object=name,
            )
        key = hpke_open(X25519PrivateKey.from_private_bytes(private), sealed, OBJECT_INFO + header)
        if key is None:
            raise IntegrityError(f"{name}: its key does not open with its header", object=name)
        return key

    def sign(self, message: bytes) -> bytes:
        """The writer's signature. Raises KeysError when this process may not write."""
        if self.writer is None:
            raise KeysError("this process has no writer key", hint="Run `replicator init` on this host.")
        return self.writer.sign(message)

    def verify_writer(self, signature: bytes, message: bytes, name: str) -> bytes:
        """The id of the writer that signed `message`. Raises IntegrityError when none that the root signed did."""
        for writer_id, public in self.writers.items():
            if verify(public, signature, message):
                return writer_id
        raise IntegrityError(
            f"{name}: signed by no writer of this repository",
            hint="It was damaged, or put there by somebody else; another store may have it as it was.",
            object=name,
        )
