"""What a directory holds already, compared with a manifest block by block: only what differs is fetched.

Owns the reading and the judgement: by content alone, under the snapshot's comparison key, never by size or time. It
mends a file's size, mode and owner, and writes the zeros that differ; other bytes it only asks for.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from operator import itemgetter
from threading import local

from replicator.errors import IntegrityError
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId
from replicator.restore.blockreader import LOOK, Question, Room, differing
from replicator.restore.blockreaders import BlockReaders
from replicator.restore.files import FileFacts, Ids, Write, make_file, write_at
from replicator.restore.tree import host_errors, said
from replicator.seal.digest import COMPARISON_SIZE

Key = tuple[PackId, int]

#: So many smaller files are looked at together.
_LOOK_FILES = 64


@dataclass(frozen=True, slots=True)
class Found:
    """What a job did: bytes that are as they should be, bytes from a store, and what is still to be written."""

    done: int = 0
    fetched: int = 0
    writes: tuple[tuple[Key, Write], ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """Blocks of one chunk of a file: `count` from `first` on (in the chunk), at `offset` of the file."""

    path: str
    facts: FileFacts
    chunk: MapChunk | None
    first: int
    count: int
    offset: int
    length: int
    block: int

    @property
    def expected(self) -> bytes:
        """The hashes of its blocks, joined."""
        if self.chunk is None:
            return b""
        return self.chunk.hashes[self.first * COMPARISON_SIZE : (self.first + self.count) * COMPARISON_SIZE]

    def question(self, uid: int, gid: int) -> Question:
        """For a reader."""
        facts = self.facts
        return Question(self.path, facts.size, facts.mode, uid, gid, self.offset, self.length, self.block)


class Comparison:
    """Compares files under the snapshot's comparison `key`. `add` gives the looks that are due, `rest` those that are
    left; `ask` and `look` may run in any thread.
    """

    def __init__(self, key: bytes, ids: Ids, readers: BlockReaders) -> None:
        self._key = key
        self._readers = readers
        self._ids = ids
        self._waiting: list[Look] = []
        self._bytes = 0
        self._rooms = local()

    def add(self, path: str, facts: FileFacts, chunks: Iterable[MapChunk], block: int) -> Iterator[list[Look]]:
        """A file. Raises IntegrityError when its map and its size do not fit."""
        if block <= 0:
            raise IntegrityError(f"the map of {said(path)} has blocks of {block} bytes")
        offset = 0
        for chunk in chunks:
            for first in range(0, chunk.blocks, max(1, LOOK // block)):
                count = min(chunk.blocks - first, max(1, LOOK // block))
                length = min(count * block, facts.size - offset)
                if length <= (count - 1) * block:
                    raise IntegrityError(f"the map of {said(path)} describes more than its size")
                self._waiting.append(Look(path, facts, chunk, first, count, offset, length, block))
                offset += length
                self._bytes += length
                if self._bytes >= LOOK:
                    yield from self.rest()
        if offset != facts.size:
            raise IntegrityError(f"the map of {said(path)} describes {offset} of its {facts.size} bytes")
        if not offset:
            self._waiting.append(Look(path, facts, None, 0, 0, 0, 0, block))
        if len(self._waiting) >= _LOOK_FILES:
            yield from self.rest()

    def rest(self) -> Iterator[list[Look]]:
        """The looks that wait."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting:
            yield waiting

    def ask(self, looks: Sequence[Look]) -> list[list[int] | None]:
        """What the readers find; nothing is held meanwhile."""
        expected = b"".join(look.expected for look in looks)
        uid, gid = self._ids or (-1, -1)
        return self._readers.ask([look.question(uid, gid) for look in looks], expected)

    def look(self, looks: Sequence[Look], answers: Sequence[list[int] | None]) -> Found:
        """Compare what no reader has, and mend what needs no store. Raises HostLacks."""
        done = 0
        writes: list[tuple[Key, Write]] = []
        for look, answer in zip(looks, answers, strict=True):
            done += look.length
            for key, write in _mending(look, self._differing(look) if answer is None else answer):
                if key is None:
                    self._clear(look, write)
                else:
                    done -= write.length
                    writes.append((key, write))
        return Found(done, 0, tuple(writes))

    def _differing(self, look: Look) -> list[int]:
        with host_errors(look.path):
            handle = self._opened(look)
            try:
                data = self._room().read(handle, look.offset, look.length)
            finally:
                os.close(handle)
        if data is None:
            raise IntegrityError("the directory changes while it is restored into")
        return differing(self._key, data, look.block, look.expected)

    def _clear(self, look: Look, write: Write) -> None:
        with host_errors(look.path):
            handle = self._opened(look)
            try:
                write_at(handle, bytes(write.length), write.offset)
            finally:
                os.close(handle)

    def _opened(self, look: Look) -> int:
        """The file, made where it is not there; its size, mode and owner as they are to be."""
        flags = os.O_RDWR | os.O_NOFOLLOW
        try:
            handle = os.open(look.path, flags)
        except FileNotFoundError:
            make_file(look.path, FileFacts(look.facts.mode, look.facts.size, again=True), self._ids)
            handle = os.open(look.path, flags)
        try:
            self._mend(handle, look.facts)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _mend(self, handle: int, facts: FileFacts) -> None:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise IntegrityError("the directory changes while it is restored into")
        if found.st_size != facts.size:
            os.ftruncate(handle, facts.size)
        if stat.S_IMODE(found.st_mode) != facts.mode:
            os.fchmod(handle, facts.mode)
        if self._ids is not None and (found.st_uid, found.st_gid) != self._ids:
            os.fchown(handle, *self._ids)

    def _room(self) -> Room:
        """This thread's."""
        if not hasattr(self._rooms, "room"):
            self._rooms.room = Room()
        room: Room = self._rooms.room
        return room


def _neighbours(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, how many) of each run of consecutive numbers."""
    for _, group in groupby(enumerate(blocks), key=lambda item: item[1] - item[0]):
        found = list(map(itemgetter(1), group))
        yield found[0], len(found)


def _mending(look: Look, wrong: Sequence[int]) -> Iterator[tuple[Key | None, Write]]:
    """What brings these blocks, counted from the look's first: parts of frames, or zeros (None)."""
    if look.chunk is None or not wrong:
        return
    runs = look.chunk.runs
    begins = [0, *accumulate(run.blocks for run in runs)]
    for first, blocks in _neighbours(wrong):
        at = look.first + first
        end, index = at + blocks, bisect_right(begins, at) - 1
        while at < end:
            run, skipped = runs[index], at - begins[index]
            count = min(end, begins[index + 1]) - at
            offset = look.offset + (at - look.first) * look.block
            length = min(count * look.block, look.offset + look.length - offset)
            key = (run.pack, run.frame) if run.pack is not None else None
            yield key, Write(look.path, offset, run.offset + skipped * look.block, length)
            at += count
            index += 1
