"""Compression: a thread's encoder serves frame after frame, of any level."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from zstandard import ZstdCompressor

from replicator.errors import IntegrityError
from replicator.seal.compress import compress, decompress, decompress_into
from replicator.seal.header import Compression


def _frames() -> list[bytes]:
    draw = random.Random(7)
    words = [draw.randbytes(draw.randrange(1, 40)) for _ in range(200)]
    return [b"".join(draw.choice(words) for _ in range(count)) for count in (1, 50, 3000, 20_000, 2, 9000)]


def test_each_frame_is_as_from_a_new_encoder() -> None:
    """Whatever a thread sealed before, at whatever level, a frame has the bytes that a fresh encoder gives it."""
    work = [(level, frame) for level in (3, 1, 19, 3, 3) for frame in _frames()]
    with ThreadPoolExecutor(3) as pool:
        sealed = list(pool.map(lambda one: compress(Compression.ZSTD, *one), work))
    assert sealed == [ZstdCompressor(level).compress(frame) for level, frame in work]
    assert [decompress(Compression.ZSTD, data, len(frame)) for data, (_, frame) in zip(sealed, work, strict=True)] == [
        frame for _, frame in work
    ]


def test_what_fails_leaves_nothing_behind() -> None:
    """After a call that failed the next frame is whole, and alone."""
    frame = _frames()[3]
    compress(Compression.ZSTD, 3, frame)
    with pytest.raises(TypeError):
        compress(Compression.ZSTD, 3, "text")  # type: ignore[arg-type]
    assert compress(Compression.ZSTD, 3, frame) == ZstdCompressor(3).compress(frame)


@pytest.mark.parametrize("frame", _frames())
def test_a_frame_may_keep_its_size_to_itself(frame: bytes) -> None:
    """A frame of another encoder, which does not say how much comes, opens as well; and no other size of it does."""
    encoder = ZstdCompressor(3, write_content_size=False)
    data = encoder.compress(frame)
    room = memoryview(bytearray(len(frame)))
    decompress_into(Compression.ZSTD, data, room)
    assert bytes(room) == frame == decompress(Compression.ZSTD, data, len(frame))
    for size in (len(frame) - 1, len(frame) + 1):
        with pytest.raises(IntegrityError):
            decompress(Compression.ZSTD, data, size)
        with pytest.raises(IntegrityError):
            decompress_into(Compression.ZSTD, data, memoryview(bytearray(size)))
