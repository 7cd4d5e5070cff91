"""Sealing one segment: what it reads, and what its name says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.repository.layout import wal_name
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.digest import fingerprint
from replicator.seal.header import FRAME_SIZE, Compression
from tests.repositories import make_repository

SIZE = 16 * 2**20


@pytest.mark.parametrize("threads", [0, 2])
def test_each_byte_is_read_once(tmp_path: Path, threads: int) -> None:
    """A segment is read once, frame by frame, written meanwhile, and named after exactly what was read."""
    keyring = make_repository(tmp_path).keyring
    segment = Segment.holding(1, Lsn(SIZE), SIZE)
    part = WalPart(7, segment, segment.start, segment.end, 5, 6, complete=True)
    plain = bytes(range(256)) * (SIZE // 256)
    steps: list[int | None] = []

    def read(offset: int, length: int) -> bytes:
        steps.append(offset)
        return plain[offset : offset + length]

    def write(_: bytes) -> None:
        steps.append(None)

    with ThreadPoolExecutor(max(threads, 1)) as executor:
        name = seal_part(keyring, Compression.ZSTD, 1, part, read, write, executor if threads else None)
    offsets = [step for step in steps if step is not None]
    assert offsets == list(range(0, SIZE, FRAME_SIZE))
    assert steps[: steps.index(offsets[-1])].count(None) > 1  # the head, and frames before the last was read
    assert name == wal_name(7, segment, fingerprint(keyring.repository_id, plain))
