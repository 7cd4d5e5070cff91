"""What only a directory store promises: durability steps, modes, left-over files, a root that must be there."""

from __future__ import annotations

import os
import stat as modes
import time
from pathlib import Path

import pytest

from replicator.errors import (
    HostLacks,
    ObjectAbsent,
    StoreDenied,
    StoreMisconfigured,
    StoreUnavailable,
    UploadLost,
)
from replicator.store.directory import DirectoryStore
from replicator.store.files import store_error


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The store's root; not made yet."""
    return tmp_path / "mount" / "repository"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    """A prepared store."""
    store = DirectoryStore("local", root)
    store.prepare()
    return store


def mode(path: Path) -> int:
    """Permission bits."""
    return modes.S_IMODE(path.lstat().st_mode)


def test_private_modes(store: DirectoryStore, root: Path) -> None:
    """Directories are 0700 and files 0600 whatever the umask is."""
    before = os.umask(0)
    try:
        store.put("a/b", b"x")
    finally:
        os.umask(before)
    assert (mode(root), mode(root / "a"), mode(root / "a/b")) == (0o700, 0o700, 0o600)


def test_missing_root_is_not_empty(root: Path) -> None:
    """A root that isn't there is a disk that isn't mounted: never absent, never empty, never made by a put."""
    store = DirectoryStore("local", root)
    for request in (
        lambda: store.get("a"),
        lambda: store.get_tail("a", 1),
        lambda: store.stat("a"),
        lambda: store.put("a", b"x"),
        lambda: store.delete("a"),
        lambda: list(store.list("")),
        lambda: store.upload("a"),
    ):
        with pytest.raises(StoreMisconfigured) as raised:
            request()
        assert "does not exist" in raised.value.message
        assert raised.value.hint
    assert not root.exists()


def test_root_that_is_a_file(root: Path) -> None:
    """A file where the root should be is a wrong policy."""
    root.parent.mkdir()
    root.write_text("x")
    store = DirectoryStore("local", root)
    with pytest.raises(StoreMisconfigured):
        store.prepare()
    with pytest.raises(StoreMisconfigured):
        store.get("a")


def test_prepare_again(store: DirectoryStore) -> None:
    """Preparing a store that is ready changes nothing."""
    store.put("a", b"x")
    store.prepare()
    assert store.get("a") == b"x"


def test_symbolic_links_are_no_objects(store: DirectoryStore, root: Path, tmp_path: Path) -> None:
    """A link is neither listed nor read."""
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    assert list(store.list("")) == []
    with pytest.raises(ObjectAbsent):
        store.get("link")
    with pytest.raises(ObjectAbsent):
        store.stat("link")


def test_foreign_names_are_left_out(store: DirectoryStore, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names that are not ours are left out of listings, with one warning."""
    store.put("a", b"x")
    for name in ("lost+found", "a b", "é"):
        (root / name).mkdir()
        (root / name / "inside").write_text("x")
    (root / "with space").write_text("x")
    assert [info.name for info in store.list("")] == ["a"]
    list(store.list(""))
    assert len(caplog.records) == 1


def test_left_over_files(store: DirectoryStore, root: Path) -> None:
    """What a crash left is never listed, and goes with the first write after a day."""
    (root / "a").mkdir()
    old, new = root / "a/.tmp-1-old", root / "a/.tmp-2-new"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 100_000,) * 2)
    assert list(store.list("")) == []
    store.put("a/b", b"x")
    assert not old.exists()
    assert new.exists()


def test_nothing_is_left_behind(store: DirectoryStore, root: Path) -> None:
    """No temporary file stays after a put, a commit, an abort or a refusal."""
    store.put("a/b", b"x")
    with store.writer("a/c") as writer:
        writer.write(b"y" * (3 << 20))
        writer.commit()
    with store.writer("a/d") as writer:
        writer.write(b"y" * (3 << 20))
    assert sorted(path.name for path in (root / "a").iterdir()) == ["b", "c"]


def test_empty_folders_go(store: DirectoryStore, root: Path) -> None:
    """Deleting the last object of a folder takes the folder, never the root."""
    store.put("a/b/c", b"x")
    store.delete("a/b/c")
    assert list(root.iterdir()) == []
    assert root.is_dir()


def test_a_file_above(store: DirectoryStore) -> None:
    """A name below an object is absent to reading, and a wrong layout to writing."""
    store.put("a", b"x")
    with pytest.raises(ObjectAbsent):
        store.get("a/b")
    with pytest.raises(StoreMisconfigured):
        store.put("a/b", b"x")


def test_a_body_that_is_not_there(store: DirectoryStore, tmp_path: Path) -> None:
    """A file to store that can't be read is this host's trouble, and leaves nothing."""
    with pytest.raises(HostLacks):
        store.put("a", tmp_path / "none")
    assert list(store.list("")) == []


def test_an_ended_upload_is_lost(store: DirectoryStore) -> None:
    """Parts after an abort are never taken."""
    upload = store.upload("a")
    upload.part(0, 0, b"x")
    upload.abort()
    with pytest.raises(UploadLost):
        upload.part(0, 0, b"x")
    with pytest.raises(UploadLost):
        upload.complete()


def test_a_part_may_come_twice(store: DirectoryStore) -> None:
    """A part that is written again takes its own place."""
    upload = store.upload("a")
    for number, offset, data in ((0, 0, b"abc"), (0, 0, b"abc"), (1, 3, b"de"), (1, 3, b"de")):
        upload.part(number, offset, data)
    upload.complete()
    assert store.get("a") == b"abcde"


def test_full_disk(store: DirectoryStore) -> None:
    """A full disk is unavailable, may be retried, and says what to do."""
    upload = store.upload("a")
    os.dup2(full := os.open("/dev/full", os.O_WRONLY), upload._descriptor or -1)
    os.close(full)
    with pytest.raises(StoreUnavailable) as raised:
        upload.part(0, 0, b"x" * 10)
    upload.abort()
    assert raised.value.retryable
    assert "Free space" in raised.value.hint


@pytest.mark.parametrize(
    ("number", "kind", "retryable"),
    [
        (28, StoreUnavailable, True),  # ENOSPC
        (5, StoreUnavailable, True),  # EIO
        (116, StoreUnavailable, True),  # ESTALE
        (122, StoreUnavailable, True),  # EDQUOT
        (13, StoreDenied, False),  # EACCES
        (1, StoreDenied, False),  # EPERM
        (30, StoreDenied, False),  # EROFS
        (20, StoreMisconfigured, False),  # ENOTDIR
        (36, StoreMisconfigured, False),  # ENAMETOOLONG
    ],
)
def test_errors_by_number(number: int, kind: type[StoreUnavailable], retryable: bool) -> None:
    """Each errno has its meaning, its hint, and nothing is decided by text."""
    error = store_error("local", "write a", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.hint.endswith(".")
