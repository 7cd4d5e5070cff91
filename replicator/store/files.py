"""The file system's side of a directory store: create-only moves, fsync of directories, and errors by errno.

Owns the translation of every OSError. Never decides what is stored.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from replicator.errors import HostLacks, StoreDenied, StoreMisconfigured, StoreUnavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_WRONG = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


@contextmanager
def translated(store: str, doing: str) -> Iterator[None]:
    """Turn an OSError into a store's error. FileNotFoundError and FileExistsError pass: they are answers."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise store_error(store, doing, error) from error


def store_error(store: str, doing: str, error: OSError) -> StoreUnavailable:
    """The store's error for an OSError, by its number alone."""
    said = (error.strerror or type(error).__name__).lower()
    text = f"store {store}: cannot {doing}: {said}"
    if error.errno in _FULL:
        return StoreUnavailable(text, hint="Free space on the store's disk, or raise the quota.", store=store)
    if error.errno == errno.EROFS:
        return StoreDenied(text, hint="The file system is mounted read-only; look into the system's log.", store=store)
    if error.errno in _DENIED:
        return StoreDenied(text, hint="Give the user that runs replicator the rights on it.", store=store)
    if error.errno in _WRONG:
        return StoreMisconfigured(text, hint="Look at the store's url in the policy.", store=store)
    return StoreUnavailable(text, hint="Look at the disk and the system's log.", store=store)


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path, root: Path) -> None:
    """Make `directory` below `root`, private, each new one durable in its parent. FileNotFoundError without `root`."""
    if directory == root or directory.is_dir():
        return
    make_directories(directory.parent, root)
    with suppress(FileExistsError):
        directory.mkdir(0o700)
        sync_directory(directory.parent)


def move_new(temporary: Path, target: Path) -> None:
    """Give a finished file its name, atomically, never over another: FileExistsError when the name is taken.

    A hard link is the portable way; where the file system has none, Linux's renameat2 without replacing.
    """
    try:
        os.link(temporary, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_new(temporary, target)
        return
    temporary.unlink()


def open_body(path: Path) -> BinaryIO:
    """Open a file that is to be stored. Raises HostLacks: its absence is this host's trouble, not a store's."""
    try:
        return cast(BinaryIO, path.open("rb", buffering=0))
    except OSError as error:
        said = (error.strerror or "error").lower()
        raise HostLacks(f"cannot read {path}: {said}", hint="Look at the spool's disk.") from error


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def read_all(descriptor: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`; fewer only at the file's end."""
    first = os.pread(descriptor, length, offset)
    if len(first) == length or not first:
        return first
    parts = [first]
    held = len(first)
    while held < length and (part := os.pread(descriptor, length - held, offset + held)):
        parts.append(part)
        held += len(part)
    return b"".join(parts)


def _rename_new(temporary: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is None:
        raise OSError(errno.EINVAL, "neither hard links nor renameat2")
    names = os.fsencode(temporary), os.fsencode(target)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
