"""Signed JSON documents (docs/format.md, section 5)."""

from __future__ import annotations

import json
from typing import Any

from replicator.errors import IntegrityError, KeysError
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SigningKey, base64url, from_base64url, verify

VERSION = 1
#: No document is longer; a store that sends more is not believed.
MOST_BYTES = 1024 * 1024
_SIGNED = b"replicator document 1\0"
_MEMBERS = {"body", "kind", "name", "repository", "version"}


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def sign_document(
    signer: SigningKey, repository_id: bytes, kind: str, name: str, body: dict[str, Any], *, root: bool = False
) -> bytes:
    """The two lines. `root` says that the signer is the root."""
    line = canonical({"body": body, "kind": kind, "name": name, "repository": repository_id.hex(), "version": VERSION})
    by = "root" if root else signer.id.hex()
    signature = base64url(signer.sign(_SIGNED + line))
    return line + f"\nsigned {by} {signature}\n".encode("ascii")


def sign_as_writer(keyring: Keyring, kind: str, name: str, body: dict[str, Any]) -> bytes:
    """A document signed by this host's writer key. Raises KeysError without one."""
    if keyring.writer is None:
        keyring.sign(b"")
    assert keyring.writer is not None
    return sign_document(keyring.writer, keyring.repository_id, kind, name, body)


class UnverifiedDocument:
    """A document read but not yet believed: only `replicator.json` is read so, to learn the root that it claims."""

    def __init__(self, data: bytes, name: str) -> None:
        """Raise IntegrityError when `data` is not a document of that name."""
        self.name = name
        self.data = data
        self._line, self.signer, self._signature = _split(data, name)
        try:
            value = json.loads(self._line)
        except (ValueError, RecursionError) as error:  # nobody has signed it yet: it may be nested without end
            raise IntegrityError(f"{name}: not JSON", object=name) from error
        if not isinstance(value, dict) or set(value) != _MEMBERS or not isinstance(value["body"], dict):
            raise IntegrityError(f"{name}: not a document", object=name)
        if value["version"] != VERSION:
            raise IntegrityError(f"{name}: document version {value['version']}", object=name)
        if value["name"] != name:
            raise IntegrityError(
                f"{name}: holds the document {value['name']}", hint="It was renamed or swapped.", object=name
            )
        self.kind: str = value["kind"]
        self.body: dict[str, Any] = value["body"]
        self.repository: str = value["repository"]

    def verify(self, public: bytes) -> None:
        """Raise IntegrityError unless `public` signed it."""
        if not verify(public, self._signature, _SIGNED + self._line):
            raise IntegrityError(f"{self.name}: its signature is wrong", object=self.name)


def open_document(keyring: Keyring, kind: str, name: str, data: bytes) -> dict[str, Any]:
    """The body of a document signed by the root or one of its writers. Raises IntegrityError."""
    document = UnverifiedDocument(data, name)
    if document.kind != kind:
        raise IntegrityError(f"{name}: a document of kind {document.kind}", object=name)
    if document.repository != keyring.repository_id.hex():
        raise IntegrityError(f"{name}: belongs to another repository", object=name)
    by_root = kind in {"repository", "key", "recipient", "writer", "removal"}
    if by_root != (document.signer == "root"):
        raise IntegrityError(f"{name}: signed by the wrong key", object=name)
    if by_root:
        document.verify(keyring.root)
    else:
        public = keyring.writers.get(bytes.fromhex(document.signer))
        if public is None:
            raise IntegrityError(f"{name}: signed by no writer of this repository", object=name)
        document.verify(public)
    return document.body


def _split(data: bytes, name: str) -> tuple[bytes, str, bytes]:
    lines = data.split(b"\n")
    words = lines[1].split(b" ") if len(lines) == 3 else []
    if len(words) != 3 or words[0] != b"signed" or lines[2] != b"":
        raise IntegrityError(f"{name}: not a signed document", object=name)
    try:
        signer = words[1].decode("ascii")
        signature = from_base64url(words[2].decode("ascii"))
        if signer != "root":
            signer = bytes.fromhex(signer).hex() if len(signer) == 16 else ""
    except (KeysError, ValueError) as error:
        raise IntegrityError(f"{name}: not a signed document", object=name) from error
    if base64url(signature).encode("ascii") != words[2] or signer.encode("ascii") != words[1]:
        raise IntegrityError(f"{name}: not a signed document", object=name)
    return lines[0], signer, signature
