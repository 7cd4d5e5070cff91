"""Removals: what the root said counts no more (docs/format.md, section 3).

Owns their names and bodies. A removal is final, so it is only ever added.
"""

from __future__ import annotations

import re
from datetime import datetime

from replicator.core.moment import rfc3339
from replicator.repository.documents import Documents, believed, read_believed
from replicator.seal.document import sign_document
from replicator.seal.keyring import Keyring
from replicator.seal.signature import SigningKey

REMOVED = "removed/"

_REMOVAL = re.compile(
    r"removed/(writers/[0-9a-f]{16}|recipients/(?:x25519|passphrase)-[0-9a-f]{16}|keys/[0-9a-f]{16})\Z"
)


def writer_subject(writer_id: bytes) -> str:
    """What the removal of a writer removes."""
    return f"writers/{writer_id.hex()}"


def recipient_subject(recipient: str) -> str:
    """What the removal of a recipient removes; `recipient` is its id."""
    return f"recipients/{recipient}"


def key_subject(key_id: bytes) -> str:
    """What the removal of a repository key removes."""
    return f"keys/{key_id.hex()}"


def removal_name(subject: str) -> str:
    """The name of the document that removes `subject`."""
    return f"{REMOVED}{subject}"


def parse_removal_name(name: str) -> str | None:
    """What a removal removes; None for any other name."""
    match = _REMOVAL.match(name)
    return match[1] if match else None


def sign_removal(root: SigningKey, repository_id: bytes, subject: str, now: datetime) -> bytes:
    """The document that removes `subject`."""
    body = {"created": rfc3339(now), "removes": subject}
    return sign_document(root, repository_id, "removal", removal_name(subject), body, root=True)


def read_removals(keyring: Keyring, documents: Documents) -> dict[str, bytes]:
    """Every removal that the root signed, by its name."""
    found: dict[str, bytes] = {}
    for name in documents.names(REMOVED):
        subject = parse_removal_name(name)
        if subject is None:
            continue
        data = read_believed(keyring, "removal", name, documents)
        body = believed(keyring, "removal", name, data) if data is not None else None
        if data is not None and body is not None and body.get("removes") == subject:
            found[name] = data
    return found
