"""Writing a tree from a manifest made by hand: every kind of entry, and everything that could go wrong on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Event

import pytest

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.errors import AlreadyExists, IntegrityError, Interrupted, ReplicatorError, UsageError
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId, manifest_name, pack_name
from replicator.repository.manifests import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    ManifestReader,
    MapRef,
    SnapshotFacts,
    write_manifest,
)
from replicator.repository.repository import Repository
from replicator.restore import tablespaces
from replicator.restore.assemble import PART
from replicator.restore.fetch import Fetch
from replicator.restore.tree import Tree
from replicator.seal.digest import COMPARISON_SIZE
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.sealer import ObjectSealer
from tests.repositories import make_repository

SNAPSHOT = Snapshot("20261122T020000Z", 7, 1, Lsn(2**20), Lsn(2**20 + 100))
PACK = PackId(SNAPSHOT.label, 1, 0)
PAGE = 8192
FRAMES = [os.urandom(4 * PAGE) for _ in range(6)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one pack of six frames."""
    found = make_repository(tmp_path / "repository")
    put_pack(found, FRAMES)
    return found


def put_pack(repository: Repository, frames: list[bytes]) -> None:
    """Seal the pack."""
    keyring = repository.keyring
    header = Header(
        Kind.PACK, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"", 7,
        label=PACK.label, attempt=PACK.attempt, number=PACK.number,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    body = sealer.head + b"".join(sealer.frame(frame) for frame in frames)
    name = pack_name(7, PACK)
    repository.store("local").put(name, body + sealer.finish(name))


def chunk(*runs: tuple[int, int | None, int]) -> bytes:
    """A map chunk of (blocks, frame or None for zeros, first block in the frame)."""
    blocks = sum(run[0] for run in runs)
    made = [BlockRun(n, None) if frame is None else BlockRun(n, PACK, frame, at * PAGE) for n, frame, at in runs]
    return MapChunk(tuple(made), bytes(COMPARISON_SIZE * blocks)).to_bytes()


def entry(path: str, size: int, *runs: tuple[int, int | None, int], mode: int = 0o600) -> FileEntry:
    """A file with one inline chunk."""
    return FileEntry(path, mode, size, 0, PAGE, (chunk(*runs),) if runs else ())


LABEL, CONTROL = entry("backup_label", 100, (1, 0, 0)), entry("global/pg_control", PAGE, (1, 5, 0))


def manifest(repository: Repository, entries: Iterable[Entry]) -> ManifestReader:
    """Seal a manifest of these entries and open it."""
    facts = SnapshotFacts(SNAPSHOT, "frk", None, 1, 2, 150000, 2**20, checksums=True, comparison_key=bytes(32))
    body = bytearray()

    def write(data: bytes) -> None:
        body.extend(data)

    totals = {"bytes": 1, "added_bytes": 1, "files": 1}
    name = write_manifest(repository.keyring, 1, facts, 1, entries, [PACK], totals, write)
    repository.store("local").put(name, bytes(body))
    return ManifestReader(repository.store("local"), SNAPSHOT, repository.keyring)


def fetched(
    repository: Repository, entries: Iterable[Entry], into: Path, spaces: dict[int, Path] | None = None
) -> Tree:
    """Write the entries into a directory."""
    tree = Tree(into, spaces or {})
    tree.create()
    Fetch(repository.store("local"), repository.keyring, tree, 2).run(manifest(repository, entries))
    return tree


def test_every_kind_of_entry_is_written(repository: Repository, tmp_path: Path) -> None:
    """Directories, files over several frames, zeros as holes, empty files, short last blocks, links and modes."""
    big = (3, 1, 1), (100, None, 0), (4, 2, 0), (1, 3, 3)
    entries: list[Entry] = [
        DirectoryEntry("base", 0o700), DirectoryEntry("pg_wal", 0o750), DirectoryEntry("base/5", 0o700),
        entry("base/5/1", 107 * PAGE + 17, *big), entry("base/5/empty", 0),
        entry("PG_VERSION", 3, (1, 4, 0), mode=0o640), LinkEntry("link", 0o777, "base"),
        DirectoryEntry("global", 0o700), LABEL, CONTROL,
    ]  # fmt: skip
    root = tmp_path / "data"
    tree = fetched(repository, entries, root)
    expected = FRAMES[1][PAGE:] + bytes(100 * PAGE) + FRAMES[2] + FRAMES[3][3 * PAGE : 3 * PAGE + 17]
    assert (root / "base/5/1").read_bytes() == expected
    assert (root / "base/5/1").stat().st_blocks * 512 < len(expected) // 2
    assert (root / "base/5/empty").read_bytes() == b""
    assert (root / "PG_VERSION").read_bytes() == FRAMES[4][:3]
    assert (root / "link").readlink() == Path("base")
    assert [(root / name).stat().st_mode & 0o777 for name in ("", "pg_wal", "PG_VERSION")] == [0o700, 0o750, 0o640]
    assert not (root / "global/pg_control").exists()
    tree.make_durable(None, 2)
    tree.publish_control()
    assert (root / "global/pg_control").read_bytes() == FRAMES[5][:PAGE]


def test_runs_of_many_frames_are_put_together(tmp_path: Path) -> None:
    """Files in small runs of full frames, with zeros and a short end: one that needs much of each frame, which takes
    more than one part, and one that needs little.
    """
    repository = make_repository(tmp_path / "repository")
    frames = [os.urandom(FRAME_SIZE) for _ in range(5)] + [os.urandom(PAGE)]
    put_pack(repository, frames)
    much: list[tuple[int, int | None, int]] = []
    for turn in range(5):
        for at in range(0, FRAME_SIZE // PAGE, 16):
            much += [(16, (turn + number) % 5, at) for number in range(3)]
            much.append((1, None, 0))
    little = [(1, number, 3) for number in range(5)]
    held = {name: content(frames, *runs)[:-100] for name, runs in (("much", much), ("little", little))}
    assert len(held["much"]) > PART
    made = entry("much", len(held["much"]), *much), entry("little", len(held["little"]), *little)
    fetched(repository, [*made, DirectoryEntry("global", 0o700), LABEL, CONTROL], tmp_path / "data")
    for name, data in held.items():
        assert (tmp_path / "data" / name).read_bytes() == data


def content(frames: list[bytes], *runs: tuple[int, int | None, int]) -> bytes:
    """What a map of these runs says."""
    parts = [bytes(n * PAGE) if frame is None else frames[frame][at * PAGE : (at + n) * PAGE] for n, frame, at in runs]
    return b"".join(parts)


def test_entries_that_were_read_are_not_read_again(repository: Repository, tmp_path: Path) -> None:
    """Given the entries, no store is asked for the manifest."""
    read = manifest(repository, [DirectoryEntry("global", 0o700), entry("one", PAGE, (1, 2, 1)), LABEL, CONTROL])
    kept = list(read.entries())
    repository.store("local").delete(manifest_name(SNAPSHOT))
    tree = Tree(tmp_path / "data", {})
    tree.create()
    assert Fetch(repository.store("local"), repository.keyring, tree, 2).run(read, kept).files == 3
    assert (tmp_path / "data/one").read_bytes() == FRAMES[2][PAGE : 2 * PAGE]


def test_map_chunks_in_packs_are_followed(repository: Repository, tmp_path: Path) -> None:
    """A chunk that lies in a pack is read from there."""
    inner = chunk((2, 1, 2))
    pack = PackId(SNAPSHOT.label, 2, 0)
    keyring = repository.keyring
    header = Header(Kind.PACK, keyring.cipher, Compression.NONE, keyring.repository_id, keyring.current, b"", 7,
                    label=pack.label, attempt=pack.attempt, number=0)  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    body = sealer.head + sealer.frame(b"xxx" + inner + b"yyy")
    repository.store("local").put(pack_name(7, pack), body + sealer.finish(pack_name(7, pack)))
    mapped = FileEntry("one", 0o600, 2 * PAGE, 0, PAGE, (MapRef(pack, 0, 3, len(inner)),))
    fetched(repository, [LABEL, mapped, CONTROL], tmp_path / "data")
    assert (tmp_path / "data/one").read_bytes() == FRAMES[1][2 * PAGE :]


@pytest.mark.parametrize("path", ["/etc/passwd", "../out", "base/../../out", "a//b", "", "a/./b", "nul\0"])
def test_a_path_never_leaves_the_directory(repository: Repository, tmp_path: Path, path: str) -> None:
    """A hostile manifest is refused before anything is written outside."""
    with pytest.raises(IntegrityError):
        fetched(repository, [entry(path, 1, (1, 0, 0)), LABEL, CONTROL], tmp_path / "data")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["data", "repository"]


def test_nothing_is_written_through_a_link(repository: Repository, tmp_path: Path) -> None:
    """A file below a symbolic link of the manifest is refused, in either order."""
    link, file = LinkEntry("sly", 0o777, str(tmp_path)), entry("sly/out", 1, (1, 0, 0))
    with pytest.raises(IntegrityError):
        fetched(repository, [link, file, LABEL, CONTROL], tmp_path / "data")
    assert not (tmp_path / "out").exists()


def test_a_link_can_not_replace_what_was_written(repository: Repository, tmp_path: Path) -> None:
    """Links are made last, and never over a directory."""
    link, file = LinkEntry("sly", 0o777, str(tmp_path)), entry("sly/out", 1, (1, 0, 0))
    with pytest.raises(ReplicatorError):
        fetched(repository, [file, link, LABEL, CONTROL], tmp_path / "data")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        entry("x", 5 * PAGE, (1, 0, 0)),
        entry("x", PAGE, (2, 0, 0)),
        entry("x", 3 * PAGE, (3, 0, 2)),
        entry("x", PAGE, (1, 99, 0)),
        entry("backup_label", 100, (1, 0, 0)),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(repository: Repository, tmp_path: Path, wrong: FileEntry) -> None:
    """Too little, too much, beyond a frame, beyond a pack, the same file twice: 4, and nothing can start."""
    with pytest.raises(IntegrityError):
        fetched(repository, [LABEL, wrong, CONTROL], tmp_path / "data")
    assert not (tmp_path / "data/global/pg_control").exists()


@pytest.mark.parametrize("left", [[LABEL], [CONTROL]])
def test_a_snapshot_without_label_or_control_is_refused(
    repository: Repository, tmp_path: Path, left: list[Entry]
) -> None:
    """Without backup_label recovery would begin at the wrong place and say nothing."""
    with pytest.raises(IntegrityError):
        fetched(repository, left, tmp_path / "data")


def test_a_flipped_byte_in_a_pack_is_named(repository: Repository, tmp_path: Path) -> None:
    """Damage is found before the frame's bytes are written, and names the object."""
    path = tmp_path / "repository/stores/local/frk" / pack_name(7, PACK)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(IntegrityError) as found:
        fetched(repository, [LABEL, CONTROL], tmp_path / "data")
    assert pack_name(7, PACK) in found.value.message


def test_an_interrupt_leaves_nothing_that_starts(repository: Repository, tmp_path: Path) -> None:
    """Stopped while fetching: 130, and no pg_control."""
    stop = Event()
    stop.set()
    tree = Tree(tmp_path / "data", {})
    tree.create()
    with pytest.raises(Interrupted):
        Fetch(repository.store("local"), repository.keyring, tree, 2, stop=stop).run(
            manifest(repository, [LABEL, CONTROL])
        )
    assert not (tmp_path / "data/global/pg_control").exists()


def test_tablespaces_go_where_they_are_told(repository: Repository, tmp_path: Path) -> None:
    """Files of a tablespace lie in its directory behind a link; an in-place one stays in the tree."""
    entries: list[Entry] = [
        DirectoryEntry("pg_tblspc/16384/PG_15_202209061", 0o700),
        entry("pg_tblspc/16384/PG_15_202209061/1", PAGE, (1, 0, 0)),
        entry("pg_tblspc/16385/PG_15_202209061/2", PAGE, (1, 1, 0)),
        DirectoryEntry("pg_tblspc", 0o700), LinkEntry("pg_tblspc/16384", 0o777, "/old/place"), LABEL, CONTROL,
    ]  # fmt: skip
    root, space = tmp_path / "data", tmp_path / "space"
    fetched(repository, entries, root, {16384: space})
    assert (root / "pg_tblspc/16384").readlink() == space
    assert (space / "PG_15_202209061/1").read_bytes() == FRAMES[0][:PAGE]
    assert (root / "pg_tblspc/16385/PG_15_202209061/2").read_bytes() == FRAMES[1][:PAGE]


def facts_with(*spaces: tuple[int, str, bool]) -> SnapshotFacts:
    """Facts that name tablespaces."""
    return SnapshotFacts(
        SNAPSHOT, "frk", None, 1, 2, 150000, 2**20, checksums=True, comparison_key=bytes(32),
        tablespaces=tuple({"oid": oid, "location": place, "in_place": inside} for oid, place, inside in spaces),
    )  # fmt: skip


def test_a_tablespace_without_a_place_is_refused(tmp_path: Path) -> None:
    """The refusal names its OID and where it was; unknown OIDs and nested places are refused too."""
    facts = facts_with((16384, "/old/place", False), (16385, "pg_tblspc/16385", True))
    with pytest.raises(UsageError) as refused:
        tablespaces.check(facts, {}, tmp_path / "data")
    assert "16384" in refused.value.message
    assert "/old/place" in refused.value.message
    for wrong in ({16384: tmp_path / "a", 1: tmp_path / "b"}, {16384: tmp_path / "data/x"}):
        with pytest.raises(UsageError):
            tablespaces.check(facts, wrong, tmp_path / "data")
    assert tablespaces.check(facts, {16384: tmp_path / "a"}, tmp_path / "data") == {16384: tmp_path / "a"}


def test_the_tablespace_map_names_the_new_places(tmp_path: Path) -> None:
    """The server makes its links from it, so it must not name the old ones."""
    facts = facts_with((16384, "/old/place", False), (16386, "/same", False))
    (tmp_path / "tablespace_map").write_bytes(b"16384 /old/place\n16386 /same\n")
    tablespaces.rewrite_map(tmp_path, facts, {16384: Path("/new"), 16386: Path("/same")})
    assert (tmp_path / "tablespace_map").read_bytes() == b"16384 /new\n16386 /same\n"


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    """8 for a directory that is not empty, 2 for what is no directory; an empty one is well."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(AlreadyExists):
        Tree(tmp_path / "full", {}).check_empty()
    with pytest.raises(AlreadyExists):
        Tree(tmp_path / "absent", {1: tmp_path / "full"}).check_empty()
    with pytest.raises(UsageError):
        Tree(tmp_path / "full/x", {}).check_empty()
    Tree(tmp_path / "empty", {}).check_empty()
