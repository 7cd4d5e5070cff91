"""Who can open a repository: recipients added and removed, and a new key pair. Nothing sealed is ever rewritten.

Owns the order of those changes, so that at no moment a restore is impossible: what opens is in every store before
anything is sealed to it, and what is removed is not the last that opens. `init` makes the first keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from replicator.core.codes import code_of, exit_code_of
from replicator.core.moment import parse_time, rfc3339
from replicator.errors import Conflict, KeysError, ReplicatorError, StoreUnavailable, UsageError
from replicator.repository.documents import GivenDocuments
from replicator.repository.keys import Secrets, load_keyring, unlock, unwrap
from replicator.repository.layout import key_name, parse_recipient_name, recipient_name
from replicator.repository.removals import recipient_subject
from replicator.repository.repository import Repository
from replicator.seal.digest import short_id
from replicator.seal.document import UnverifiedDocument, sign_document
from replicator.seal.header import Cipher
from replicator.seal.keyring import NO_KEY, Keyring
from replicator.seal.recipients import WrappedSecret, wrap_for_passphrase, wrap_for_x25519
from replicator.seal.signature import (
    SEALING,
    SEALING_SECRET,
    SIGNING,
    SIGNING_SECRET,
    SigningKey,
    key_text,
    new_x25519,
    parse_key,
    x25519_public,
)
from replicator.upkeep.keys_documents import RootDocuments, put_documents, read_documents
from replicator.upkeep.sheet import Sheet, SheetStore, format_sheet

#: The label of the recipient that stands on a recovery sheet.
SHEET_LABEL = "recovery sheet"


@dataclass(frozen=True)
class KeysJob:
    """What every change works on. `secrets` are what was given to open with; a change needs the root among it."""

    repository: Repository
    secrets: Secrets = field(repr=False)
    now: datetime


@dataclass(frozen=True)
class KeysResult:
    """What was changed. `ids`: recipients or the key; `stores`: a word for each store: `added`, `removed`, `unchanged`,
    `kept` (it counts no more, but the store refused to delete it), `away`; `errors` say why.
    """

    ids: tuple[str, ...]
    stores: Mapping[str, str]
    errors: Mapping[str, ReplicatorError] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """6 when a store that did not answer lacks the change; 4 where one is damaged."""
        return exit_code_of(code_of(error.type) for error in self.errors.values())

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        errors = {name: error.message for name, error in self.errors.items()}
        return {"ids": list(self.ids), "stores": dict(self.stores), "errors": errors}


@dataclass(frozen=True)
class Opened:
    """What the stores hold, and the keyring that the given secrets open of it, the root's private half included."""

    documents: RootDocuments
    counting: Mapping[str, bytes]
    keyring: Keyring
    root: SigningKey

    @property
    def key_ids(self) -> list[bytes]:
        """Every repository key, those too that were never used; NO_KEY without encryption."""
        return sorted({*self.keyring.public, *self.keyring.private}) or [NO_KEY]

    def secret(self, key_id: bytes) -> WrappedSecret:
        """What is wrapped of a key. Raises KeysError when the given secrets don't open it."""
        if key_id == NO_KEY:
            return WrappedSecret(None, self.root.seed)
        if key_id not in self.keyring.private:
            raise KeysError(
                f"what was given does not open the repository key {key_id.hex()}",
                hint="Give a passphrase, identity or sheet that opens every key: `key test` says which does.",
            )
        return WrappedSecret(self.keyring.private[key_id], self.root.seed)

    def recipients(self) -> dict[str, tuple[bytes, str, dict[str, Any]]]:
        """Every recipient's document that counts: name → (key id, recipient id, body)."""
        found = {}
        for name, data in self.counting.items():
            place = parse_recipient_name(name)
            if place is not None:
                found[name] = (*place, UnverifiedDocument(data, name).body)
        return found


def open_documents(job: KeysJob) -> Opened:
    """Read the documents of every store and open them. Raises KeysError when nothing given opens the root."""
    documents = read_documents(job.repository)
    if not documents.held:
        raise next(iter(documents.silent.values()))
    counting = documents.counting()
    source = GivenDocuments({**documents.documents, **counting})
    keyring, _ = load_keyring(source, job.repository.cluster, key_text(SIGNING, job.repository.keyring.root))
    keyring = unlock(keyring, source, job.secrets)
    if keyring.root_key is None:
        raise KeysError(
            "keys are changed by who can open the repository, and nothing was given that does",
            hint="Give [encryption] passphrase or identity, --identity FILE or --sheet FILE.",
        )
    return Opened(documents, counting, keyring, keyring.root_key)


def add_recipient(job: KeysJob, recipient: bytes, label: str) -> KeysResult:
    """Let the X25519 public half `recipient` open every key. Raises Conflict when it was removed before."""
    opened = open_documents(job)
    recipient_id = f"x25519-{short_id(recipient).hex()}"
    if recipient_subject(recipient_id) in opened.documents.removed:
        raise Conflict(
            f"recipient {recipient_id} was removed, and a removal is final",
            hint="Make a new key pair for whoever is to open again.",
        )
    new: dict[str, bytes] = {}
    for key_id in opened.key_ids:
        name = recipient_name(key_id, recipient_id)
        if name not in opened.counting:
            _, body = wrap_for_x25519(opened.secret(key_id), recipient, opened.keyring.repository_id, key_id)
            new[name] = _sign(opened, "recipient", name, {**body, "label": label}, job.now)
    return _spread(job, opened, new, (recipient_id,))


def add_passphrase(job: KeysJob, passphrase: bytes, label: str) -> KeysResult:
    """Let a passphrase open every key. One that does already is only completed in the stores."""
    opened = open_documents(job)
    new: dict[str, bytes] = {}
    first: str | None = None
    ids: list[str] = []
    for key_id in opened.key_ids:
        found = _fits(opened, key_id, Secrets(passphrases=(passphrase,)))
        if found is None:
            recipient_id, name, data = _wrap_passphrase(opened, key_id, passphrase, label, first, job.now)
            new[name] = data
        else:
            recipient_id = found
        first = first or recipient_id
        ids.append(recipient_id)
    return _spread(job, opened, new, tuple(ids))


def add_sheet(job: KeysJob, stores: tuple[SheetStore, ...], deliver: Callable[[str], None]) -> KeysResult:
    """Make a new recovery sheet and hand it out; then let it open every key. An older one stays as it is."""
    opened = open_documents(job)
    encrypted = opened.keyring.cipher is not Cipher.NONE
    private = new_x25519()
    secret = key_text(SEALING_SECRET, private) if encrypted else key_text(SIGNING_SECRET, opened.root.seed)
    repository = job.repository
    root = key_text(SIGNING, opened.keyring.root)
    deliver(format_sheet(Sheet(repository.cluster, repository.id.hex(), root, rfc3339(job.now), stores, secret)))
    if not encrypted:
        return _spread(job, opened, {}, ())
    return add_recipient(job, x25519_public(private), SHEET_LABEL)


def rotate(job: KeysJob) -> KeysResult:
    """Make a new repository key, wrapped for every recipient: from now on it is sealed to. What is sealed stays as it
    is. One that was interrupted before is completed instead.

    Raises StoreUnavailable when a store does not answer: nothing is begun then. Raises KeysError when a recipient is a
    passphrase that was not given.
    """
    opened = open_documents(job)
    for error in opened.documents.silent.values():
        raise error
    if opened.keyring.cipher is Cipher.NONE:
        raise UsageError("the repository is not encrypted: there is no key to rotate")
    current = key_name(opened.keyring.current)
    if any(current not in held for held in opened.documents.held.values()):
        return _spread(job, opened, {}, (opened.keyring.current.hex(),))
    private = new_x25519()
    key_id = short_id(x25519_public(private))
    wrapped = replace(opened, keyring=opened.keyring.with_private(key_id, private))
    new = _wrap_for_all(job, wrapped, key_id)
    # First everything that opens, in every store; only then the half that writers seal to.
    _must(_spread(job, opened, new, ()))
    newest = max(parse_time(_body(opened, key_name(known))["created"]) for known in opened.keyring.public)
    body = {"public": key_text(SEALING, x25519_public(private))}
    moment = max(job.now, newest + timedelta(microseconds=1))
    public = {key_name(key_id): _sign(opened, "key", key_name(key_id), body, moment)}
    return _spread(job, opened, public, (key_id.hex(),))


def _wrap_for_all(job: KeysJob, opened: Opened, key_id: bytes) -> dict[str, bytes]:
    """The new key wrapped once for everybody who opens an older one."""
    new: dict[str, bytes] = {}
    passphrases: set[str] = set()
    for name, (_, recipient_id, body) in opened.recipients().items():
        if body["type"] == "x25519":
            target = recipient_name(key_id, recipient_id)
            if target not in new:
                public = parse_key(SEALING, body["public"])
                _, wrapped = wrap_for_x25519(opened.secret(key_id), public, opened.keyring.repository_id, key_id)
                new[target] = _sign(opened, "recipient", target, {**wrapped, "label": body["label"]}, job.now)
        elif (family := family_of(recipient_id, body)) not in passphrases:
            passphrase = _passphrase_of(job, opened, name, recipient_id)
            _, target, data = _wrap_passphrase(opened, key_id, passphrase, body["label"], family, job.now)
            new[target] = data
            passphrases.add(family)
    return new


def _passphrase_of(job: KeysJob, opened: Opened, name: str, recipient_id: str) -> bytes:
    for passphrase in job.secrets.passphrases:
        if unwrap(opened.keyring, name, opened.counting[name], Secrets(passphrases=(passphrase,))) is not None:
            return passphrase
    raise KeysError(
        f"the new key can't be wrapped for {recipient_id}: its passphrase was not given",
        hint="Give it with --passphrase-file or --passphrase-env, or remove that recipient first.",
    )


def family_of(recipient_id: str, body: Mapping[str, Any]) -> str:
    """What names a recipient over all keys: a passphrase has an id of its own under each."""
    return str(body.get("continues") or recipient_id)


def _fits(opened: Opened, key_id: bytes, secrets: Secrets) -> str | None:
    """The recipient of a key that `secrets` open."""
    for name, (key, recipient_id, _) in opened.recipients().items():
        if key == key_id and unwrap(opened.keyring, name, opened.counting[name], secrets) is not None:
            return recipient_id
    return None


def _wrap_passphrase(
    opened: Opened, key_id: bytes, passphrase: bytes, label: str, first: str | None, now: datetime
) -> tuple[str, str, bytes]:
    """(recipient id, name, document) of a key wrapped for a passphrase, which `first` was earlier."""
    secret = opened.secret(key_id)
    recipient_id, body = wrap_for_passphrase(secret, passphrase, opened.keyring.repository_id, key_id)
    name = recipient_name(key_id, recipient_id)
    body |= {"label": label} | ({"continues": first} if first is not None else {})
    return recipient_id, name, _sign(opened, "recipient", name, body, now)


def _body(opened: Opened, name: str) -> dict[str, Any]:
    return UnverifiedDocument(opened.counting[name], name).body


def _sign(opened: Opened, kind: str, name: str, body: dict[str, Any], now: datetime) -> bytes:
    body = {"created": rfc3339(now), **body}
    return sign_document(opened.root, opened.keyring.repository_id, kind, name, body, root=True)


def _spread(job: KeysJob, opened: Opened, new: Mapping[str, bytes], ids: tuple[str, ...]) -> KeysResult:
    """Put what is new, and what a store lacked of the old, into every store that answers."""
    stores = dict.fromkeys(opened.documents.silent, "away")
    errors = dict(opened.documents.silent)
    for name in opened.documents.held:
        missing = {lacking: opened.counting[lacking] for lacking in opened.documents.lacking(name)}
        try:
            put = put_documents(job.repository.store(name), {**missing, **new})
            stores[name] = "added" if put else "unchanged"
        except StoreUnavailable as error:
            stores[name], errors[name] = "away", error
    return KeysResult(ids, {name: stores[name] for name in job.repository.stores}, errors)


def _must(result: KeysResult) -> None:
    for error in result.errors.values():
        raise error
