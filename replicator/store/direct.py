"""Large writes past the page cache (O_DIRECT, open(2)), where the file system can.

What a backup or a restore writes is not read again soon: it need not push out what a server beside it reads, and the
kernel need not find memory for it. Owns what may be written so. Makes nothing durable: that takes an fsync as ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

#: Place, length and memory of such a write are multiples of it; no disk's sector is larger.
SECTOR = 4096
#: From so many bytes on: a smaller write waits longer for the disk than it takes to copy.
LARGE = 256 * 1024


def room(size: int) -> memoryview:
    """Memory that can be written from."""
    return memoryview(mmap.mmap(-1, size))


def write_past_cache(handle: int, data: memoryview, offset: int) -> int:
    """How many bytes of the beginning of `data` were written to `offset`: none where there are too few of them, or the
    file system or their place does not allow it. The rest is to be written as ever. Raises OSError.
    """
    size = len(data) - len(data) % SECTOR
    if size < LARGE or offset % SECTOR:
        return 0
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT)
        try:
            return os.pwrite(handle, data[:size], offset)
        finally:
            fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
