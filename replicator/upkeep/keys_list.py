"""What keys a repository has, and what each secret opens: listed from documents, proven by opening.

Owns `key list` and `key test`. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicator.errors import IntegrityError, KeysError, ObjectAbsent, ReplicatorError, StoreUnavailable
from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.documents import GivenDocuments, StoreDocuments
from replicator.repository.keys import Secrets, load_keyring, unwrap
from replicator.repository.layout import (
    WalName,
    manifest_name,
    parse_key_name,
    parse_name,
    parse_recipient_name,
    parse_writer_name,
    wal_prefix,
)
from replicator.repository.objects import open_object
from replicator.repository.removals import parse_removal_name
from replicator.repository.repository import Repository
from replicator.seal.document import UnverifiedDocument
from replicator.seal.header import Cipher
from replicator.seal.keyring import NO_KEY, Keyring
from replicator.seal.signature import SIGNING, SigningKey, key_text
from replicator.store.protocol import ReadableStore
from replicator.upkeep.keys import family_of
from replicator.upkeep.keys_documents import RootDocuments, read_documents


@dataclass(frozen=True)
class Listing:
    """What `key list` shows: `as_json` is its `--json`; `silent` the stores that did not answer."""

    as_json: dict[str, Any]
    silent: Mapping[str, ReplicatorError]


def list_keys(repository: Repository) -> Listing:
    """Every key, recipient, writer and removal, and which stores have it. Raises UntrustedRepository."""
    documents = read_documents(repository)
    if not documents.held:
        raise next(iter(documents.silent.values()))
    counting = documents.counting()
    bodies = {name: UnverifiedDocument(data, name).body for name, data in counting.items()}
    root = key_text(SIGNING, repository.keyring.root)
    keyring, _ = load_keyring(GivenDocuments(documents.documents), repository.cluster, root)
    value = {
        "repository": repository.id.hex(),
        "root": root,
        "keys": [
            {"id": key_id.hex(), "current": key_id == keyring.current, **_facts(documents, name, body)}
            for name, body in bodies.items()
            if (key_id := parse_key_name(name)) is not None
        ],
        "recipients": _recipients(documents, bodies),
        "writers": [
            {"id": writer_id.hex(), "host": body.get("host"), **_facts(documents, name, body)}
            for name, body in bodies.items()
            if (writer_id := parse_writer_name(name)) is not None
        ],
        "removed": [
            {"what": subject, **_facts(documents, name, body)}
            for name, body in bodies.items()
            if (subject := parse_removal_name(name)) is not None
        ],
    }
    return Listing(value, documents.silent)


def _facts(documents: RootDocuments, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"created": body.get("created"), "stores": [store for store, held in documents.held.items() if name in held]}


def _recipients(documents: RootDocuments, bodies: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each recipient, whatever keys it opens; a store counts when it has them all."""
    rows: dict[str, dict[str, Any]] = {}
    for name, body in bodies.items():
        place = parse_recipient_name(name)
        if place is None:
            continue
        facts = _facts(documents, name, body)
        fresh = {"id": family_of(place[1], body), "type": body["type"], "label": body.get("label", ""),
                 "public": body.get("public"), "keys": [], **facts}  # fmt: skip
        row = rows.setdefault(fresh["id"], fresh)
        row["keys"].append(place[0].hex())
        row["created"] = min(row["created"], facts["created"])
        row["stores"] = [store for store in row["stores"] if store in facts["stores"]]
    return sorted(rows.values(), key=lambda row: (row["created"], row["id"]))


@dataclass(frozen=True)
class Given:
    """A secret to be tried; `name` is what people call it: the passphrase, the identity, the sheet."""

    name: str
    secrets: Secrets = field(repr=False)


@dataclass(frozen=True)
class Trial:
    """One secret against one store. `keys`: the repository keys that it opens; `lacks`: those it does not; `opened`:
    objects that were truly opened with it; `error`: why it can't restore from this store, if it can't.
    """

    secret: str
    store: str
    keys: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    error: ReplicatorError | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "secret": self.secret,
            "store": self.store,
            "ok": self.error is None,
            "keys": list(self.keys),
            "lacks": list(self.lacks),
            "opened": list(self.opened),
            "error": self.error.message if self.error is not None else None,
        }


def try_secrets(repository: Repository, given: Sequence[Given]) -> list[Trial]:
    """Try every secret in every store by itself: what it unwraps there, and that an object opens with it."""
    return [_try(repository, store, secret) for secret in given for store in repository.stores.values()]


def _try(repository: Repository, store: ReadableStore, given: Given) -> Trial:
    try:
        return _trial(repository, store, given)
    except (StoreUnavailable, KeysError, IntegrityError, ObjectAbsent) as error:
        return Trial(given.name, store.name, error=error)


def _trial(repository: Repository, store: ReadableStore, given: Given) -> Trial:
    source = StoreDocuments(store)
    keyring, _ = load_keyring(source, repository.cluster, key_text(SIGNING, repository.keyring.root))
    opened = _unlocked(keyring, source, given.secrets)
    if keyring.cipher is Cipher.NONE:
        if opened.root_key is None:
            raise KeysError("it is not the root's, nor that of a recipient")
        return Trial(given.name, store.name, opened=_samples(store, opened))
    lacks = tuple(key_id.hex() for key_id in sorted(keyring.public) if key_id not in opened.private)
    keys = tuple(key_id.hex() for key_id in sorted(opened.private))
    if not keys:
        raise KeysError("it opens none of the repository's keys", hint="It was removed, or is another repository's.")
    error = KeysError(f"it does not open the repository key {lacks[0]}") if lacks else None
    return Trial(given.name, store.name, keys, lacks, _samples(store, opened) if not lacks else (), error)


def _unlocked(keyring: Keyring, source: StoreDocuments, secrets: Secrets) -> Keyring:
    """As `unlock`, but every key by itself, and nothing that fits is no error."""
    opened = keyring
    if secrets.root_seed is not None and SigningKey(secrets.root_seed).public == keyring.root:
        opened = opened.with_root(SigningKey(secrets.root_seed))
    for name in source.names("keys/"):
        place = parse_recipient_name(name)
        if place is None or place[0] in opened.private:
            continue
        secret = unwrap(keyring, name, source.read(name), secrets)
        if secret is not None:
            opened = opened.with_root(SigningKey(secret.root_seed))
            if place[0] != NO_KEY and secret.private is not None:
                opened = opened.with_private(place[0], secret.private)
    return opened


def _samples(store: ReadableStore, keyring: Keyring) -> tuple[str, ...]:
    """Names of objects of which a frame was opened: the oldest and newest snapshot, and the newest WAL."""
    names: list[str] = []
    for system_id in system_ids(store):
        snapshots = list_snapshots(store, system_id)
        names += [manifest_name(snapshot) for snapshot in dict.fromkeys((*snapshots[:1], *snapshots[-1:]))]
        newest = None
        for info in store.list(wal_prefix(system_id)):
            newest = info.name if isinstance(parse_name(info.name), WalName) else newest
        names += [newest] if newest is not None else []
    for name in names:
        open_object(store, name, keyring).frame(0)
    return tuple(names)
