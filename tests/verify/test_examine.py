"""One object looked at: how it is read, by how many requests and threads, and what is said first of several damages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import pytest

from replicator.errors import IntegrityError, Interrupted
from replicator.repository.examined import PART_SIZE
from replicator.repository.layout import PackId, pack_name
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.sealer import ObjectSealer
from replicator.store import Store
from replicator.verify.examine import examine
from tests.verify.holding import SYSTEM, Holding, make_holding, rewrite

BIG = pack_name(SYSTEM, PackId("20261121T020000Z", 3, 0))
FRAMES = 9


class Counted:
    """A store that counts the reads of each name, and the most that were under way at once."""

    def __init__(self, inner: Store, reads: Counter[str]) -> None:
        self._inner, self._reads, self._lock = inner, reads, Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _count(self, name: str) -> None:
        with self._lock:
            self._reads[name.partition("/")[2]] += 1

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As Store."""
        self._count(name)
        return self._inner.get(name, offset, length)

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As Store."""
        self._count(name)
        return self._inner.get_tail(name, length)


READS: Counter[str] = Counter()


@pytest.fixture(scope="module")
def holding(tmp_path_factory: pytest.TempPathFactory) -> Holding:
    """One store whose reads are counted, with a pack of several parts."""
    base = tmp_path_factory.mktemp("examine") / "repository"
    found = make_holding(base, names=("local",), wrap=lambda store: Counted(store, READS))
    keyring, chance = found.repository.keyring, random.Random(2)
    header = Header(
        Kind.PACK, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"", SYSTEM,
        label="20261121T020000Z", attempt=3, number=0,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    body = sealer.head + b"".join(sealer.frame(chance.randbytes(FRAME_SIZE)) for _ in range(FRAMES))
    found.put(BIG, body + sealer.finish(BIG))
    return found


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that open."""
    with ThreadPoolExecutor(3) as found:
        yield found


def size_of(holding: Holding, name: str) -> int:
    """As a listing tells it."""
    return holding.path("local", name).stat().st_size


def test_a_small_object_takes_one_request(holding: Holding, pool: ThreadPoolExecutor) -> None:
    """Sealed objects and documents alike, when the listing's size is known; a manifest's packs are looked up once."""
    for kind in ("wal3", "piece", "pack1", "history", "note", "begin1", "tail"):
        name = holding.names[kind]
        READS.clear()
        found = examine(holding.repository, "local", name, lambda _: None, size=size_of(holding, name), pool=pool)
        assert (READS[name], READS.total()) == (1, 1), kind
        assert (found.opened, found.size) == (True, size_of(holding, name))


def test_a_size_that_is_not_the_listed_one_is_told(holding: Holding) -> None:
    """An object that is longer or shorter than its listing says is looked at all the same, and its own size is told."""
    name = holding.names["wal4"]
    for listed in (size_of(holding, name) - 1, size_of(holding, name) + 1, 0):
        found = examine(holding.repository, "local", name, lambda _: None, size=listed)
        assert found.size == size_of(holding, name)


def test_a_large_object_is_read_once_and_opened_by_several_threads(holding: Holding, pool: ThreadPoolExecutor) -> None:
    """Every byte is fetched once, a few megabytes at a time, and told to whoever counts."""
    READS.clear()
    told: list[int] = []
    found = examine(holding.repository, "local", BIG, told.append, size=size_of(holding, BIG), pool=pool)
    assert found.opened
    parts = -(-FRAMES // (PART_SIZE // FRAME_SIZE - 1))  # a sealed frame of noise is a little longer than a frame
    assert (READS[BIG], len(told)) == (1 + parts, parts)
    assert FRAMES * FRAME_SIZE < sum(told) < found.size


@pytest.mark.parametrize("threads", [0, 3])
def test_the_first_of_several_damages_is_named(holding: Holding, threads: int) -> None:
    """Whichever thread finds its own first."""
    path = holding.path("local", BIG)
    whole = path.read_bytes()
    broken = bytearray(whole)
    for frame in (3, 5, 8):
        broken[frame * FRAME_SIZE + FRAME_SIZE // 2] ^= 1
    rewrite(path, bytes(broken))
    try:
        with ThreadPoolExecutor(threads or 1) as pool, pytest.raises(IntegrityError) as error:
            examine(holding.repository, "local", BIG, lambda _: None, pool=pool if threads else None)
        assert error.value.context["frame"] == 3
    finally:
        rewrite(path, whole)


def test_an_interruption_ends_every_thread(holding: Holding, pool: ThreadPoolExecutor) -> None:
    """What is told of a read may end the look; nothing is under way when it has ended."""
    told: list[int] = []

    def stop(size: int) -> None:
        told.append(size)
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted):
        examine(holding.repository, "local", BIG, stop, pool=pool)
    seen = len(told)
    pool.submit(lambda: None).result(30)
    assert len(told) == seen
