"""Which keys of a repository count: the keyring that its documents give, and what a secret unwraps of it.

Owns the belief in keys, writers and recipients: signed by the root and not removed. It puts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from replicator.core.moment import parse_time
from replicator.errors import IntegrityError, UntrustedRepository, WrongSecret
from replicator.repository.documents import CIPHERS, Documents, believed, read_believed, read_root
from replicator.repository.layout import (
    KEYS,
    ROOT,
    WRITERS,
    parse_key_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.repository.removals import (
    key_subject,
    parse_removal_name,
    read_removals,
    recipient_subject,
    writer_subject,
)
from replicator.seal.digest import short_id
from replicator.seal.header import Cipher
from replicator.seal.keyring import NO_KEY, Keyring
from replicator.seal.recipients import WrappedSecret, unwrap_with_identity, unwrap_with_passphrase
from replicator.seal.signature import SEALING, SIGNING, SigningKey, parse_key, x25519_public


@dataclass(frozen=True)
class Secrets:
    """What this process was given to open with: passphrases, X25519 private halves, and this host's writer key."""

    passphrases: tuple[bytes, ...] = field(default=(), repr=False)
    identities: tuple[bytes, ...] = field(default=(), repr=False)
    root_seed: bytes | None = field(default=None, repr=False)
    writer: SigningKey | None = field(default=None, repr=False)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to open with."""
        return not self.passphrases and not self.identities and self.root_seed is None


def load_keyring(
    documents: Documents, cluster: str, pinned_root: str | None, *, known: Documents | None = None
) -> tuple[Keyring, dict[str, bytes]]:
    """A keyring that can seal (given a writer) but not open, and the documents that it stands on.

    `known` are documents that this host saw before: removals among them count too. Raises ObjectAbsent when there is
    no repository, UntrustedRepository when its root is not `pinned_root`.
    """
    found = read_root(documents, pinned_root)
    root = found.body["root"]
    if pinned_root is not None and root != pinned_root:
        raise UntrustedRepository(
            f"the repository's root is {root}, not the pinned {pinned_root}",
            hint="Someone replaced the repository, or the store's URL is wrong; compare with the recovery sheet.",
        )
    if found.body.get("cluster") != cluster:
        raise UntrustedRepository(
            f"the repository is that of cluster {found.body.get('cluster')!r}, not {cluster!r}",
            hint="Give each cluster a root folder or prefix of its own.",
        )
    keyring = Keyring(bytes.fromhex(found.repository), CIPHERS[found.body["mode"]], parse_key(SIGNING, root))
    removals = {**(read_removals(keyring, known) if known is not None else {}), **read_removals(keyring, documents)}
    keyring = replace(keyring, removed=frozenset(filter(None, map(parse_removal_name, removals))))
    kept = {ROOT: found.data, **removals}
    public = _keys(keyring, documents, kept)
    writers = _writers(keyring, documents, kept)
    if keyring.cipher is not Cipher.NONE and not public:
        raise IntegrityError("the repository has no key to seal to", object=KEYS)
    current = max(public, key=lambda key_id: (public[key_id][0], key_id)) if public else NO_KEY
    keys = {key_id: key for key_id, (_, key) in public.items()}
    return replace(keyring, public=keys, writers=writers, current=current), kept


def _keys(keyring: Keyring, documents: Documents, kept: dict[str, bytes]) -> dict[bytes, tuple[datetime, bytes]]:
    """(created, public half) of every repository key that can be sealed to."""
    found: dict[bytes, tuple[datetime, bytes]] = {}
    for name in documents.names(KEYS):
        key_id = parse_key_name(name)
        if key_id is None or key_subject(key_id) in keyring.removed:
            continue
        body = _kept(keyring, "key", name, documents, kept)
        if body is not None:
            found[key_id] = (parse_time(body["created"]), parse_key(SEALING, body["public"]))
    return found


def _writers(keyring: Keyring, documents: Documents, kept: dict[str, bytes]) -> dict[bytes, bytes]:
    """The public half of every writer whose signatures count."""
    found: dict[bytes, bytes] = {}
    for name in documents.names(WRITERS):
        writer_id = parse_writer_name(name)
        if writer_id is None or writer_subject(writer_id) in keyring.removed:
            continue
        body = _kept(keyring, "writer", name, documents, kept)
        if body is not None:
            found[writer_id] = parse_key(SIGNING, body["public"])
    return found


def _kept(
    keyring: Keyring, kind: str, name: str, documents: Documents, kept: dict[str, bytes]
) -> dict[str, Any] | None:
    data = read_believed(keyring, kind, name, documents)
    if data is None:
        return None
    kept[name] = data
    return believed(keyring, kind, name, data)


def unlock(keyring: Keyring, documents: Documents, secrets: Secrets) -> Keyring:
    """The keyring with every private half and the root that `secrets` unwrap. Raises WrongSecret when none fits."""
    if secrets.empty:
        return keyring
    unlocked = keyring
    if secrets.root_seed is not None:
        unlocked = _with_root(unlocked, secrets.root_seed)
    for name in documents.names(KEYS):
        place = parse_recipient_name(name)
        if place is None or (place[0] in unlocked.private and unlocked.root_key is not None):
            continue
        data = read_believed(keyring, "recipient", name, documents)
        secret = unwrap(keyring, name, data, secrets) if data is not None else None
        if secret is not None:
            unlocked = _with_root(unlocked, secret.root_seed)
            if secret.private is not None:
                unlocked = unlocked.with_private(place[0], secret.private)
    if unlocked.root_key is None and (secrets.passphrases or secrets.identities):
        raise WrongSecret(
            "the passphrase or identity fits none of the repository's recipients",
            hint="Check [encryption] passphrase and identity, or give the recovery sheet with --sheet.",
        )
    return unlocked


def unwrap(keyring: Keyring, name: str, data: bytes, secrets: Secrets) -> WrappedSecret | None:
    """What `secrets` unwrap of one recipient's document; None when none fits, or it does not count.

    Raises IntegrityError when it wraps another key than its name says.
    """
    place = parse_recipient_name(name)
    if place is None or {key_subject(place[0]), recipient_subject(place[1])} & keyring.removed:
        return None
    body = believed(keyring, "recipient", name, data)
    secret = None if body is None else _unwrap(body, secrets, place[1], keyring.repository_id, place[0])
    # The key's `public` may come later: its id is the hash of it, and the root signed the name.
    if secret is not None and secret.private is not None and short_id(x25519_public(secret.private)) != place[0]:
        raise IntegrityError(f"{name}: wraps another key than the repository's", object=name)
    return secret


def _unwrap(
    body: dict[str, Any], secrets: Secrets, recipient: str, repository_id: bytes, key_id: bytes
) -> WrappedSecret | None:
    for identity in secrets.identities:
        secret = unwrap_with_identity(body, identity, recipient, repository_id, key_id)
        if secret is not None:
            return secret
    for passphrase in secrets.passphrases:
        secret = unwrap_with_passphrase(body, passphrase, recipient, repository_id, key_id)
        if secret is not None:
            return secret
    return None


def _with_root(keyring: Keyring, seed: bytes) -> Keyring:
    root = SigningKey(seed)
    if root.public != keyring.root:
        raise WrongSecret("the recovery secret is that of another repository")
    return replace(keyring, root_key=root)
