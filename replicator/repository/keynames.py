"""Names of keys and writers at the root of a repository (docs/format.md, section 2). Pure; layout hands them on."""

from __future__ import annotations

import re

KEYS = "keys/"
WRITERS = "writers/"

_PUBLIC = re.compile(r"keys/([0-9a-f]{16})/public\Z")
_RECIPIENT = re.compile(r"keys/([0-9a-f]{16})/((?:x25519|passphrase)-[0-9a-f]{16})\Z")
_WRITER = re.compile(r"writers/([0-9a-f]{16})\Z")


def key_name(key_id: bytes) -> str:
    """A repository key's public half."""
    return f"{KEYS}{key_id.hex()}/public"


def recipient_name(key_id: bytes, recipient: str) -> str:
    """A repository key wrapped for one recipient."""
    return f"{KEYS}{key_id.hex()}/{recipient}"


def writer_name(writer_id: bytes) -> str:
    """A writer's public half."""
    return f"{WRITERS}{writer_id.hex()}"


def parse_key_name(name: str) -> bytes | None:
    """The key id of a repository key's public half; None for any other name."""
    match = _PUBLIC.match(name)
    return bytes.fromhex(match[1]) if match else None


def parse_recipient_name(name: str) -> tuple[bytes, str] | None:
    """(key id, recipient id) of a wrapped secret; None for any other name."""
    match = _RECIPIENT.match(name)
    return (bytes.fromhex(match[1]), match[2]) if match else None


def parse_writer_name(name: str) -> bytes | None:
    """The id of a writer; None for any other name."""
    match = _WRITER.match(name)
    return bytes.fromhex(match[1]) if match else None
