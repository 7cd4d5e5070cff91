"""The check of a backup manifest's own checksum while it streams past (PostgreSQL manual, chapter 77). Pure.

Its last line is `"Manifest-Checksum": "<SHA-256 of everything before this line>"}`. Nothing else of it is read.
"""

from __future__ import annotations

import hashlib
import re

from replicator.errors import IntegrityError

_LAST_LINE = re.compile(rb'"Manifest-Checksum": "([0-9a-f]{64})"\}\n?\Z')
_TAIL = 512


class ManifestCheck:
    """Feed it the manifest's bytes in order, then `finish`."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._tail = b""

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes; keeps only a tail of them."""
        tail = self._tail + data
        self._hash.update(memoryview(tail)[:-_TAIL])
        self._tail = tail[-_TAIL:]

    def finish(self) -> None:
        """Raise IntegrityError unless the manifest is whole and says its own checksum."""
        start = self._tail.rstrip(b"\n").rfind(b"\n") + 1
        match = _LAST_LINE.match(self._tail[start:])
        if match is None:
            raise IntegrityError("the base backup's manifest does not end with its checksum")
        self._hash.update(self._tail[:start])
        if self._hash.hexdigest().encode("ascii") != match[1]:
            raise IntegrityError("the base backup's manifest does not match its checksum")
