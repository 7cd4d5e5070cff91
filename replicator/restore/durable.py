"""Making a restored tree durable: the whole file system at once where that can be trusted, else file by file.

Owns that choice. One call for thousands of files is one commit of the journal instead of thousands.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from threading import Event, Thread

#: File systems whose syncfs(2) writes everything and tells of what went wrong.
_TRUSTED = frozenset({"ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs"})
#: From this kernel on syncfs reports an error of any file written since the descriptor was opened.
_KERNEL = (5, 8)
#: Bytes written until a part of them is sent to the disk meanwhile.
_STRIDE = 256 * 1024 * 1024
_TICK_S = 0.2


def can_sync_at_once(handle: int) -> bool:
    """Whether one syncfs on `handle` (a directory opened before anything was written) makes all of it durable."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if os.uname().sysname != "Linux" or match is None or (int(match[1]), int(match[2])) < _KERNEL:
        return False
    return hasattr(ctypes.CDLL(None), "syncfs") and _kind(handle) in _TRUSTED


def sync_at_once(handle: int) -> None:
    """Make everything written to the file system of `handle` durable. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(handle) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def on_one_file_system(top: str) -> bool:
    """Whether nothing else is mounted below: one call for `top` would not reach it. Raises OSError."""
    device = Path(top).stat().st_dev
    places = (f"{base}/{name}" for base, names, _ in os.walk(top) for name in names)
    return all(os.lstat(place).st_dev == device for place in places)


def _kind(handle: int) -> str:
    """The file system's kind, by the mount that the handle came through; empty when unknown."""
    try:
        facts = Path(f"/proc/self/fdinfo/{handle}").read_text("ascii")
        mounts = Path("/proc/self/mountinfo").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
    match = re.search(r"^mnt_id:\s*(\d+)$", facts, re.MULTILINE)
    for line in mounts.splitlines():
        if match is not None and line.split(" ", 1)[0] == match[1]:
            return line.partition(" - ")[2].split(" ", 1)[0]
    return ""


class Flusher:
    """Sends what was written to the disk while more is fetched, so that the end has little left to wait for. Its errors
    are the last sync's to tell. Use it in a with statement.
    """

    def __init__(self, handle: int | None, stride: int = _STRIDE) -> None:
        """`handle`: a directory of the file system; without one it does nothing."""
        # A description of its own: the kernel tells each of them once of an error, and the last sync's must hear it.
        own = handle is not None and can_sync_at_once(handle)
        self._handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle) if own else None
        self._stride = stride
        self._written = 0
        self._ended = Event()
        self._thread = Thread(target=self._run, name="flusher", daemon=True)

    def written(self, total: int) -> None:
        """So many bytes in all were written."""
        self._written = total

    def __enter__(self) -> Flusher:
        if self._handle is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._handle is not None:
            self._thread.join()
            os.close(self._handle)

    def _run(self) -> None:
        assert self._handle is not None
        flushed = 0
        while not self._ended.wait(_TICK_S):
            if self._written - flushed >= self._stride:
                flushed = self._written
                try:
                    sync_at_once(self._handle)
                except OSError:
                    return  # the last sync hears of it too
