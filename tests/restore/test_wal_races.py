"""WAL files put together while the stores change under the reader: nothing that is held is ever called missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import NotFound, ObjectAbsent, WalConflict
from replicator.repository.catalog import read_catalog
from replicator.repository.claims import verified
from replicator.repository.layout import pieces_prefix, segment_prefix
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.restore.route import WalFile, WalSource
from replicator.restore.walfile import write_wal_file
from replicator.restore.walget import wal_get
from replicator.seal.header import Compression
from tests.repositories import make_repository

SIZE = 2**20
SEGMENT = Segment(1, 3, SIZE)
WAL = bytes(number % 251 for number in range(SIZE))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository in two stores."""
    return make_repository(tmp_path, names=("local", "offsite"))


def put(
    repository: Repository, end: int = SIZE, *, store: str = "local", system: int = 7, data: bytes = WAL,
    segment: Segment = SEGMENT,
) -> str:  # fmt: skip
    """Seal the first bytes of the segment, all of them as a complete one, into a store: the object's name."""
    body = bytearray()

    def write(chunk: bytes) -> None:
        body.extend(chunk)

    part = WalPart(system, segment, segment.start, segment.start + end, 1, 2, complete=end == SIZE)
    name = seal_part(
        repository.keyring, Compression.ZSTD, 1, part, lambda at, length: data[at : at + length], write
    )  # fmt: skip
    repository.store(store).put(name, bytes(body))
    return name


class Watched:
    """A store on which something happens after each request."""

    def __init__(self, inner: Any, then: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._then = then
        self.name = inner.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Any]:
        """List, then let it happen."""
        found = list(self._inner.list(prefix, after=after))
        self._then("list", prefix)
        return iter(found)


def file_of(name: str, end: int) -> WalFile:
    """What a plan says that was made when the file was one piece."""
    source = WalSource(name, SEGMENT.start, SEGMENT.start + end, whole=False)
    return WalFile(SEGMENT.name, SEGMENT.start, SIZE, (source,))


def test_a_segment_completed_between_two_lists_is_found(repository: Repository, tmp_path: Path) -> None:
    """The planned piece gave way to a larger one, and that to the segment while both were being listed."""
    planned = put(repository, 1000)
    larger = put(repository, 2000)
    store = repository.store("local")
    store.delete(planned)
    listed: list[str] = []

    def then(_: str, prefix: str) -> None:
        listed.append(prefix)
        if len(listed) == 1:
            put(repository)
            store.delete(larger)

    write_wal_file(Watched(store, then), repository.keyring, file_of(planned, 1000), tmp_path / "wal")
    assert (tmp_path / "wal").read_bytes() == WAL[:1000] + bytes(SIZE - 1000)
    assert set(listed) == {segment_prefix(7, SEGMENT), pieces_prefix(7, SEGMENT)}


def test_two_contents_found_after_planning_are_loud(repository: Repository, tmp_path: Path) -> None:
    """Never a silent choice, also when the plan was made before the conflict came to be."""
    put(repository)
    put(repository, data=bytes(SIZE))
    gone = file_of(f"{pieces_prefix(7, SEGMENT)}{SEGMENT.start.hex16}-{Lsn(SEGMENT.start + 9).hex16}-{'a' * 16}", 9)
    with pytest.raises(WalConflict):
        write_wal_file(repository.store("local"), repository.keyring, gone, tmp_path / "wal")


def test_every_store_is_asked_before_a_miss_is_an_error(repository: Repository, tmp_path: Path) -> None:
    """A store that lags behind `until` does not hide one that holds it all."""
    put(repository, 1000)
    put(repository, 3000, store="offsite")
    until = SEGMENT.start + 2500
    wal_get(repository, SEGMENT.name, tmp_path / "wal", until)
    assert (tmp_path / "wal").read_bytes() == WAL[:2500] + bytes(SIZE - 2500)
    with pytest.raises(NotFound) as refused:
        wal_get(repository, SEGMENT.name, tmp_path / "wal", until + 1000)
    assert not isinstance(refused.value, ObjectAbsent)


def test_a_piece_that_goes_while_it_is_looked_at_is_not_the_end(repository: Repository, tmp_path: Path) -> None:
    """The first segment of a store is completed, its piece removed, between a list and a read: never 44."""
    piece = put(repository, 1000)
    store = repository.store("local")
    pieces = [piece]

    def then(_: str, prefix: str) -> None:
        if prefix.startswith("7/pieces") and pieces:
            put(repository)
            store.delete(pieces.pop())

    changed = replace(repository, stores={"local": Watched(store, then)})
    wal_get(changed, SEGMENT.name, tmp_path / "wal")
    assert (tmp_path / "wal").read_bytes() == WAL


def test_another_systems_file_of_the_same_name_is_absent(repository: Repository, tmp_path: Path) -> None:
    """A server is never given a former cluster's WAL: it would keep it in the place of its own."""
    put(repository)
    with pytest.raises(ObjectAbsent):
        wal_get(repository, SEGMENT.name, tmp_path / "wal", system_id=8)
    put(repository, system=8, data=bytes(reversed(WAL)))
    wal_get(repository, SEGMENT.name, tmp_path / "wal", system_id=8)
    assert (tmp_path / "wal").read_bytes() == bytes(reversed(WAL))


@pytest.mark.parametrize("becomes", [2000, SIZE])
def test_a_piece_that_gives_way_while_the_catalog_is_verified_takes_nothing_away(
    repository: Repository, tmp_path: Path, becomes: int
) -> None:
    """Merged or completed between the list and the look at its table: what was shipped stays covered."""
    piece = put(repository, 1000)
    store = repository.store("local")
    listed = read_catalog(store, 7, repository.keyring)
    put(repository, becomes)
    store.delete(piece)
    found = verified(listed, store, repository.keyring)
    assert found.coverage.end(1) == SEGMENT.start + becomes
    assert found.damaged == ()


def test_other_wal_of_the_same_segment_never_stands_in(repository: Repository, tmp_path: Path) -> None:
    """A segment that is planned by name comes as that or not at all: another store's other content is a conflict."""
    planned = put(repository)
    put(repository, store="offsite", data=bytes(reversed(WAL)))
    source = WalSource(planned, SEGMENT.start, SEGMENT.end, whole=True)
    file = WalFile(SEGMENT.name, SEGMENT.start, SIZE, (source,))
    with pytest.raises(WalConflict) as refused:
        write_wal_file(repository.store("offsite"), repository.keyring, file, tmp_path / "wal")
    assert planned in refused.value.context["names"]
    assert not (tmp_path / "wal").exists()


@pytest.mark.parametrize("other", [False, True])
def test_what_gives_way_to_a_piece_has_its_bytes(repository: Repository, tmp_path: Path, other: bool) -> None:
    """A planned piece that is not there is replaced by what has the same bytes, never by other WAL of its range."""
    piece = put(repository, 1000)
    put(repository, store="offsite", data=bytes(reversed(WAL)) if other else WAL)
    offsite = repository.store("offsite")
    if not other:
        write_wal_file(offsite, repository.keyring, file_of(piece, 1000), tmp_path / "wal")
        assert (tmp_path / "wal").read_bytes() == WAL[:1000] + bytes(SIZE - 1000)
        return
    with pytest.raises(WalConflict) as refused:
        write_wal_file(offsite, repository.keyring, file_of(piece, 1000), tmp_path / "wal")
    assert refused.value.context["names"] == (piece,)
    assert list(tmp_path.glob("*wal*")) == []
