"""Blocks against a parent: whatever changed, the map gives back the bytes, and only what is new is placed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.repository.blockmap import CHUNK_BLOCKS, BlockRun, MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import MapRef
from replicator.seal.digest import block_hashes
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


def cut(content: bytes, placer: Frames, parent: FileBlocks | Kept | None = None, feed: int = 7) -> FileBlocks:
    """The blocks of `content`, fed in odd portions."""
    blocks = FileBlocks(placer, KEY, UNIT, Kept(parent) if isinstance(parent, FileBlocks) else parent)
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


class KeptLong(Kept):
    """A parent whose hashes have 16 bytes, as all had before."""

    def chunk(self, number: int) -> tuple[bytes | MapRef, bytes, MapChunk] | None:
        """Its bytes say no length of a hash."""
        if (kept := super().chunk(number)) is None:
            return None
        named, data, chunk = kept
        size = len(data) - len(chunk.hashes)
        hashes = b"".join(chunk.hash_of(block) + b"more" for block in range(chunk.blocks))
        long = data[:12] + bytes(4) + data[16:size] + hashes
        return named, long, MapChunk.parse(long)


@given(content, content)
def test_a_parent_with_longer_hashes_is_one(before: bytes, after: bytes) -> None:
    """What is the same is not placed again, and what is different comes back; only maps are new."""
    one, two = Frames(FIRST), Frames(SECOND)
    parent = KeptLong(cut(before, one))
    assert read(cut(after, two, parent), [one, two]) == after
    again = Frames(SECOND)
    assert read(cut(before, again, parent), [one]) == before
    assert len(again.frames) == 2 * again.maps


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


def test_hashing_elsewhere_changes_nothing() -> None:
    """Large parts that workers hash, and parts that come with their hashes, give the chunks that `feed` gives."""
    unit = 8192
    before = b"".join(number.to_bytes(4, "big") * (unit // 4) for number in range(300)) + b"end"
    after = before[: 50 * unit] + bytes(2 * unit) + before[52 * unit :]
    found = []
    for kind in ("fed", "workers", "hashed"):
        one, two = Whole(FIRST), Whole(SECOND)
        with ThreadPoolExecutor(2) as pool:
            made: FileBlocks | None = None
            for data, placer in ((before, one), (after, two)):
                parent = Kept(made) if made is not None else None
                made = FileBlocks(placer, KEY, unit, parent, hashing=pool if kind == "workers" else None)
                for at in range(0, len(data), 40 * unit):
                    part = data[at : at + 40 * unit]
                    if kind == "hashed":
                        made.feed_hashed(memoryview(part), block_hashes(KEY, part, unit))
                    else:
                        made.feed(part)
                made.finish()
        assert made is not None
        found.append((made.chunks, made.chunk_bytes, made.size, made.live, one.placed, two.placed))
    assert found[0] == found[1] == found[2]
    assert found[0][3][FIRST] == 298 * unit


class Whole:
    """A placer with one frame of any size, and maps that count for nothing."""

    def __init__(self, pack: PackId) -> None:
        self.pack = pack
        self.placed = bytearray()

    def append(self, data: memoryview, unit: int) -> list[BlockRun]:
        """Place blocks."""
        run = BlockRun(-(-len(data) // unit), self.pack, 0, len(self.placed))
        self.placed += data
        return [run]

    def append_map(self, data: bytes) -> MapRef:
        """Place a map."""
        return MapRef(self.pack, 1, 0, 0)


@given(st.integers(0, 200), st.integers(1, 40))
def test_what_is_known_in_the_middle(fed: int, feed: int) -> None:
    """What a file that is still being read tells is right: finished chunks, each once, and what was placed since."""
    data = b"".join(number.to_bytes(UNIT, "big") for number in range(1, 201))[: fed * UNIT]
    placer = Frames(FIRST)
    blocks = FileBlocks(placer, KEY, UNIT, None)
    told: dict[int, bytes] = {}
    for at in range(0, len(data), feed):
        blocks.feed(data[at : at + feed])
        told.update(blocks.known())
    blocks.finish()
    last = dict(blocks.known())
    assert list(last.values()) == blocks.chunk_bytes
    if told:
        part, whole = MapChunk.parse(told[0]), MapChunk.parse(blocks.chunk_bytes[0])
        assert whole.hashes.startswith(part.hashes)
        assert part.blocks == len(data) // UNIT
    assert blocks.known() == []
