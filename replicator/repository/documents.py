"""Signed documents at the root of a repository: where they are read from, and believing them.

Owns the sources (a store, the copies on a host, several together). It puts nothing into a store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from replicator.errors import IntegrityError, KeysError, ObjectAbsent
from replicator.repository.earlier import earlier_contents
from replicator.repository.layout import ROOT
from replicator.seal.document import MOST_BYTES, UnverifiedDocument, open_document
from replicator.seal.header import Cipher
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SIGNING, parse_key
from replicator.store.protocol import ReadableStore

_log = logging.getLogger(__name__)

CIPHERS = {"none": Cipher.NONE, "aes-256-gcm": Cipher.AES_256_GCM}


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

    def earlier(self, name: str) -> Iterator[bytes]:
        """What the name held before it was overwritten, oldest first."""
        for found in earlier_contents(self._store, name):
            yield found.get_tail(name, MOST_BYTES)[0]


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


class GivenDocuments:
    """Documents in memory."""

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._documents = documents

    def names(self, prefix: str) -> Iterator[str]:
        """As Documents."""
        return (name for name in sorted(self._documents) if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        """As Documents."""
        if name not in self._documents:
            raise ObjectAbsent(f"{name} is not there")
        return self._documents[name]


def read_root(documents: Documents, expected: str | None = None) -> UnverifiedDocument:
    """`replicator.json`, signed by the root that it names, whoever that is; of several contents one of the `expected`
    root. Raises ObjectAbsent, IntegrityError.
    """
    found: UnverifiedDocument | None = None
    wrong: IntegrityError | None = None
    for data in contents(documents, ROOT):
        try:
            document = _parse_root(data)
        except IntegrityError as error:
            wrong = wrong or error
            continue
        found = found or document
        if expected in (None, document.body["root"]):
            return document
    if found is None:
        raise wrong or IntegrityError(f"{ROOT}: not a repository's document", object=ROOT)
    return found


def _parse_root(data: bytes) -> UnverifiedDocument:
    document = UnverifiedDocument(data, ROOT)
    if document.kind != "repository" or document.signer != "root" or document.body.get("mode") not in CIPHERS:
        raise IntegrityError(f"{ROOT}: not a repository's document", object=ROOT)
    try:
        document.verify(parse_key(SIGNING, document.body["root"]))
        if len(bytes.fromhex(document.repository)) != 16:
            raise ValueError(document.repository)
    except (KeysError, KeyError, ValueError) as error:
        raise IntegrityError(f"{ROOT}: not a repository's document", object=ROOT) from error
    return document


def contents(documents: Documents, name: str) -> Iterator[bytes]:
    """What a name holds, and then, where the store keeps that, what it held before. Raises ObjectAbsent."""
    yield documents.read(name)
    if isinstance(documents, StoreDocuments):
        yield from documents.earlier(name)


def read_believed(keyring: Keyring, kind: str, name: str, documents: Documents) -> bytes | None:
    """The first content of a name that the root signed; None, and a warning, where there is none."""
    return next((data for data in contents(documents, name) if believed(keyring, kind, name, data) is not None), None)


def believed(keyring: Keyring, kind: str, name: str, data: bytes) -> dict[str, Any] | None:
    """The body of a document that the root signed; None, and a warning, for what anybody may have put there."""
    try:
        return open_document(keyring, kind, name, data)
    except IntegrityError as error:
        _log.warning("ignored: %s", error.message)
        return None
