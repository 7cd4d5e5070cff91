"""One file's bytes into blocks, its blocks into map chunks: the parent's where nothing changed, new ones elsewhere.

Owns the comparison with the parent. Memory: one chunk's hashes and a block. It knows neither packs' bytes nor stores.
"""

from __future__ import annotations

from typing import Protocol

from replicator.repository.blockmap import CHUNK_BLOCKS, BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import MapRef
from replicator.seal.digest import COMPARISON_SIZE, block_hash
from replicator.snapshot.runs import merge_runs, slice_runs

#: A chunk up to this many bytes stands in the manifest itself.
INLINE = 1024


class Placer(Protocol):
    """Where new bytes go; the packer."""

    def append(self, data: memoryview, unit: int) -> list[BlockRun]:
        """Place blocks of `unit` bytes each."""
        ...

    def append_map(self, data: bytes) -> MapRef:
        """Place a map chunk."""
        ...


class ParentChunks(Protocol):
    """The parent's chunks of the same file, by number: how its manifest names it, its bytes, what they say."""

    def chunk(self, number: int) -> tuple[bytes | MapRef, bytes, MapChunk] | None:
        """Chunk `number`, or None."""
        ...


class FileBlocks:
    """Feed it a file's bytes in order, then `finish`. Afterwards `chunks` are what the manifest names, `chunk_bytes`
    their content, `packs` every pack that they need, `size` the bytes fed.
    """

    def __init__(self, placer: Placer, key: bytes, block_size: int, parent: ParentChunks | None) -> None:
        self.chunks: list[bytes | MapRef] = []
        self.chunk_bytes: list[bytes] = []
        self.packs: set[PackId] = set()
        self.size = 0
        self._placer = placer
        self._key = key
        self._block_size = block_size
        self._parent = parent
        self._zero = block_hash(key, bytes(block_size))
        self._rest = b""
        self._begin_chunk()

    def _begin_chunk(self) -> None:
        self._hashes: list[bytes] = []
        self._runs: list[BlockRun] = []
        self._old = self._parent.chunk(len(self.chunks)) if self._parent is not None else None

    def feed(self, data: bytes) -> None:
        """The next bytes of the file, any number of them."""
        self.size += len(data)
        if self._rest:
            data, self._rest = self._rest + data, b""
        whole = len(data) - len(data) % self._block_size
        if whole < len(data):
            self._rest = data[whole:]
        self._blocks(memoryview(data)[:whole])

    def finish(self) -> None:
        """The file is at its end."""
        if self._rest:
            self._blocks(memoryview(self._rest))
            self._rest = b""
        if self._hashes:
            self._end_chunk()

    def _blocks(self, data: memoryview) -> None:
        unit = self._block_size
        while data:
            taken = data[: (CHUNK_BLOCKS - len(self._hashes)) * unit]
            self._batch(taken)
            data = data[len(taken) :]
            if len(self._hashes) == CHUNK_BLOCKS:
                self._end_chunk()

    def _batch(self, data: memoryview) -> None:
        """Blocks of one chunk: unchanged ones refer to the parent's place, zeros to none, the others are placed."""
        unit, key = self._block_size, self._key
        first = len(self._hashes)
        hashes = [block_hash(key, data[at : at + unit]) for at in range(0, len(data), unit)]
        self._hashes += hashes
        old = self._old[2] if self._old is not None else None
        if old is not None and self._same(old, first, hashes):
            self._runs += slice_runs(old.runs, first, len(hashes), unit)
            return
        short_zero = len(data) % unit and not any(data[-(len(data) % unit) :])
        kinds = [self._kind(old, first + index, value) for index, value in enumerate(hashes)]
        if short_zero and kinds[-1] == _NEW:
            kinds[-1] = _ZERO
        self._place(data, first, kinds)

    def _same(self, old: MapChunk, first: int, hashes: list[bytes]) -> bool:
        begin = first * COMPARISON_SIZE
        return old.hashes[begin : begin + len(hashes) * COMPARISON_SIZE] == b"".join(hashes)

    def _kind(self, old: MapChunk | None, block: int, value: bytes) -> int:
        if old is not None and old.hash_of(block) == value:
            return _OLD
        return _ZERO if value == self._zero else _NEW

    def _place(self, data: memoryview, first: int, kinds: list[int]) -> None:
        unit = self._block_size
        begin = 0
        while begin < len(kinds):
            kind = kinds[begin]
            end = begin + 1
            while end < len(kinds) and kinds[end] == kind:
                end += 1
            if kind == _NEW:
                self._runs += self._placer.append(data[begin * unit : end * unit], unit)
            elif kind == _ZERO:
                self._runs.append(BlockRun(end - begin, None))
            else:
                assert self._old is not None
                self._runs += slice_runs(self._old[2].runs, first + begin, end - begin, unit)
            begin = end

    def _end_chunk(self) -> None:
        chunk = MapChunk(merge_runs(self._runs, self._block_size), b"".join(self._hashes))
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
        self.packs |= chunk.packs
        if isinstance(named, MapRef):
            self.packs.add(named.pack)
        self._begin_chunk()


_OLD, _ZERO, _NEW = range(3)
