"""--delta over trees made by hand: what is kept, fetched, removed, mended, and what may not be touched at all."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from replicator.errors import AlreadyExists, Conflict, IntegrityError, UsageError
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import manifest_name
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry, LinkEntry, ManifestReader
from replicator.repository.repository import Repository
from replicator.restore.blockreader import Question
from replicator.restore.blockreaders import BlockReaders
from replicator.restore.compare import Comparison
from replicator.restore.fetch import Fetch, FetchTotals
from replicator.restore.present import Names, clear, examine, system_id_of, take_over
from replicator.restore.tree import Tree
from replicator.seal.digest import block_hash
from tests.clusters import OWNER
from tests.repositories import make_repository
from tests.restore.test_fetch import PACK, PAGE, SNAPSHOT, manifest, put_pack

KEY = bytes(32)
#: How many processes compare beside the restore itself.
READERS = [0]
#: What they found, question by question.
ANSWERS: list[list[int] | None] = []
#: The last begins as pg_control does, with the system identifier.
FRAMES = [*(os.urandom(4 * PAGE) for _ in range(5)), (7).to_bytes(8, sys.byteorder) + os.urandom(PAGE)]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one pack of six frames."""
    found = make_repository(tmp_path / "repository")
    put_pack(found, FRAMES)
    return found


def known(path: str, *runs: tuple[int, int | None, int], less: int = 0, mode: int = 0o600) -> FileEntry:
    """A file of (blocks, frame or None for zeros, first block in the frame), with true hashes; its last block is `less`
    bytes short.
    """
    data = content(*runs, less=less)
    made = [BlockRun(n, None) if frame is None else BlockRun(n, PACK, frame, at * PAGE) for n, frame, at in runs]
    hashes = b"".join(block_hash(KEY, data[at : at + PAGE]) for at in range(0, len(data), PAGE))
    chunks = (MapChunk(tuple(made), hashes).to_bytes(),) if runs else ()
    return FileEntry(path, mode, len(data), 0, PAGE, chunks)


def content(*runs: tuple[int, int | None, int], less: int = 0) -> bytes:
    """The bytes that such runs describe."""
    parts = [bytes(n * PAGE) if frame is None else FRAMES[frame][at * PAGE :][: n * PAGE] for n, frame, at in runs]
    data = b"".join(parts)
    return data[: len(data) - less]


BIG = (3, 1, 1), (100, None, 0), (4, 2, 0), (1, 3, 3)


def entries() -> list[Entry]:
    """A small data directory."""
    return [
        DirectoryEntry("base", 0o700), DirectoryEntry("base/5", 0o700), known("base/5/1", *BIG, less=PAGE - 17),
        known("base/5/2", (2, 3, 0)), known("base/5/empty"), known("PG_VERSION", (1, 4, 0), less=PAGE - 3, mode=0o640),
        DirectoryEntry("pg_wal", 0o700), LinkEntry("link", 0o777, "base"), DirectoryEntry("global", 0o700),
        known("backup_label", (1, 0, 0), less=PAGE - 100), known("global/pg_control", (1, 5, 0)),
    ]  # fmt: skip


@pytest.fixture(params=[0, 2], ids=["alone", "with readers"], autouse=True)
def _readers(request: pytest.FixtureRequest) -> None:
    """How many processes take part in `again`."""
    READERS[0] = request.param
    ANSWERS.clear()


class Heard(BlockReaders):
    """What the processes say is written down."""

    def ask(self, questions: Sequence[Question], expected: bytes) -> list[list[int] | None]:
        """As they do."""
        found = super().ask(questions, expected)
        ANSWERS.extend(found)
        return found


def restored(repository: Repository, into: Path, found: list[Entry], spaces: dict[int, Path] | None = None) -> None:
    """A whole restore into an empty place."""
    with Tree(into, spaces or {}) as tree:
        tree.create(7)
        Fetch(repository.store("local"), repository.keyring, tree, 2).run(manifest(repository, found))
        tree.make_durable(None, 2)
        tree.publish_control()


def again(
    repository: Repository, into: Path, spaces: dict[int, Path] | None = None, owner: str | None = None
) -> tuple[FetchTotals, list[str]]:
    """The same snapshot over what is there, and the notes."""
    store = repository.store("local")
    present = examine(into, spaces or {})
    assert present is not None
    with Tree(into, spaces or {}, owner) as tree:
        take_over(tree, present)
        reader = reopened(repository)
        notes = clear(tree, Names(reader.entries()))
        with Heard(KEY, READERS[0], tree.handles.values()) as readers:
            comparison = Comparison(KEY, tree.ids, readers)
            totals = Fetch(store, repository.keyring, tree, 2, comparison=comparison).run(reader)
        tree.make_durable(owner, 2)
        tree.publish_control()
    return totals, notes


def reopened(repository: Repository) -> ManifestReader:
    """The manifest that was written before."""
    return ManifestReader(repository.store("local"), SNAPSHOT, repository.keyring)


def seen(root: Path) -> dict[str, object]:
    """Every path with what it is: a link's target, a file's mode and bytes, a directory's mode."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            mode = path.stat().st_mode & 0o777
            found[name] = (mode, path.read_bytes()) if path.is_file() else mode
    return found


@pytest.fixture
def whole(repository: Repository, tmp_path: Path) -> Path:
    """A directory that was restored."""
    restored(repository, tmp_path / "data", entries())
    return tmp_path / "data"


def test_nothing_is_fetched_where_nothing_differs(repository: Repository, whole: Path) -> None:
    """All is compared, by the processes where there are any, nothing is written, and it is as it was."""
    before = seen(whole)
    totals, notes = again(repository, whole)
    assert [[] if READERS[0] else None] * len(ANSWERS) == ANSWERS
    assert ANSWERS
    assert (totals.fetched, notes) == (0, ["link was a link to base: what lies there was left alone"])
    assert totals.bytes == sum(entry.size for entry in entries() if isinstance(entry, FileEntry))
    assert seen(whole) == before
    assert (whole / "base/5/1").stat().st_blocks * 512 < 50 * PAGE


def test_only_blocks_that_differ_are_fetched(repository: Repository, whole: Path) -> None:
    """Changed pages, zeros that are zeros no more, a short and a long file: two blocks and the tail come, no more."""
    before = seen(whole)
    with (whole / "base/5/1").open("r+b") as file:
        for block in (1, 50, 105):
            file.seek(block * PAGE + 99)
            file.write(b"other")
        file.truncate(107 * PAGE)
    with (whole / "base/5/2").open("ab") as file:
        file.write(bytes(PAGE))
    totals, _ = again(repository, whole)
    assert totals.fetched == 2 * PAGE + 17
    assert seen(whole) == before


def test_everything_else_goes_and_everything_is_mended(repository: Repository, whole: Path, tmp_path: Path) -> None:
    """Files, directories, links and pipes that the snapshot has not; a missing file; wrong modes; one kind in the place
    of another. Nothing outside changes.
    """
    before = seen(whole)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("kept")
    (victim / "hard").write_bytes(bytes(PAGE))
    (whole / "base/5/2").unlink()
    (whole / "base/5/2").hardlink_to(victim / "hard")
    (whole / "pg_wal").rmdir()
    (whole / "pg_wal").symlink_to(victim)
    (whole / "base/5/1").unlink()
    (whole / "base/5/1").mkdir()
    (whole / "base/5/1/deep").touch()
    (whole / "base/9").mkdir()
    (whole / "base/9/7").touch()
    (whole / "postmaster.opts").touch()
    os.mkfifo(whole / "pipe")
    (whole / "PG_VERSION").chmod(0o600)
    (whole / "base/5/empty").write_text("not empty")
    (whole / "base").chmod(0o750)
    totals, notes = again(repository, whole)
    assert seen(whole) == before
    assert any("pg_wal" in note for note in notes)
    assert seen(victim) == {"kept": (0o644, b"kept"), "hard": (0o644, bytes(PAGE))}
    assert totals.fetched == 10 * PAGE - (PAGE - 17)


def test_pg_control_goes_first_and_the_cluster_is_still_known(repository: Repository, whole: Path) -> None:
    """Cut off right after the beginning, or in an aborted restore: it can't start, and --delta knows it."""
    present = examine(whole, {})
    assert present is not None
    with Tree(whole, {}) as tree:
        take_over(tree, present)
    assert not (whole / "global/pg_control").exists()
    assert (whole / "base/5/1").exists()
    assert examine(whole, {}) == present
    again(repository, whole)
    assert system_id_of(whole) == 7
    with Tree(whole.with_name("other"), {}) as tree:
        tree.create(7)
    found = examine(whole.with_name("other"), {})
    assert found is not None
    assert found.system_id == 7
    again(repository, whole.with_name("other"))
    assert seen(whole.with_name("other")) == seen(whole)


def test_what_is_no_data_directory_is_not_touched(tmp_path: Path) -> None:
    """8 for a directory of anything else, 2 for a file; nothing there is well."""
    home = tmp_path / "home"
    (home / "global").mkdir(parents=True)
    (home / "letter").write_text("dear")
    for _ in range(2):
        with pytest.raises(AlreadyExists):
            examine(home, {})
        (home / "global/pg_control").symlink_to("/etc/passwd")
        with pytest.raises(OSError, match="symbolic"):
            system_id_of(home)
        (home / "global/pg_control").unlink()
    with pytest.raises(UsageError):
        examine(home / "letter", {})
    with pytest.raises(AlreadyExists):
        examine(tmp_path / "absent", {1: home})
    assert examine(tmp_path / "absent", {}) is None
    assert sorted(path.name for path in home.iterdir()) == ["global", "letter"]


def test_a_running_server_keeps_its_directory(repository: Repository, whole: Path) -> None:
    """postmaster.pid names a process that works there: 8. One that works elsewhere, or is gone, does not count."""
    with subprocess.Popen(["sleep", "600"], cwd=whole) as process:
        try:
            (whole / "postmaster.pid").write_text(f"{process.pid}\n{whole}\n")
            with pytest.raises(Conflict) as refused:
                examine(whole, {})
            assert str(process.pid) in refused.value.message
        finally:
            process.kill()
    again(repository, whole)
    (whole / "postmaster.pid").write_text(f"{os.getpid()}\n")
    again(repository, whole)
    assert not (whole / "postmaster.pid").exists()


def test_two_restores_do_not_share_a_directory(repository: Repository, whole: Path) -> None:
    """The second is refused (8) while the first works there, before it touches anything."""
    present = examine(whole, {})
    assert present is not None
    with Tree(whole, {}) as first:
        first.hold(whole)
        with Tree(whole, {}) as second, pytest.raises(Conflict):
            take_over(second, present)
        assert (whole / "global/pg_control").exists()
    again(repository, whole)


def test_a_child_does_not_keep_the_directory(repository: Repository, whole: Path) -> None:
    """It may outlive a killed restore by a moment, with the handles that it was given: the next one need not wait."""
    with Tree(whole, {}) as first:
        first.hold(whole)
        child = subprocess.Popen(["sleep", "60"], pass_fds=list(first.handles.values()))
    try:
        again(repository, whole)
    finally:
        child.kill()
        child.wait()


def test_a_map_without_a_block_size(repository: Repository, whole: Path) -> None:
    """Damage, also where the file is empty."""
    entry = FileEntry("base/5/none", 0o600, 0, 0, 0, ())
    found = [*entries()[:-1], entry, entries()[-1]]
    repository.store("local").delete(manifest_name(SNAPSHOT))
    manifest(repository, found)
    with pytest.raises(IntegrityError, match="blocks of 0 bytes"):
        again(repository, whole)


def test_a_tablespace_is_compared_too(repository: Repository, tmp_path: Path) -> None:
    """Its files and its link are mended, what else is in it goes, and another version's directory beside it stays."""
    version = "PG_15_202209061"
    found: list[Entry] = [
        *entries()[:-2], DirectoryEntry(f"pg_tblspc/16384/{version}", 0o700),
        known(f"pg_tblspc/16384/{version}/1", (1, 0, 0)), *entries()[-2:],
    ]  # fmt: skip
    root, space = tmp_path / "data", tmp_path / "space"
    restored(repository, root, found, {16384: space})
    (space / version / "1").write_bytes(b"short")
    (space / version / "9").touch()
    (space / "PG_14_202107181").mkdir()
    totals, _ = again(repository, root, {16384: space})
    assert (space / version / "1").read_bytes() == FRAMES[0][:PAGE]
    assert sorted(path.name for path in space.rglob("*")) == ["1", "PG_14_202107181", version]
    assert totals.fetched == PAGE
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "letter").touch()
    with pytest.raises(AlreadyExists) as refused:
        examine(root, {16384: stranger})
    assert "--tablespace 16384" in refused.value.hint
    (root / "pg_tblspc/16384").unlink()
    with pytest.raises(AlreadyExists):
        examine(root, {16384: space})


def test_a_file_named_twice_is_refused() -> None:
    """A manifest that names a path twice is none of ours."""
    with pytest.raises(IntegrityError):
        Names([known("one", (1, 0, 0)), known("two"), known("one", (1, 1, 0))])


@pytest.mark.skipif(OWNER is None, reason="only root gives files away")
def test_the_owner_is_kept_out_of_what_was_his(repository: Repository, whole: Path) -> None:
    """Every directory is root's alone before the first file is written, and the owner's again at the end."""
    assert OWNER is not None
    user = pwd.getpwnam(OWNER)
    for path in (whole, *whole.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    present = examine(whole, {})
    assert present is not None
    with Tree(whole, {}, OWNER) as tree:
        take_over(tree, present)
        clear(tree, Names(reopened(repository).entries()))
        assert {path.stat().st_uid for path in (whole, *whole.rglob("*")) if path.is_dir()} == {0}
    again(repository, whole, owner=OWNER)
    assert {path.lstat().st_uid for path in (whole, *whole.rglob("*"))} == {user.pw_uid}
