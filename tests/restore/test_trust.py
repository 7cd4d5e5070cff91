"""Restores as root for a user who may be hostile: root's writes never go where that user wants them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from replicator.errors import HostLacks, UsageError
from replicator.repository.manifests import DirectoryEntry, Entry, LinkEntry
from replicator.repository.repository import Repository
from replicator.restore.fetch import Fetch
from replicator.restore.prefetch import Prefetcher
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.start import log_file
from replicator.restore.tablespaces import rewrite_map
from replicator.restore.tree import Tree
from tests.clusters import OWNER
from tests.restore.test_fetch import CONTROL, LABEL, entry, facts_with, fetched, manifest, repository

__all__ = ["repository"]


def test_a_directory_swapped_for_a_link_takes_nothing_elsewhere(repository: Repository, tmp_path: Path) -> None:
    """Who may rename the directory can not turn the writes to another place."""
    into, moved, victim = tmp_path / "data", tmp_path / "moved", tmp_path / "victim"
    victim.mkdir()
    with Tree(into, {}) as tree:
        tree.create()
        into.rename(moved)
        into.symlink_to(victim)
        entries: list[Entry] = [LABEL, CONTROL, entry("cron", 8192, (1, 0, 0)), DirectoryEntry("base", 0o700)]
        Fetch(repository.store("local"), repository.keyring, tree, 2).run(manifest(repository, entries))
        tree.make_durable(OWNER, 2)
        tree.publish_control()
    assert list(victim.iterdir()) == []
    assert sorted(path.name for path in moved.iterdir()) == ["backup_label", "base", "cron", "global"]
    assert (moved / "global/pg_control").exists()


@pytest.mark.skipif(OWNER is None, reason="only root gives files away")
def test_the_owner_is_kept_out_until_the_end(repository: Repository, tmp_path: Path) -> None:
    """A directory that is the owner's already is root's while it is written, and the owner's again afterwards."""
    assert OWNER is not None
    into, user = tmp_path / "data", pwd.getpwnam(OWNER)
    into.mkdir()
    os.chown(into, user.pw_uid, user.pw_gid)
    with Tree(into, {}) as tree:
        tree.create()
        assert (into.stat().st_uid, into.stat().st_mode & 0o777) == (0, 0o700)
        Fetch(repository.store("local"), repository.keyring, tree, 2).run(manifest(repository, [LABEL, CONTROL]))
        assert into.stat().st_uid == 0
        tree.make_durable(OWNER, 2)
    assert {path.stat().st_uid for path in (into, *into.rglob("*"))} == {user.pw_uid}
    assert {path.stat().st_mode & 0o077 for path in (into, *into.rglob("*"))} == {0}


def test_a_log_that_is_another_file_is_not_given_away(tmp_path: Path) -> None:
    """Neither through a symbolic link nor under a second name."""
    victim = tmp_path / "victim"
    victim.write_text("secret")
    before = victim.stat().st_uid, victim.stat().st_mode
    log = tmp_path / "data.log"
    log.symlink_to(victim)
    with pytest.raises(HostLacks):
        log_file(tmp_path / "data", OWNER)
    log.unlink()
    log.hardlink_to(victim)
    with pytest.raises(UsageError):
        log_file(tmp_path / "data", OWNER)
    assert (victim.stat().st_uid, victim.stat().st_mode) == before
    assert victim.read_text() == "secret"


def test_the_prefetchers_mark_is_not_written_through_a_link(repository: Repository, tmp_path: Path) -> None:
    """The recovery directory is the server's user's by then."""
    directory, victim = RecoveryDirectory(tmp_path / "data.replicator"), tmp_path / "victim"
    for path in (directory.path, directory.ready, directory.requests):
        path.mkdir()
    victim.write_text("secret")
    directory.prefetching.symlink_to(victim)
    with Prefetcher(directory, repository.store("local"), repository.keyring, [], 0, owner=OWNER):
        assert not directory.prefetching.is_symlink()
    assert victim.read_text() == "secret"


@pytest.mark.parametrize("path", ["pg_tblspc/²/x", "pg_tblspc/²", "pg_tblspc/99999999999/x"])
def test_odd_digits_are_no_oid(repository: Repository, tmp_path: Path, path: str) -> None:
    """A manifest may hold any name; only ASCII digits are a tablespace."""
    tree = fetched(repository, [LABEL, CONTROL, entry(path, 8192, (1, 0, 0))], tmp_path / "data", {7: tmp_path / "t"})
    assert (tree.root / path).is_file()


def test_a_map_that_is_a_link_is_not_followed(repository: Repository, tmp_path: Path) -> None:
    """tablespace_map is corrected in the tree alone."""
    victim = tmp_path / "victim"
    victim.write_text("7 /old\n")
    fetched(repository, [LABEL, CONTROL, LinkEntry("tablespace_map", 0o777, str(victim))], tmp_path / "data")
    with pytest.raises(OSError, match="symbolic links"):
        rewrite_map(tmp_path / "data", facts_with((7, "/old", False)), {7: tmp_path / "new"})
    assert victim.read_text() == "7 /old\n"
