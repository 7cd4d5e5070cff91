"""The spool's file system: private, durable, and with errors that say what this host lacks.

Owns the translation of OSError. Never retries: after a failed fsync nobody knows what is on the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replicator.errors import HostLacks, SpoolFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TEMPORARY = ".new"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise SpoolFull for a full disk and HostLacks for any other OSError."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        if error.errno in _FULL:
            raise SpoolFull(
                f"the spool's disk is full: {path}", hint="Free space; the source's slot keeps the WAL meanwhile."
            ) from error
        raise HostLacks(
            f"the spool cannot be used: {path}: {reason}",
            hint="Look at the disk, the rights on [stream] spool and the system's log.",
        ) from error


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make `directory` and its parents, 0700, each durable in its parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(0o700, exist_ok=True)
    try:
        sync_directory(directory.parent)
    except OSError:
        with suppress(OSError):
            directory.rmdir()  # what is there the next time counts as durable
        raise


def open_private(path: Path, flags: int) -> int:
    """A descriptor of `path`, 0600 when it is made."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def is_temporary(name: str) -> bool:
    """Whether a file name is that of an unfinished file."""
    return name.endswith(_TEMPORARY)


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor to write a whole file to; on leaving it is durable under its name, or gone after an error."""
    make_directory(path.parent)
    temporary = path.with_name(path.name + _TEMPORARY)
    descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        yield descriptor
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Put a small file in place, durably. Raises SpoolFull, HostLacks."""
    with translated(path), replacing(path) as descriptor:
        write_all(descriptor, data)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]
