"""`init`: makes a repository, gives its id and keys to a store newly added, and registers this host as a writer.

Repeatable: every step looks first and does only what is missing. The order makes an interruption harmless: the
documents are kept on this host, the recovery sheet is handed out, `replicator.json` is put first (create-only: it
decides a race), then the rest.
"""

from __future__ import annotations

import secrets as random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from replicator.core.moment import rfc3339
from replicator.errors import AlreadyExists, Conflict, HostLacks, KeysError, ObjectAbsent
from replicator.repository.documents import GivenDocuments
from replicator.repository.layout import ROOT, key_name, recipient_name, writer_name
from replicator.repository.removals import writer_subject
from replicator.repository.repository import (
    CIPHERS,
    CachedDocuments,
    Documents,
    Secrets,
    StoreDocuments,
    load_keyring,
    read_root,
    unlock,
)  # fmt: skip
from replicator.seal.digest import short_id
from replicator.seal.document import sign_document
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
)  # fmt: skip
from replicator.store.protocol import Store
from replicator.upkeep.keys_documents import in_order, root_names, subjects_of
from replicator.upkeep.secrets import load_writer_key
from replicator.upkeep.sheet import Sheet, SheetStore, format_sheet


@dataclass(frozen=True)
class InitJob:
    """What `init` works on. `stores` are rooted at the repository; `sheet_stores` say where they are for the sheet;
    `prepare` makes the stores usable (folders, buckets); `deliver` hands the sheet out before anything is put;
    `pinned_root` is the policy's, or None.
    """

    cluster: str
    stores: Mapping[str, Store]
    sheet_stores: tuple[SheetStore, ...]
    mode: str
    recipients: tuple[str, ...]
    secrets: Secrets = field(repr=False)
    writer_key: Path
    host: str
    now: datetime
    pending: Path
    pinned_root: str | None
    prepare: Callable[[], None]
    deliver: Callable[[str], None]


@dataclass(frozen=True)
class InitResult:
    """`created`: the repository is new. `stores`: each `created`, `completed` or `unchanged`."""

    created: bool
    root: str
    repository: str
    writer: str
    stores: Mapping[str, str]


def initialise(job: InitJob) -> InitResult:
    """Make or complete the repository.

    Raises Conflict when a store holds another one, KeysError when this host must become a writer and nothing was given
    that opens the root, StoreUnavailable when a store does not answer.
    """
    job.prepare()
    holders = _holders(job)
    if holders:
        return _complete(job, holders)
    return _create(job)


def _writer_key(path: Path) -> SigningKey:
    key = load_writer_key(path)
    if key is not None:
        return key
    key = SigningKey.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(key_text(SIGNING_SECRET, key.seed) + "\n", "ascii")
    except OSError as error:
        raise HostLacks(
            f"the writer key {path} can't be written: {error.strerror}",
            hint="Set [encryption] writer_key to a file that this user may write.",
        ) from error
    return key


def _holders(job: InitJob) -> dict[str, str]:
    """The root of each store that holds a repository. Raises Conflict unless they are one and the pinned one."""
    found: dict[str, str] = {}
    for name, store in job.stores.items():
        try:
            document = read_root(StoreDocuments(store))
        except ObjectAbsent:
            continue
        found[name] = document.body["root"]
        if document.body.get("cluster") != job.cluster:
            raise Conflict(
                f"store {name} holds the repository of cluster {document.body.get('cluster')!r}",
                hint="Give each cluster a root folder or prefix of its own.",
            )
        if document.body["mode"] != job.mode:
            raise Conflict(
                f"the repository was made with mode {document.body['mode']!r}, the policy says {job.mode!r}",
                hint="Encryption can't be switched: correct [encryption] mode, or use a new root folder.",
            )
    if len(set(found.values())) > 1:
        raise Conflict(
            "the stores hold different repositories: " + ", ".join(f"{name} {root}" for name, root in found.items()),
            hint="Correct the store's URL, or empty the store that is wrong after making sure whose it is.",
        )
    if found and job.pinned_root not in (None, *found.values()):
        raise Conflict(
            f"the stores hold the repository {next(iter(found.values()))}, the pinned root is {job.pinned_root}",
            hint="Compare with the recovery sheet; correct [encryption] root or the store's URL.",
        )
    return found


def _create(job: InitJob) -> InitResult:
    if job.pinned_root is not None:
        raise Conflict(
            f"no store holds the repository {job.pinned_root}, which the policy names",
            hint="Correct the stores' URLs, or take `root` out of [encryption] to make a new repository.",
        )
    root = SigningKey.generate()
    writer = _writer_key(job.writer_key)
    repository_id = random.token_bytes(16)
    documents, secret = _documents(job, root, writer, repository_id)
    pending = CachedDocuments(job.pending)
    shutil.rmtree(job.pending, ignore_errors=True)
    pending.keep(documents)
    root_text = key_text(SIGNING, root.public)
    job.deliver(
        format_sheet(Sheet(job.cluster, repository_id.hex(), root_text, rfc3339(job.now), job.sheet_stores, secret))
    )
    for store in job.stores.values():
        _put_all(store, documents)
    shutil.rmtree(job.pending, ignore_errors=True)
    return InitResult(True, root_text, repository_id.hex(), writer.id.hex(), dict.fromkeys(job.stores, "created"))


def _documents(
    job: InitJob, root: SigningKey, writer: SigningKey, repository_id: bytes
) -> tuple[dict[str, bytes], str]:
    """Every document of a new repository, `replicator.json` first, and the sheet's secret."""
    created = rfc3339(job.now)
    documents: dict[str, bytes] = {}

    def add(kind: str, name: str, body: dict[str, object]) -> None:
        documents[name] = sign_document(root, repository_id, kind, name, {"created": created, **body}, root=True)

    add("repository", ROOT, {"cluster": job.cluster, "mode": job.mode, "root": key_text(SIGNING, root.public)})
    private = new_x25519() if CIPHERS[job.mode] is not Cipher.NONE else None
    key_id = NO_KEY if private is None else short_id(x25519_public(private))
    if private is not None:
        add("key", key_name(key_id), {"public": key_text(SEALING, x25519_public(private))})
    wrapped = WrappedSecret(private, root.seed)
    sheet_key = new_x25519()
    labelled = [(parse_key(SEALING, recipient), "recipient") for recipient in job.recipients]
    if private is not None:
        labelled.append((x25519_public(sheet_key), "recovery sheet"))
    for public, label in labelled:
        name, body = wrap_for_x25519(wrapped, public, repository_id, key_id)
        add("recipient", recipient_name(key_id, name), {**body, "label": label})
    for passphrase in job.secrets.passphrases:
        name, body = wrap_for_passphrase(wrapped, passphrase, repository_id, key_id)
        add("recipient", recipient_name(key_id, name), {**body, "label": "passphrase"})
    add("writer", writer_name(writer.id), {"host": job.host, "public": key_text(SIGNING, writer.public)})
    secret = key_text(SIGNING_SECRET, root.seed) if private is None else key_text(SEALING_SECRET, sheet_key)
    return documents, secret


def _complete(job: InitJob, holders: Mapping[str, str]) -> InitResult:
    documents = _all_documents(job, holders)
    before = {name: root_names(StoreDocuments(store)) for name, store in job.stores.items()}
    source = GivenDocuments(documents)
    keyring, _ = load_keyring(source, job.cluster, next(iter(holders.values())))
    documents = {name: data for name, data in documents.items() if not subjects_of(name) & keyring.removed}
    writer = _writer_key(job.writer_key)
    if writer_subject(writer.id) in keyring.removed:
        raise KeysError(
            f"the writer key {job.writer_key} was removed from the repository, and a removal is final",
            hint="Move the file away; the next `replicator init` makes this host a new one.",
        )
    if keyring.writers.get(writer.id) != writer.public:
        name = writer_name(writer.id)
        documents[name] = _writer_document(job, keyring, source, writer)
    state: dict[str, str] = {}
    for name, store in job.stores.items():
        missing = {key: data for key, data in documents.items() if key not in before[name]}
        _put_all(store, missing)
        state[name] = "created" if name not in holders else "completed" if missing else "unchanged"
    shutil.rmtree(job.pending, ignore_errors=True)
    root = key_text(SIGNING, keyring.root)
    return InitResult(False, root, keyring.repository_id.hex(), writer.id.hex(), state)


def _writer_document(job: InitJob, keyring: Keyring, source: Documents, writer: SigningKey) -> bytes:
    unlocked = unlock(keyring, source, job.secrets)
    if unlocked.root_key is None:
        raise KeysError(
            "this host is not yet a writer of the repository, and nothing was given that opens its root",
            hint="Give a recipient's secret once: [encryption] passphrase or identity, or --identity FILE.",
        )
    body = {"created": rfc3339(job.now), "host": job.host, "public": key_text(SIGNING, writer.public)}
    return sign_document(unlocked.root_key, keyring.repository_id, "writer", writer_name(writer.id), body, root=True)


def _all_documents(job: InitJob, holders: Mapping[str, str]) -> dict[str, bytes]:
    """What the holders have together, and what an interrupted first `init` left on this host; the root first."""
    sources: list[Documents] = [StoreDocuments(job.stores[name]) for name in holders]
    pending = CachedDocuments(job.pending)
    try:
        if read_root(pending).body["root"] in holders.values():
            sources.append(pending)
    except ObjectAbsent:
        pass
    found: dict[str, bytes] = {}
    for source in sources:
        for name in root_names(source):
            if name not in found:
                found[name] = source.read(name)
    return {ROOT: found.pop(ROOT), **{name: found[name] for name in in_order(found)}}


def _put_all(store: Store, documents: Mapping[str, bytes]) -> None:
    for name, data in documents.items():
        try:
            store.put(name, data)
        except AlreadyExists as error:
            if store.get(name) != data:
                raise Conflict(
                    f"store {store.name} already has another {name}",
                    hint="Another host made a repository there at the same moment; run init again.",
                ) from error
