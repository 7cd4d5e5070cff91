"""A backup manifest of our own, as pg_verifybackup reads it (PostgreSQL manual, chapter 77), with CRC-32C of each file.

Owns the format. Its lines go to a file that is given: memory does not grow with the number of files.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from replicator.core.lsn import Lsn


class Writable(Protocol):
    """Where the lines go."""

    def write(self, data: bytes, /) -> object:
        """Append."""
        ...


class ManifestWriter:
    """`add` each file, then `finish`. `file` is empty."""

    def __init__(self, file: Writable, server_version: int, system_id: int) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._first = True
        if server_version >= 170000:
            self._write(f'{{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": {system_id},\n"Files": [')
        else:
            self._write('{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [')

    def add(self, path: str, size: int, mtime: int, crc32c: int) -> None:
        """A file; `mtime` in Unix seconds."""
        checksum = crc32c.to_bytes(4, "little").hex()
        self._write(
            f'{"" if self._first else ","}\n{{ {_named(path)}, "Size": {size}, "Last-Modified": "{_when(mtime)}",'
            f' "Checksum-Algorithm": "CRC32C", "Checksum": "{checksum}" }}'
        )
        self._first = False

    def finish(self, timeline: int, start: Lsn, stop: Lsn) -> None:
        """The range of WAL that the backup needs, and the manifest's own checksum."""
        wal = f'{{ "Timeline": {timeline}, "Start-LSN": "{start}", "End-LSN": "{stop}" }}'
        self._write(f'\n],\n"WAL-Ranges": [\n{wal}\n],\n')
        self._file.write(f'"Manifest-Checksum": "{self._hash.hexdigest()}"}}\n'.encode("ascii"))

    def _write(self, text: str) -> None:
        data = text.encode("utf-8")
        self._hash.update(data)
        self._file.write(data)


def _named(path: str) -> str:
    raw = path.encode("utf-8", "surrogateescape")
    try:
        return f'"Path": {json.dumps(raw.decode("utf-8"))}'
    except UnicodeDecodeError:
        return f'"Encoded-Path": "{raw.hex()}"'


@lru_cache(4096)  # many files were written in the same second
def _when(mtime: int) -> str:
    return datetime.fromtimestamp(mtime, UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
