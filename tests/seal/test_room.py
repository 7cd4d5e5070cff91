"""Frames opened into memory that is used again: the same bytes, and the same refusals, as opened by themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.errors import IntegrityError
from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import open_object
from replicator.repository.repository import Repository
from replicator.seal.compress import compress, decompress_into
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.sealer import FrameRoom, ObjectSealer
from tests.repositories import make_repository

PACK = PackId("20261122T020000Z", 1, 0)
FRAMES = [b"a" * FRAME_SIZE, os.urandom(FRAME_SIZE), b"b", os.urandom(100_000), bytes(200_000)]


def sealed(repository: Repository, compression: Compression) -> str:
    """A pack of those frames in the store; its name."""
    keyring = repository.keyring
    header = Header(
        Kind.PACK, keyring.cipher, compression, keyring.repository_id, keyring.current, b"", 7,
        label=PACK.label, attempt=PACK.attempt, number=PACK.number,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    body = sealer.head + b"".join(sealer.frame(frame) for frame in FRAMES)
    name = pack_name(7, PACK)
    repository.store("local").put(name, body + sealer.finish(name))
    return name


@pytest.mark.parametrize("mode", ["aes-256-gcm", "none"])
@pytest.mark.parametrize("compression", list(Compression))
def test_frames_in_one_room_are_the_frames(tmp_path: Path, mode: str, compression: Compression) -> None:
    """One after another, some left out, longer and shorter ones: each has its own bytes."""
    repository = make_repository(tmp_path, mode=mode)
    found = open_object(repository.store("local"), sealed(repository, compression), repository.keyring)
    room = FrameRoom()
    for numbers in ([0, 1, 2, 3, 4], [0, 2, 4], [3], []):
        assert [bytes(plain) for plain in found.frames_at(numbers, room)] == [FRAMES[number] for number in numbers]
    with pytest.raises(IntegrityError):
        list(found.frames_at([4, 5], room))


@pytest.mark.parametrize("size", [999, 1001])
@pytest.mark.parametrize("kind", list(Compression))
def test_a_frame_of_another_size_is_refused(kind: Compression, size: int) -> None:
    """More or fewer bytes than the table says are damage, and nothing is written beyond the room."""
    with pytest.raises(IntegrityError):
        decompress_into(kind, compress(kind, 1, bytes(size)), memoryview(bytearray(1000)))


def test_what_does_not_decompress_is_refused() -> None:
    """Garbage, and a frame that was cut."""
    whole = compress(Compression.ZSTD, 1, os.urandom(1000))
    for data in (b"garbage", whole[:500]):
        with pytest.raises(IntegrityError):
            decompress_into(Compression.ZSTD, data, memoryview(bytearray(1000)))
