"""A store that fails midway: another one stands in, verified as the first would have been, and it is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from replicator.errors import IntegrityError, StoreUnavailable
from replicator.repository.layout import pack_name
from replicator.repository.manifests import DirectoryEntry, Entry, ManifestReader
from replicator.repository.objects import open_object
from replicator.repository.repository import Repository
from replicator.restore.fetch import Fetch
from replicator.restore.sources import Sources, entries
from replicator.restore.tree import Tree
from replicator.seal.header import FRAME_SIZE
from replicator.store.protocol import ReadableStore
from tests.repositories import make_repository
from tests.restore.test_fetch import (
    CONTROL,
    FRAMES,
    LABEL,
    PACK,
    PAGE,
    SNAPSHOT,
    content,
    entry,
    manifest,
    put_pack,
)
from tests.stream.streams import Tap

NAMES = ("local", "offsite")
FILES: list[Entry] = [LABEL, *(entry(f"file{number}", 4 * PAGE, (4, number, 0)) for number in range(6)), CONTROL]


HELD = {f"file{number}": frame for number, frame in enumerate(FRAMES)}


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Repository, dict[str, Tap]]:
    """A repository in two stores that hold the same, each behind a tap."""
    return two_stores(tmp_path, FRAMES, FILES)


def two_stores(tmp_path: Path, frames: list[bytes], files: list[Entry]) -> tuple[Repository, dict[str, Tap]]:
    """One pack and one manifest in each of them."""
    made = make_repository(tmp_path, names=NAMES)
    put_pack(made, frames)
    manifest(made, files)
    local, offsite = (tmp_path / "stores" / name / "frk" for name in NAMES)
    for path in (local / "7").rglob("*"):
        if path.is_file():
            target = offsite / path.relative_to(local)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    taps: dict[str, Tap] = {}

    def wrap(driver: Tap) -> Tap:
        return taps.setdefault(driver.name, Tap(driver))

    return make_repository(tmp_path, names=NAMES, wrap=wrap), taps  # type: ignore[arg-type]


def fetch(
    repository: Repository, into: Path, when: Callable[[], None] = lambda: None, held: Mapping[str, bytes] = HELD
) -> list[str]:
    """Restore from the first store or, where it fails after the manifest was opened, from the other; what is told."""
    sources = Sources([repository.store(name) for name in NAMES])
    reader = ManifestReader(sources.first, SNAPSHOT, repository.keyring)
    when()
    with Tree(into, {}) as tree:
        tree.create()
        Fetch(sources, repository.keyring, tree, 2).run(reader)
    for name, data in held.items():
        assert (into / name).read_bytes() == data
    return sources.notes()


def flip(path: Path, at: int = 100_000) -> None:
    """Turn a bit of an object."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def pack_in(tmp_path: Path, store: str) -> Path:
    """The pack's file."""
    return tmp_path / "stores" / store / "frk" / pack_name(7, PACK)


def test_nothing_is_told_of_a_store_that_is_well(stores: tuple[Repository, dict[str, Tap]], tmp_path: Path) -> None:
    """The plan's store gives everything."""
    repository, taps = stores
    taps["offsite"].closed = True
    assert fetch(repository, tmp_path / "data") == []


def test_a_silent_store_is_stood_in_for(stores: tuple[Repository, dict[str, Tap]], tmp_path: Path) -> None:
    """Manifest and packs come from the other store, and the first is asked no more than needed."""
    repository, taps = stores

    def close() -> None:
        taps["local"].closed = True

    (note,) = fetch(repository, tmp_path / "data", close)
    assert "store local failed midway" in note
    assert "from store offsite" in note


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_a_damaged_pack_is_taken_from_elsewhere(
    stores: tuple[Repository, dict[str, Tap]], tmp_path: Path, harm: str
) -> None:
    """A flipped bit, or a pack that is not there: only that is read elsewhere, and the object is named."""
    repository, _ = stores
    if harm == "gone":
        pack_in(tmp_path, "local").unlink()
    else:
        flip(pack_in(tmp_path, "local"))
    (note,) = fetch(repository, tmp_path / "data")
    assert pack_name(7, PACK) in note


@pytest.mark.parametrize("harm", ["flipped", "gone", "silent"])
def test_a_part_of_many_frames_is_put_together_again(tmp_path: Path, harm: str) -> None:
    """Where one of its frames is damaged, or not to be had, the whole part is taken from elsewhere, and told once."""
    frames = [os.urandom(FRAME_SIZE) for _ in range(3)]
    runs = [(16, frame, at) for at in range(0, FRAME_SIZE // PAGE, 16) for frame in (2, 0, 1)]
    held = {"mixed": content(frames, *runs)}
    mixed, control = entry("mixed", len(held["mixed"]), *runs), entry("global/pg_control", PAGE, (1, 0, 0))
    repository, taps = two_stores(tmp_path, frames, [LABEL, mixed, DirectoryEntry("global", 0o700), control])
    pack = pack_in(tmp_path, "local")

    def close() -> None:
        taps["local"].closed = True

    if harm == "flipped":
        flip(pack, pack.stat().st_size - FRAME_SIZE // 2)  # in the frame that is opened last
    elif harm == "gone":
        pack.unlink()
    (note,) = fetch(repository, tmp_path / "data", close if harm == "silent" else lambda: None, held)
    assert "from store offsite" in note


def test_where_none_is_well_the_first_says_why(stores: tuple[Repository, dict[str, Tap]], tmp_path: Path) -> None:
    """Damaged here and silent there is 4, silent here and damaged there is 6: the plan's store's own error."""
    repository, taps = stores
    flip(pack_in(tmp_path, "local"))
    taps["offsite"].closed = True
    with pytest.raises(IntegrityError) as found:
        fetch(repository, tmp_path / "one")
    assert pack_name(7, PACK) in found.value.message

    def close() -> None:
        flip(pack_in(tmp_path, "offsite"))
        taps["offsite"].closed, taps["local"].closed = False, True

    with pytest.raises(StoreUnavailable):
        fetch(repository, tmp_path / "two", close)
    assert not (tmp_path / "two/global/pg_control").exists()


def test_a_manifest_is_read_on_from_the_other_store(stores: tuple[Repository, dict[str, Tap]], tmp_path: Path) -> None:
    """Cut off in the middle of the manifest, its entries go on where they stopped: none is missed, none comes twice."""
    repository, _ = stores
    many: list[Entry] = [DirectoryEntry(f"base/{number:06}{'x' * 200}", 0o700) for number in range(12_000)]
    local, offsite = (tmp_path / "stores" / name for name in NAMES)
    for path in (tmp_path / "stores").rglob("snapshots/*/*"):
        path.unlink()
    manifest(repository, [*many, *FILES])
    (source,) = local.rglob("snapshots/*/*")
    (offsite / source.relative_to(local)).parent.mkdir(parents=True, exist_ok=True)
    (offsite / source.relative_to(local)).write_bytes(source.read_bytes())
    second = open_object(repository.store("local"), str(source.relative_to(local / "frk")), repository.keyring)
    flip(source, second.table.offsets[1] + 9)
    sources = Sources([repository.store(name) for name in NAMES])
    found = entries(sources, ManifestReader(sources.first, SNAPSHOT, repository.keyring), repository.keyring)
    assert list(found) == [*many, *FILES]
    assert len(sources.notes()) == 1


def test_damage_is_told_whatever_else_was_wrong(stores: tuple[Repository, dict[str, Tap]]) -> None:
    """What stood in for a silent store was damaged, and the first answered again: all went well, and it is told."""
    repository, _ = stores
    sources = Sources([repository.store(name) for name in NAMES])
    sources.failed(sources.first, StoreUnavailable("silent"))
    asked: list[str] = []

    def read(store: ReadableStore) -> int:
        asked.append(store.name)
        if store.name == "offsite":
            raise IntegrityError("frame 3 is damaged")
        return 1

    assert (sources.read(read), asked) == (1, ["offsite", "local"])
    sources.failed(sources.first, IntegrityError("frame 4 is damaged"))
    told = " ".join(sources.notes())
    assert "store offsite holds what is damaged (frame 3 is damaged)" in told
    assert "store local holds what is damaged (frame 4 is damaged)" in told
