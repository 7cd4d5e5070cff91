"""What this host may open and sign with, resolved from a policy's references. Never kept, never said."""

from __future__ import annotations

from pathlib import Path

from replicator.policy import EncryptionPolicy, SecretRef, resolve_secret
from replicator.repository.repository import Secrets
from replicator.seal.signature import SEALING_SECRET, SIGNING_SECRET, SigningKey, parse_key


def held_secrets(
    cluster: str, encryption: EncryptionPolicy, identity: Path | None, writer: SigningKey | None
) -> Secrets:
    """Passphrase and identity of the policy (or the file `identity` instead of the policy's). Raises KeysError."""
    passphrases: tuple[bytes, ...] = ()
    identities: tuple[bytes, ...] = ()
    seed: bytes | None = None
    if encryption.passphrase is not None:
        passphrases = (resolve_secret(encryption.passphrase, what=f"the passphrase of {cluster}"),)
    reference = SecretRef(file=identity.absolute()) if identity is not None else encryption.identity
    if reference is not None:
        text = resolve_secret(reference, what=f"the identity of {cluster}").decode("ascii", "replace")
        if text.startswith(f"{SIGNING_SECRET}:"):  # without encryption the sheet holds the root itself
            seed = parse_key(SIGNING_SECRET, text)
        else:
            identities = (parse_key(SEALING_SECRET, text),)
    return Secrets(passphrases, identities, seed, writer)
