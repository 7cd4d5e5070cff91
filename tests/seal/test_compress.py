"""Compression: a thread's encoder serves frame after frame, of any level."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from backports import zstd

from replicator.seal.compress import compress, decompress
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
    assert sealed == [zstd.compress(frame, level) for level, frame in work]
    assert [decompress(Compression.ZSTD, data, len(frame)) for data, (_, frame) in zip(sealed, work, strict=True)] == [
        frame for _, frame in work
    ]


def test_what_fails_leaves_nothing_behind() -> None:
    """After a call that failed the next frame is whole, and alone."""
    frame = _frames()[3]
    compress(Compression.ZSTD, 3, frame)
    with pytest.raises(TypeError):
        compress(Compression.ZSTD, 3, "text")  # type: ignore[arg-type]
    assert compress(Compression.ZSTD, 3, frame) == zstd.compress(frame, 3)
