"""One file's bytes into blocks, its blocks into map chunks: the parent's where nothing changed, new ones elsewhere.

Owns the comparison with the parent. Memory: the file's maps and a few parts of it. It knows neither packs' bytes nor
stores.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from itertools import groupby
from typing import Protocol

from replicator.repository.blockmap import CHUNK_BLOCKS, BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import MapRef
from replicator.seal.digest import COMPARISON_SIZE, block_hash, block_hashes
from replicator.snapshot.live import add_chunk
from replicator.snapshot.runs import RunSlicer, merge_runs

#: A chunk up to this many bytes stands in the manifest itself.
INLINE = 1024
#: Parts from so many bytes on are worth a worker's turn.
_WORTH = 2**18


class Placer(Protocol):
    """Where new bytes go; the packer."""

    def append(self, data: memoryview, unit: int) -> list[BlockRun]:
        """Place blocks of `unit` bytes each."""
        ...

    def append_map(self, data: bytes) -> MapRef:
        """Place a map chunk."""
        ...


class ParentChunks(Protocol):
    """What is known of the same file, by chunk: how the parent's manifest names it, its bytes, what they say."""

    def chunk(self, number: int) -> tuple[bytes | MapRef, bytes, MapChunk] | None:
        """Chunk `number`, or None."""
        ...


class FileBlocks:
    """Feed it a file's bytes in order, then `finish`. Afterwards `chunks` are what the manifest names, `chunk_bytes`
    their content, `live` the bytes needed of every pack, `size` the bytes fed.

    With `hashing`, large parts are hashed in its threads, at most `ahead` at once; all else is done by who feeds.
    """

    def __init__(
        self, placer: Placer, key: bytes, block_size: int, parent: ParentChunks | None, *,
        hashing: Executor | None = None, ahead: int = 3,
    ) -> None:  # fmt: skip
        self.chunks: list[bytes | MapRef] = []
        self.chunk_bytes: list[bytes] = []
        self.live: Counter[PackId] = Counter()
        self.size = 0
        self._placer = placer
        self._key = key
        self.block_size = block_size
        self._parent = parent
        self._hashing = hashing
        self._ahead = ahead
        self._zero = block_hash(key, bytes(block_size))
        self._rest = b""
        self._waiting: deque[tuple[memoryview, Future[list[bytes]]]] = deque()
        self._told = 0
        self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._hashes: list[bytes] = []
        self._runs: list[BlockRun] = []
        self._old = self._parent.chunk(len(self.chunks)) if self._parent is not None else None
        self._slicer = RunSlicer(self._old[2].runs if self._old is not None else (), self.block_size)

    @property
    def packs(self) -> set[PackId]:
        """Every pack that the file needs."""
        return set(self.live)

    def feed(self, data: bytes | memoryview) -> None:
        """The next bytes of the file, any number of them, which must not change any more."""
        self.size += len(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        whole = len(data) - len(data) % self.block_size
        if whole < len(data):
            self._rest = bytes(data[whole:])
        view = memoryview(data)[:whole]
        if self._hashing is None or (whole < _WORTH and not self._waiting):
            self._blocks(view, block_hashes(self._key, view, self.block_size))
            return
        while len(self._waiting) >= self._ahead:
            self._take_hashed()
        self._waiting.append((view, self._hashing.submit(block_hashes, self._key, view, self.block_size)))

    def feed_hashed(self, data: memoryview, hashes: Sequence[bytes]) -> None:
        """As `feed`, with the `block_hashes` of `data` made elsewhere. Whole blocks, but at the file's end."""
        assert not self._rest
        self.size += len(data)
        self._blocks(data, hashes)

    def finish(self) -> None:
        """The file is at its end."""
        while self._waiting:
            self._take_hashed()
        if self._rest:
            view = memoryview(self._rest)
            self._blocks(view, block_hashes(self._key, view, self.block_size))
            self._rest = b""
        if self._hashes:
            self._end_chunk()

    def known(self) -> list[tuple[int, bytes]]:
        """The chunks that were not told yet, by number, and what is known of the one that is being made."""
        found = list(enumerate(self.chunk_bytes))[self._told :]
        self._told = len(self.chunk_bytes)
        placed = sum(run.blocks for run in self._runs)
        if placed:
            part = MapChunk(merge_runs(self._runs, self.block_size), b"".join(self._hashes[:placed]))
            found.append((self._told, part.to_bytes()))
        return found

    def _take_hashed(self) -> None:
        data, hashes = self._waiting.popleft()
        self._blocks(data, hashes.result())

    def _blocks(self, data: memoryview, hashes: Sequence[bytes]) -> None:
        unit = self.block_size
        while data:
            room = CHUNK_BLOCKS - len(self._hashes)
            taken = data[: room * unit]
            self._batch(taken, hashes[:room])
            data, hashes = data[len(taken) :], hashes[room:]
            if len(self._hashes) == CHUNK_BLOCKS:
                self._end_chunk()

    def _batch(self, data: memoryview, hashes: Sequence[bytes]) -> None:
        """Blocks of one chunk: unchanged ones refer to the parent's place, zeros to none, the others are placed."""
        unit = self.block_size
        first = len(self._hashes)
        self._hashes += hashes
        old = self._old[2] if self._old is not None else None
        if old is not None and self._same(old, first, hashes):
            self._runs += self._slicer.slice(first, len(hashes))
            return
        short = len(data) % unit
        kinds = self._kinds(old, first, hashes)
        if short and kinds[-1] == _NEW and not any(data[-short:]):
            kinds[-1] = _ZERO
        self._place(data, first, kinds)

    def _same(self, old: MapChunk, first: int, hashes: Sequence[bytes]) -> bool:
        begin = first * COMPARISON_SIZE
        return old.hashes[begin : begin + len(hashes) * COMPARISON_SIZE] == b"".join(hashes)

    def _kinds(self, old: MapChunk | None, first: int, hashes: Sequence[bytes]) -> list[int]:
        zero = self._zero
        if old is None:
            return [_ZERO if value == zero else _NEW for value in hashes]
        theirs, at = old.hashes, range(first * COMPARISON_SIZE, len(old.hashes), COMPARISON_SIZE)
        kinds = [
            _OLD if theirs[begin : begin + COMPARISON_SIZE] == value else _ZERO if value == zero else _NEW
            for begin, value in zip(at, hashes, strict=False)
        ]
        return kinds + [_ZERO if value == zero else _NEW for value in hashes[len(kinds) :]]

    def _place(self, data: memoryview, first: int, kinds: list[int]) -> None:
        unit = self.block_size
        begin = 0
        for kind, group in groupby(kinds):
            end = begin + len(list(group))
            if kind == _NEW:
                self._runs += self._placer.append(data[begin * unit : end * unit], unit)
            elif kind == _ZERO:
                self._runs.append(BlockRun(end - begin, None))
            else:
                self._runs += self._slicer.slice(first + begin, end - begin)
            begin = end

    def _end_chunk(self) -> None:
        chunk = MapChunk(merge_runs(self._runs, self.block_size), b"".join(self._hashes))
        data = chunk.to_bytes()
        named: bytes | MapRef
        if self._old is not None and self._old[1] == data:
            named = self._old[0]
        elif len(data) <= INLINE:
            named = data
        else:
            named = self._placer.append_map(data)
        self.chunks.append(named)
        self.chunk_bytes.append(data)
        add_chunk(self.live, chunk, named, self.block_size)
        self._begin_chunk()


_OLD, _ZERO, _NEW = range(3)
