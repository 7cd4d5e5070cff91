"""Bytes into files of a tree, with as few calls for each file as the system allows.

Owns how a file is made: once, never through a link, with its mode, its owner and its size, so that zeros stay holes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from replicator.errors import IntegrityError
from replicator.repository.manifests import FileEntry
from replicator.restore.tree import host_errors, said
from replicator.store.direct import write_past_cache

Ids = tuple[int, int] | None

#: Bytes of one write: the kernel takes memory for it that was used just before, and in the processor's cache it stays.
_PIECE = 128 * 1024
_ZEROS = bytes(_PIECE)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file is to be, but for its bytes. `again`: it may be there already."""

    mode: int
    size: int
    again: bool = False

    @classmethod
    def of(cls, entry: FileEntry, *, again: bool = False) -> FileFacts:
        """An entry's."""
        return cls(0o640 if entry.mode & 0o040 else 0o600, entry.size, again)


@dataclass(slots=True)
class Write:
    """`length` bytes from `frame_offset` of a frame go to `offset` of a file, which is made first where `new` says.
    `direct`: past the page cache where they are many. What lies around them is not written through it then: the kernel
    would have to write that out first, again and again.
    """

    path: str
    offset: int
    frame_offset: int
    length: int
    new: FileFacts | None = None
    direct: bool = False


def make_file(path: str, facts: FileFacts, ids: Ids) -> None:
    """An empty file of the full size: what is not written stays a hole. Raises IntegrityError, HostLacks."""
    with host_errors(path):
        os.close(_made(path, facts, ids, sparse=True))


def _made(path: str, facts: FileFacts, ids: Ids, *, sparse: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if facts.again else os.O_EXCL)
    try:
        handle = os.open(path, flags, facts.mode)
    except FileExistsError as error:
        raise IntegrityError(f"the manifest names {said(path)} twice") from error
    try:
        if facts.again or facts.mode != 0o600:  # not what the umask makes of it
            os.fchmod(handle, facts.mode)
        if sparse:
            os.ftruncate(handle, facts.size)
        if ids is not None:
            os.fchown(handle, *ids)
    except BaseException:
        os.close(handle)
        raise
    return handle


def write_frame(plain: memoryview, writes: Sequence[Write], name: str, ids: Ids) -> int:
    """Carry out the writes that one frame serves, those of a file one after another; the bytes written. It may be done
    again. `name`: the object that the frame is of. Raises IntegrityError, HostLacks.
    """
    written = at = 0
    while at < len(writes):
        first = writes[at]
        with host_errors(first.path):
            handle = _opened(first, ids)
            try:
                while at < len(writes) and writes[at].path == first.path and writes[at].new is None:
                    write = writes[at]
                    data = plain[write.frame_offset : write.frame_offset + write.length]
                    if len(data) != write.length:
                        raise IntegrityError(f"{name}: a map reaches beyond a frame", object=name)
                    write_at(handle, data, write.offset, direct=write.direct)
                    written += write.length
                    at += 1
            finally:
                os.close(handle)
    return written


def _opened(write: Write, ids: Ids) -> int:
    if write.new is None:
        return os.open(write.path, os.O_WRONLY | os.O_NOFOLLOW)
    whole = write.offset == 0 and write.length == write.new.size
    handle = _made(write.path, write.new, ids, sparse=not whole)
    write.new = None  # from here on it is there, also when this must be done again
    return handle


def write_at(handle: int, data: memoryview | bytes, offset: int, *, direct: bool = False) -> None:
    """Write all of `data`; if `direct`, what is large of it past the page cache. Raises OSError."""
    view = memoryview(data)
    while direct and (count := write_past_cache(handle, view, offset)):
        view, offset = view[count:], offset + count
    while view:
        count = os.pwrite(handle, view[:_PIECE], offset)
        view, offset = view[count:], offset + count


def write_but_zeros(handle: int, data: memoryview, offset: int) -> None:
    """As `write_at`, to where nothing was written yet: long runs of zeros stay holes. Raises OSError."""
    for at in range(0, len(data), _PIECE):
        piece = data[at : at + _PIECE]
        if bytes(piece) != _ZEROS[: len(piece)]:  # two views are compared number by number
            write_at(handle, piece, offset + at)
