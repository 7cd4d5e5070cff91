"""Parts of a file put together from many frames: every byte in its place, holes left, nothing beyond a frame."""

from __future__ import annotations

import os
import random
from contextlib import nullcontext
from pathlib import Path

import pytest

from replicator.errors import IntegrityError
from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import StoredObject, open_object
from replicator.repository.repository import Repository
from replicator.restore.assemble import Assembler, Work, parts
from replicator.restore.files import Write
from replicator.seal.header import Compression, Header, Kind
from replicator.seal.sealer import FrameRoom, ObjectSealer
from tests.repositories import make_repository

BLOCK = 8192
FRAME = 40 * BLOCK
FRAMES = 6


def sealed(repository: Repository, number: int) -> list[bytes]:
    """A pack of some frames in the store: their bytes."""
    pack, keyring = PackId("20261122T020000Z", 1, number), repository.keyring
    header = Header(
        Kind.PACK, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"", 7,
        label=pack.label, attempt=pack.attempt, number=pack.number,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    frames = [os.urandom(FRAME) for _ in range(FRAMES)]
    name = pack_name(7, pack)
    body = sealer.head + b"".join(sealer.frame(frame) for frame in frames)
    repository.store("local").put(name, body + sealer.finish(name))
    return frames


def scattered(packs: list[list[bytes]], path: str, seed: int) -> tuple[list[tuple[tuple[PackId, int], Write]], bytes]:
    """Writes of runs of blocks from here and there, with holes between some; what the file holds then."""
    draw = random.Random(seed)
    writes, held = [], bytearray()
    for _ in range(120):
        if draw.random() < 0.1:
            held += bytes(BLOCK * draw.randrange(1, 60))
        number, frame, first = draw.randrange(len(packs)), draw.randrange(FRAMES), draw.randrange(30)
        length = BLOCK * draw.randrange(1, 10)
        key = PackId("20261122T020000Z", 1, number), frame
        writes.append((key, Write(path, len(held), first * BLOCK, length)))
        held += packs[number][frame][first * BLOCK :][:length]
    return writes, bytes(held)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One, with a directory store."""
    return make_repository(tmp_path / "repository")


def assemble(repository: Repository, work: Work, by: Assembler | None = None) -> int:
    """Write one part, in memory that may have been used before."""

    def opened(pack: PackId) -> StoredObject:
        return open_object(repository.store("local"), pack_name(7, pack), repository.keyring)

    return (by or Assembler(nullcontext())).write(work, opened, FrameRoom())


@pytest.mark.parametrize("size", [10 * BLOCK, 100 * BLOCK, 900 * BLOCK])
def test_every_byte_in_its_place(tmp_path: Path, repository: Repository, size: int) -> None:
    """Whatever the parts, the file is as its map says; what the map leaves out stays a hole; twice is as once."""
    packs = [sealed(repository, number) for number in range(3)]
    path = tmp_path / "file"
    writes, held = scattered(packs, str(path), size)
    path.touch()
    os.truncate(path, len(held))
    work, by = list(parts(writes, size)), Assembler(nullcontext())
    assert [item for part in work for item in part] == writes
    for part in work:
        assert part[-1][1].offset < (part[0][1].offset // size + 1) * size
        length = sum(write.length for _, write in part)
        assert [assemble(repository, part, by) for _ in range(2)] == [length, length]
    assert path.read_bytes() == held
    assert path.stat().st_blocks * 512 <= sum(write.length for _, write in writes) + 64 * 1024


def test_a_map_that_reaches_beyond_a_frame(tmp_path: Path, repository: Repository) -> None:
    """Damage: nothing of the part is written."""
    sealed(repository, 0)
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * BLOCK))
    key = PackId("20261122T020000Z", 1, 0), 0
    with pytest.raises(IntegrityError):
        assemble(repository, [(key, Write(str(path), 0, FRAME - BLOCK, 2 * BLOCK))])
    assert path.read_bytes() == bytes(2 * BLOCK)
