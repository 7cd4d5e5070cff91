"""A cluster's repository: its identity, keys and stores, opened and believed only as far as the root vouches.

Owns the reading of documents at the root of a store, the pinning of the root, and the choice of keys. It puts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from replicator.errors import (
    IntegrityError,
    KeysError,
    NotFound,
    ObjectAbsent,
    StoreUnavailable,
    UntrustedRepository,
    WrongSecret,
)
from replicator.repository.layout import (
    KEYS,
    ROOT,
    WRITERS,
    parse_key_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.seal.document import MOST_BYTES, UnverifiedDocument, open_document
from replicator.seal.header import Cipher
from replicator.seal.keyring import NO_KEY, Keyring
from replicator.seal.recipients import WrappedSecret, unwrap_with_identity, unwrap_with_passphrase
from replicator.seal.signature import SEALING, SIGNING, SigningKey, key_text, parse_key, x25519_public
from replicator.store.protocol import ReadableStore, Store

_log = logging.getLogger(__name__)

CIPHERS = {"none": Cipher.NONE, "aes-256-gcm": Cipher.AES_256_GCM}


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


@dataclass(frozen=True)
class Repository:
    """One cluster's repository. `stores` are rooted at the repository (`<root>/<cluster>/`) and already resilient."""

    cluster: str
    keyring: Keyring
    stores: Mapping[str, Store]

    @property
    def id(self) -> bytes:
        """The repository id, 16 bytes."""
        return self.keyring.repository_id

    def store(self, name: str) -> Store:
        """One of its stores. Raises NotFound that names them."""
        if name not in self.stores:
            raise NotFound(f"{self.cluster} has no store {name!r}", hint=f"Its stores are {', '.join(self.stores)}.")
        return self.stores[name]

    def only(self, names: tuple[str, ...]) -> Repository:
        """The same with some of its stores."""
        return replace(self, stores={name: self.store(name) for name in names})


class Documents(Protocol):
    """Where documents are read from: a store, or the copies a host keeps of them."""

    def names(self, prefix: str) -> Iterator[str]:
        """Every document's name with this prefix, ascending."""
        ...

    def read(self, name: str) -> bytes:
        """One document. Raises ObjectAbsent."""
        ...


class StoreDocuments:
    """Documents read from a store."""

    def __init__(self, store: ReadableStore) -> None:
        self._store = store

    def names(self, prefix: str) -> Iterator[str]:
        """As Documents."""
        return (info.name for info in self._store.list(prefix))

    def read(self, name: str) -> bytes:
        """As Documents. At most MOST_BYTES are read."""
        return self._store.get_tail(name, MOST_BYTES)[0]


class CachedDocuments:
    """Copies on this host, so that a daemon starts while no store answers. Signed, so a cache need not be trusted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self, prefix: str) -> Iterator[str]:
        """As Documents."""
        base = self._directory / prefix
        files = sorted(path for path in base.rglob("*") if path.is_file()) if base.is_dir() else []
        return (path.relative_to(self._directory).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        """As Documents."""
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError as error:
            raise ObjectAbsent(f"{name} is not in the cache") from error

    def keep(self, documents: Mapping[str, bytes]) -> None:
        """Replace the copies."""
        for name, data in documents.items():
            path = self._directory / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.new")
            temporary.touch(mode=0o600)
            temporary.write_bytes(data)
            temporary.replace(path)


def read_root(documents: Documents) -> UnverifiedDocument:
    """`replicator.json`, signed by the root that it names, whoever that is. Raises ObjectAbsent, IntegrityError."""
    document = UnverifiedDocument(documents.read(ROOT), ROOT)
    if document.kind != "repository" or document.signer != "root" or document.body.get("mode") not in CIPHERS:
        raise IntegrityError(f"{ROOT}: not a repository's document", object=ROOT)
    try:
        document.verify(parse_key(SIGNING, document.body["root"]))
        if len(bytes.fromhex(document.repository)) != 16:
            raise ValueError(document.repository)
    except (KeysError, KeyError, ValueError) as error:
        raise IntegrityError(f"{ROOT}: not a repository's document", object=ROOT) from error
    return document


def load_keyring(documents: Documents, cluster: str, pinned_root: str | None) -> tuple[Keyring, dict[str, bytes]]:
    """A keyring that can seal (given a writer) but not open, and the documents that it stands on.

    Raises ObjectAbsent when there is no repository, UntrustedRepository when its root is not `pinned_root`.
    """
    found = read_root(documents)
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
    kept = {ROOT: documents.read(ROOT)}
    public: dict[bytes, tuple[str, bytes]] = {}
    for name in documents.names(KEYS):
        key_id = parse_key_name(name)
        body = None if key_id is None else _believed(keyring, "key", name, documents, kept)
        if key_id is not None and body is not None:
            public[key_id] = (body["created"], parse_key(SEALING, body["public"]))
    writers: dict[bytes, bytes] = {}
    for name in documents.names(WRITERS):
        writer_id = parse_writer_name(name)
        body = None if writer_id is None else _believed(keyring, "writer", name, documents, kept)
        if writer_id is not None and body is not None:
            writers[writer_id] = parse_key(SIGNING, body["public"])
    if keyring.cipher is not Cipher.NONE and not public:
        raise IntegrityError("the repository has no key to seal to", object=KEYS)
    current = max(public, key=lambda key_id: (public[key_id][0], key_id)) if public else NO_KEY
    keys = {key_id: key for key_id, (_, key) in public.items()}
    return replace(keyring, public=keys, writers=writers, current=current), kept


def _believed(
    keyring: Keyring, kind: str, name: str, documents: Documents, kept: dict[str, bytes]
) -> dict[str, Any] | None:
    """The body of a document that the root signed, kept; None, and a warning, for what anybody may have put there."""
    data = documents.read(name)
    try:
        body = open_document(keyring, kind, name, data)
    except IntegrityError as error:
        _log.warning("ignored: %s", error.message)
        return None
    kept[name] = data
    return body


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
        key_id, recipient = place
        body = _believed(keyring, "recipient", name, documents, {})
        secret = None if body is None else _unwrap(body, secrets, recipient, keyring.repository_id, key_id)
        if secret is not None:
            unlocked = _with_root(unlocked, secret.root_seed)
            if secret.private is not None:
                if x25519_public(secret.private) != keyring.public.get(key_id):
                    raise IntegrityError(f"{name}: wraps another key than the repository's", object=name)
                unlocked = unlocked.with_private(key_id, secret.private)
    if unlocked.root_key is None and (secrets.passphrases or secrets.identities):
        raise WrongSecret(
            "the passphrase or identity fits none of the repository's recipients",
            hint="Check [encryption] passphrase and identity, or give the recovery sheet with --sheet.",
        )
    return unlocked


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


def open_repository(
    cluster: str, stores: Mapping[str, Store], secrets: Secrets, *, pinned_root: str | None = None,
    cache: CachedDocuments | None = None,
) -> Repository:  # fmt: skip
    """The repository, from the first store that holds it; from `cache` when none answers.

    Raises NotFound when every store answered and none holds it, StoreUnavailable when that cannot be known,
    UntrustedRepository, WrongSecret, IntegrityError.
    """
    failed: StoreUnavailable | IntegrityError | None = None
    sources: list[Documents] = [StoreDocuments(store) for store in stores.values()]
    if cache is not None:
        sources.append(cache)
    for source in sources:
        try:
            keyring, kept = load_keyring(source, cluster, pinned_root)
            # The copies on this host have no wrapped secrets: with them alone it can seal and verify, not open.
            unlocked = keyring if source is cache else unlock(keyring, source, secrets)
        except ObjectAbsent:
            continue
        except (StoreUnavailable, IntegrityError) as error:
            failed = failed or error
            continue
        if cache is not None and source is not cache:
            cache.keep(kept)
        return Repository(cluster, unlocked.with_writer(secrets.writer), stores)
    if failed is not None:
        raise failed
    raise NotFound(
        f"the repository of {cluster} is in none of its stores", hint=f"Make it with `replicator init {cluster}`."
    )


def check_store(repository: Repository, name: str) -> bool:
    """Whether a store holds this very repository: False when it holds none. Raises UntrustedRepository for another."""
    try:
        found = read_root(StoreDocuments(repository.store(name)))
    except ObjectAbsent:
        return False
    root = key_text(SIGNING, repository.keyring.root)
    if found.body["root"] != root or found.repository != repository.id.hex():
        raise UntrustedRepository(
            f"store {name} holds another repository (root {found.body['root']})",
            hint=f"Expected {root}; correct the store's URL, or empty it after making sure whose it is.",
            store=name,
        )
    return True
