"""What --delta keeps its hands off, and that a refusal leaves everything as it was; room and owner of what it takes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import AlreadyExists, Conflict, HostLacks, UsageError
from replicator.policy import StorePolicy, TolerancePolicy
from replicator.postgres.binaries import find_binaries
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.restore.durable import on_one_file_system
from replicator.restore.fill import owned, prepared
from replicator.restore.host import check_room, disk_of
from replicator.restore.job import RestoreJob
from replicator.restore.plan import PlanRequest
from replicator.restore.present import Present, examine, take_over
from replicator.restore.running import check_not_running
from replicator.restore.tree import Tree
from tests.clusters import OWNER
from tests.repositories import make_repository
from tests.restore.test_delta import FRAMES, entries, restored, seen
from tests.restore.test_fetch import put_pack


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one pack."""
    found = make_repository(tmp_path / "repository")
    put_pack(found, FRAMES)
    return found


@pytest.fixture
def whole(repository: Repository, tmp_path: Path) -> Path:
    """A directory that was restored; with the servers' user, where we are root, it is his."""
    restored(repository, tmp_path / "data", entries())
    if OWNER is not None:
        user = pwd.getpwnam(OWNER)
        for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    (tmp_path / "data").chmod(0o750)
    return tmp_path / "data"


@contextmanager
def working(program: Path | str, place: Path) -> Iterator[int]:
    """A process that works in a directory: its number."""
    with subprocess.Popen([str(program), "600"], cwd=place) as process:
        try:
            while Path(f"/proc/{process.pid}/comm").read_text().strip() != Path(program).name:
                time.sleep(0.001)  # exec gives the name a moment after Popen returns
            yield process.pid
        finally:
            process.kill()


def rights(*paths: Path) -> list[tuple[int, int, int]]:
    """Owner, group and mode of each."""
    return [(found.st_uid, found.st_gid, found.st_mode) for found in (path.stat() for path in paths)]


def found_in(root: Path) -> Present:
    """What --delta finds there."""
    present = examine(root, {})
    assert present is not None
    return present


def test_a_server_started_while_the_plan_was_made_keeps_its_directory(whole: Path) -> None:
    """It was stopped when --delta looked first: refused, and it still may enter its directory."""
    present = found_in(whole)
    before = rights(whole, whole / "global"), seen(whole)
    with working("sleep", whole) as number:
        (whole / "postmaster.pid").write_text(f"{number}\n")
        with Tree(whole, {}) as tree, pytest.raises(Conflict):
            take_over(tree, present)
        (whole / "postmaster.pid").unlink()
    assert (rights(whole, whole / "global"), seen(whole)) == before


@pytest.mark.parametrize("change", ["another", "link"])
def test_what_changed_since_it_was_looked_at_is_given_back(whole: Path, tmp_path: Path, change: str) -> None:
    """Another cluster's by now, or no directory of the usual kind: refused, and it belongs to whom it belonged to."""
    present = found_in(whole)
    if change == "another":
        present = replace(present, system_id=8)
    else:
        (whole / "global").rename(tmp_path / "elsewhere")
        (whole / "global").symlink_to(tmp_path / "elsewhere")
    before = rights(whole), seen(whole)
    with Tree(whole, {}) as tree, pytest.raises(AlreadyExists if change == "another" else HostLacks):
        take_over(tree, present)
    assert (rights(whole), seen(whole)) == before


@pytest.mark.parametrize("pid", ["", "1\n"])
def test_a_server_in_a_container_is_seen_by_where_it_works(whole: Path, tmp_path: Path, pid: str) -> None:
    """Its number in postmaster.pid is another one here, or the file is gone: a process of PostgreSQL works there."""
    program = tmp_path / "postgres"
    shutil.copy(str(shutil.which("sleep")), program)
    if pid:
        (whole / "postmaster.pid").write_text(pid)
    with working(program, whole), pytest.raises(Conflict):
        check_not_running(whole, ending_s=0.2)
    (whole / "postmaster.pid").unlink(missing_ok=True)
    check_not_running(whole)


def test_a_server_that_is_ending_is_waited_for(whole: Path, tmp_path: Path) -> None:
    """It has taken its postmaster.pid away, and its process is still there for a moment: nobody is told to stop it."""
    program = tmp_path / "postgres"
    shutil.copy(str(shutil.which("sleep")), program)
    with working(program, whole) as number:
        ending = threading.Timer(0.5, os.kill, (number, signal.SIGKILL))
        ending.start()
        check_not_running(whole)
        ending.join()


def test_a_containers_first_process_is_nobodys_here(whole: Path) -> None:
    """Process 1 of postmaster.pid is out of sight: refused until the operator removes the file."""
    (whole / "postmaster.pid").write_text("1\n")
    with pytest.raises(Conflict) as refused:
        examine(whole, {})
    assert "postmaster.pid" in refused.value.hint or "Stop it first" in refused.value.hint
    (whole / "postmaster.pid").unlink()
    found_in(whole)


def test_what_has_another_name_leaves_no_room(whole: Path, tmp_path: Path) -> None:
    """A file that pg_upgrade --link shares is replaced, so its room is needed anew."""
    before = found_in(whole).bytes
    size = (whole / "base/5/2").stat().st_blocks * 512
    (tmp_path / "upgraded").hardlink_to(whole / "base/5/2")
    assert size > 0
    assert found_in(whole).bytes == before - size


def test_tablespaces_on_another_disk_have_its_room(tmp_path: Path) -> None:
    """What does not fit the data directory's disk alone is not refused when it may lie on another."""
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    facts = {home: (1, 100), other: (2, 60)}
    check_room(home / "data", 130, [other / "space"], disk=facts.__getitem__)
    with pytest.raises(HostLacks, match=f"{home} and {other}: "):
        check_room(home / "data", 161, [other / "space"], disk=facts.__getitem__)
    with pytest.raises(HostLacks):
        check_room(home / "data", 130, [home / "space"], disk=facts.__getitem__)
    number, free = disk_of(tmp_path)
    assert number == tmp_path.stat().st_dev
    check_room(home / "data", free // 2, [other / "space"])
    with pytest.raises(HostLacks):
        check_room(home / "data", shutil.disk_usage(tmp_path).total + 1, [other / "space"])


def test_another_file_system_below_is_seen(tmp_path: Path) -> None:
    """One sync would not reach what is mounted within."""
    (tmp_path / "one/two").mkdir(parents=True)
    (tmp_path / "one/link").symlink_to("/dev/shm")
    assert on_one_file_system(str(tmp_path))
    if Path("/dev/shm").is_mount():
        assert not on_one_file_system("/dev")


def job_of(repository: Repository, into: Path, store: Path, **changes: Any) -> RestoreJob:
    """A --delta restore from a store in a directory."""
    access = {"local": StoreAccess(StorePolicy(name="local", url=f"file://{store}"), TolerancePolicy())}
    request = PlanRequest("frk", RecoveryTarget(TargetKind.LATEST))
    return RestoreJob(repository, access, request, into, find_binaries, delta=True, **changes)


def test_a_store_within_the_directory_is_not_cleared_away(repository: Repository, whole: Path) -> None:
    """2: the snapshot does not have it, and --delta would remove the backups first."""
    (whole / "backups").mkdir()
    with pytest.raises(UsageError):
        prepared(job_of(repository, whole, whole / "backups"))
    assert prepared(job_of(repository, whole, whole.parent / "repository")) is not None


@pytest.mark.skipif(OWNER is None, reason="only root gives files away")
def test_root_gives_it_back_to_who_had_it(repository: Repository, whole: Path) -> None:
    """Without --owner the directory stays its user's, also after an abort that left the directories root's."""
    job = job_of(repository, whole, whole.parent / "repository")
    for _ in range(2):
        assert owned(job, prepared(job)).owner == OWNER
        with Tree(whole, {}) as tree:
            take_over(tree, found_in(whole))
    assert whole.stat().st_uid == 0
    assert owned(replace(job, owner="nobody"), prepared(job)).owner == "nobody"
    assert owned(job, None).owner is None
