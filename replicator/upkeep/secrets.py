"""What this host may open and sign with: a policy's references resolved, and its own writer key. Never said."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import KeysError
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


def load_writer_key(path: Path) -> SigningKey | None:
    """This host's writer key; None when there is none yet. Raises KeysError when others can read it."""
    try:
        text = path.read_text("ascii")
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(
            f"the writer key {path} can't be read", hint="It belongs to the user that runs replicator."
        ) from error
    if mode & 0o077:
        raise KeysError(f"the writer key {path} can be read by others", hint=f"Run chmod 600 {path}.")
    return SigningKey(parse_key(SIGNING_SECRET, text))
