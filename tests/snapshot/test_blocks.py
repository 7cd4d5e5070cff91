"""Blocks against a parent: whatever changed, the map gives back the bytes, and only what is new is placed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.repository.blockmap import CHUNK_BLOCKS, BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import MapRef
from replicator.snapshot.blocks import FileBlocks

KEY = b"k" * 32
UNIT = 4
FRAME = 64


class Frames:
    """A placer that keeps frames of 64 bytes (or one map) in memory."""

    def __init__(self, pack: PackId) -> None:
        self.pack = pack
        self.frames: list[bytearray] = []
        self.maps = 0

    def append(self, data: memoryview, unit: int) -> list[BlockRun]:
        """Place blocks, a few in each frame."""
        runs = []
        while data:
            if not self.frames or FRAME - len(self.frames[-1]) < unit:
                self.frames.append(bytearray())
            frame = self.frames[-1]
            room = FRAME - len(frame)
            taken = len(data) if len(data) <= room else room - room % unit
            runs.append(BlockRun(-(-taken // unit), self.pack, len(self.frames) - 1, len(frame)))
            frame += data[:taken]
            data = data[taken:]
        return runs

    def append_map(self, data: bytes) -> MapRef:
        """Place a map in a frame of its own."""
        self.maps += 1
        self.frames += [bytearray(data), bytearray()]
        return MapRef(self.pack, len(self.frames) - 2, 0, len(data))


class Kept:
    """A parent file in memory."""

    def __init__(self, blocks: FileBlocks) -> None:
        self._blocks = blocks

    def chunk(self, number: int) -> tuple[bytes | MapRef, bytes, MapChunk] | None:
        """As an index gives it."""
        if number >= len(self._blocks.chunks):
            return None
        data = self._blocks.chunk_bytes[number]
        return self._blocks.chunks[number], data, MapChunk.parse(data)


def cut(content: bytes, placer: Frames, parent: FileBlocks | None = None, feed: int = 7) -> FileBlocks:
    """The blocks of `content`, fed in odd portions."""
    blocks = FileBlocks(placer, KEY, UNIT, Kept(parent) if parent else None)
    for at in range(0, len(content), feed):
        blocks.feed(content[at : at + feed])
    blocks.finish()
    return blocks


def read(blocks: FileBlocks, placers: list[Frames]) -> bytes:
    """The content back from the maps."""
    by_pack = {placer.pack: placer for placer in placers}
    found = bytearray()
    for data in blocks.chunk_bytes:
        for run in MapChunk.parse(data).runs:
            length = min(run.blocks * UNIT, blocks.size - len(found))
            if run.pack is None:
                found += bytes(length)
            else:
                part = by_pack[run.pack].frames[run.frame][run.offset : run.offset + length]
                assert len(part) == length
                found += part
    return bytes(found)


FIRST, SECOND = PackId("20261122T000000Z", 1, 0), PackId("20261122T000001Z", 2, 0)
content = st.lists(st.sampled_from([bytes(4), b"abcd", b"efgh", b"\0\0\0x", b"ijkl", bytes(2), b"y"]), max_size=60).map(
    b"".join
)


@given(content, st.integers(1, 40))
def test_a_new_file_comes_back(data: bytes, feed: int) -> None:
    """Without a parent every byte is placed once or zero."""
    placer = Frames(FIRST)
    blocks = cut(data, placer, feed=feed)
    assert blocks.size == len(data)
    assert read(blocks, [placer]) == data


@given(content, content)
@settings(max_examples=200)
def test_a_changed_file_comes_back(before: bytes, after: bytes) -> None:
    """Against any parent the bytes are right, however the file grew, shrank or changed."""
    one, two = Frames(FIRST), Frames(SECOND)
    parent = cut(before, one)
    child = cut(after, two, parent)
    assert read(child, [one, two]) == after
    assert child.packs <= {FIRST, SECOND}


@given(content)
def test_an_unchanged_file_stores_nothing(data: bytes) -> None:
    """The same bytes: the same chunks, nothing placed, the parent's packs needed."""
    one, two = Frames(FIRST), Frames(SECOND)
    parent = cut(data, one)
    child = cut(data, two, parent)
    assert child.chunks == parent.chunks
    assert child.packs == parent.packs
    assert two.frames == []


def test_a_large_file_has_chunks_of_their_own() -> None:
    """A change in one chunk leaves the others as the parent named them; large chunks lie in packs."""
    one, two = Frames(FIRST), Frames(SECOND)
    before = b"".join(number.to_bytes(UNIT, "big") for number in range(1, 3 * CHUNK_BLOCKS))
    parent = cut(before, one, feed=1000)
    after = bytearray(before)
    after[CHUNK_BLOCKS * UNIT + 5] ^= 1
    child = cut(bytes(after), two, parent, feed=4096)
    assert read(child, [one, two]) == bytes(after)
    assert [ours == theirs for ours, theirs in zip(child.chunks, parent.chunks, strict=True)] == [True, False, True]
    assert (one.maps, two.maps) == (3, 1)
    assert all(isinstance(chunk, MapRef) for chunk in child.chunks)


def test_zeros_are_stored_nowhere() -> None:
    """Zero blocks, also a last short one, become a run without a pack."""
    placer = Frames(FIRST)
    blocks = cut(bytes(UNIT * 9 + 3), placer)
    assert MapChunk.parse(blocks.chunk_bytes[0]).runs == (BlockRun(10, None),)
    assert placer.frames == []
