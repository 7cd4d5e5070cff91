"""global/pg_control as bytes: read until they are whole.

The server overwrites the file in place, so that a reader may see half of two versions; its own CRC-32C tells. Knows the
file's length in no version: the checksum is the last field of a structure that grew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import google_crc32c

from replicator.errors import IntegrityError
from replicator.postgres.datadir import CONTROL_FILE, unreadable

#: Where the checksum may stand, in bytes.
_PLACES = range(200, 508, 4)
_TRIES = 100


def control_is_whole(data: bytes) -> bool:
    """Whether the bytes before some place have the CRC-32C that stands there."""
    return any(int.from_bytes(data[at : at + 4], "little") == google_crc32c.value(data[:at]) for at in _PLACES)


def read_control(root: Path, pause: Callable[[], object]) -> bytes:
    """The bytes of a data directory's pg_control; `pause` between tries. Raises HostLacks, IntegrityError."""
    path = root / CONTROL_FILE
    for _ in range(_TRIES):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        if len(data) >= _PLACES.stop and control_is_whole(data):
            return data
        pause()
    raise IntegrityError(f"{path} does not match its own checksum, however often it is read")
