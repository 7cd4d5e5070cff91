"""How a file looked when it was read beside the server, so that the next snapshot may take it over unread. Pure.

A stamp is size, times and inode, with the file's checksum for the backup manifest. Only a file that was left alone
since before the backup was asked for gets one. A write sets the time first and the bytes then, however long its disk
makes it wait in between: what such a write began before, the checkpoint that begins a backup waits for; of a later one
the old bytes might be read beside the new time. And within a clock's tick a file could change again and look the same.
"""

from __future__ import annotations

import struct

from replicator.postgres.datadir import FoundFile

_STAMP = struct.Struct(">BQqqQI")
_VERSION = 1
#: A file changed later than this many seconds before the backup was asked for gets no stamp.
SETTLED_S = 10.0
#: How many seconds stamps may stand in for reading everything.
TRUSTED_S = 7 * 86400.0


def make_stamp(found: FoundFile, crc32c: int, asked_s: float, settled_s: float) -> bytes:
    """The stamp of a file that was found and read in a backup asked for at `asked_s` (Unix seconds); empty when it
    changed too lately.
    """
    if max(found.mtime_ns, found.ctime_ns) > (asked_s - settled_s) * 1e9:
        return b""
    return _STAMP.pack(_VERSION, found.size, found.mtime_ns, found.ctime_ns, found.inode, crc32c)


def unchanged(found: FoundFile, stamp: bytes) -> int | None:
    """The CRC-32C of a file that still looks as its stamp says; None when it does not."""
    if len(stamp) != _STAMP.size:
        return None
    *looks, crc32c = _STAMP.unpack(stamp)
    return crc32c if looks == [_VERSION, found.size, found.mtime_ns, found.ctime_ns, found.inode] else None


def comparison_due(compared: bytes | None, now_s: float) -> bool:
    """Whether everything must be read again: `compared` says when that was last done (Unix seconds as text)."""
    try:
        age = now_s - float(compared or b"")
    except ValueError:
        return True
    return not 0 <= age < TRUSTED_S
