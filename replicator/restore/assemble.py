"""Parts of files whose blocks lie in many frames, put together in memory and written in one piece.

Owns the memory for it, one part's for each thread. A chain of incrementals leaves a file's blocks in runs of some
kilobytes: written one by one, each would cost the kernel more than its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from threading import local

from replicator.errors import IntegrityError
from replicator.repository.layout import PackId
from replicator.repository.objects import StoredObject
from replicator.restore.compare import Key
from replicator.restore.files import Write, write_at
from replicator.restore.tree import host_errors
from replicator.seal.header import FRAME_SIZE
from replicator.seal.sealer import FrameRoom
from replicator.store.direct import room

#: Bytes of a file that are put together at once. A frame that lies in two parts is opened for each of them,
PART = 16 * 1024 * 1024
#: which pays where a part needs so many bytes of each of its frames.
_WORTH = FRAME_SIZE // 4

Work = list[tuple[Key, Write]]


def parts(writes: Iterable[tuple[Key, Write]], size: int = PART) -> Iterator[Work]:
    """A file's writes, ascending, by the `size` bytes of it in which they begin: full frames seldom lie in two."""
    for _, group in groupby(writes, key=lambda item: item[1].offset // size):
        yield list(group)


def is_worth(work: Work) -> bool:
    """Whether this part is better put together than written as its frames come."""
    return sum(write.length for _, write in work) >= _WORTH * len({key for key, _ in work})


class Assembler:
    """Puts parts together; safe in several threads. `turn` is held by who opens or copies."""

    def __init__(self, turn: AbstractContextManager[object]) -> None:
        self._turn = turn
        self._rooms = local()

    def write(self, work: Work, opened: Callable[[PackId], StoredObject], frames: FrameRoom) -> int:
        """Write one part, of a file that is there; the bytes written. It may be done again. Raises IntegrityError,
        HostLacks.
        """
        begin = work[0][1].offset
        held = self._room()
        by_pack: dict[PackId, dict[int, list[Write]]] = {}
        for (pack, frame), write in work:
            by_pack.setdefault(pack, {}).setdefault(frame, []).append(write)
        for pack in sorted(by_pack):
            found, wanted = opened(pack), by_pack[pack]
            numbers = sorted(wanted)
            for number, plain in zip(numbers, found.frames_at(numbers, frames, self._turn), strict=True):
                with self._turn:
                    _copy(plain, wanted[number], held, begin, found.table.name)
        return _put(work[0][1].path, [write for _, write in work], held, begin)

    def _room(self) -> memoryview:
        """This thread's."""
        if not hasattr(self._rooms, "room"):
            self._rooms.room = room(PART + FRAME_SIZE)  # a write may reach into the next part
        found: memoryview = self._rooms.room
        return found


def _copy(plain: memoryview, writes: Sequence[Write], held: memoryview, begin: int, name: str) -> None:
    for write in writes:
        if write.frame_offset + write.length > len(plain) or write.length > FRAME_SIZE:
            raise IntegrityError(f"{name}: a map reaches beyond a frame", object=name)
        at = write.offset - begin
        held[at : at + write.length] = plain[write.frame_offset : write.frame_offset + write.length]


def _put(path: str, writes: Sequence[Write], held: memoryview, begin: int) -> int:
    """The writes, those that follow each other as one."""
    written = 0
    with host_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            first = end = begin
            for write in writes:
                if write.offset != end:
                    write_at(handle, held[first - begin : end - begin], first, direct=True)
                    first = write.offset
                end = write.offset + write.length
                written += write.length
            write_at(handle, held[first - begin : end - begin], first, direct=True)
        finally:
            os.close(handle)
    return written
