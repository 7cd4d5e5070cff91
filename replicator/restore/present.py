"""What lies in the directories that `--delta` restores into, and making them ready for it.

Owns the question whether they may be touched: only a data directory of the same cluster (its pg_control says so) or an
aborted restore of it, whose server does not run. Owns what goes: everything that the snapshot does not name. From the
first change on pg_control has no name, so nothing half-done can start.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from replicator.errors import AlreadyExists, HostLacks, IntegrityError
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry
from replicator.restore.running import check_not_running
from replicator.restore.tree import CONTROL, CONTROL_PART, Tree, check_directory, host_errors, not_empty
from replicator.seal.digest import short_id


@dataclass(frozen=True, slots=True)
class Present:
    """A data directory that `--delta` may restore into: whose it is, what its files take, in bytes, and the user that
    its pg_control belongs to (None: root, or one without a name).
    """

    system_id: int
    bytes: int
    owner: str | None = None


def examine(root: Path, tablespaces: Mapping[int, Path]) -> Present | None:
    """What is there; None when there is nothing. Touches nothing. Raises AlreadyExists for what is no data directory,
    Conflict for one whose server runs, UsageError, HostLacks.
    """
    for path in (root, *tablespaces.values()):
        check_directory(path)
    with host_errors(root):
        filled = [path for path in (root, *tablespaces.values()) if path.is_dir() and any(path.iterdir())]
        if root not in filled:
            if filled:
                raise not_empty(filled[0])
            return None
        found = system_id_of(root)
        if found is None:
            raise AlreadyExists(
                f"{root}: directory is neither empty nor a data directory",
                hint="--delta restores into a data directory of the same cluster, or over its own aborted restore.",
            )
        check_not_running(root)
        for oid, path in tablespaces.items():
            if path in filled and not _same(root / "pg_tblspc" / str(oid), path):
                raise AlreadyExists(
                    f"{path}: directory is not empty, and is not what pg_tblspc/{oid} of {root} points to",
                    hint=f"Name the tablespace's own directory, or an empty one, with --tablespace {oid}=DIR.",
                )
        return Present(found, sum(map(_size, filled)), _owner(root))


def _owner(root: Path) -> str | None:
    """Of pg_control: the directories may be root's by now, for an earlier restore was aborted."""
    for name in (CONTROL, CONTROL_PART):
        try:
            user = os.lstat(root / name).st_uid
            return pwd.getpwuid(user).pw_name if user else None
        except (FileNotFoundError, KeyError):
            continue
    return None


def system_id_of(root: Path) -> int | None:
    """The system identifier that pg_control begins with, or what an aborted restore left of it."""
    for name in (CONTROL, CONTROL_PART):
        try:
            handle = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        try:
            data = os.read(handle, 8) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        finally:
            os.close(handle)
        if len(data) == 8:
            return int.from_bytes(data, sys.byteorder)
    return None


def take_over(tree: Tree, present: Present) -> None:
    """Make the directories ours alone, and take pg_control its name, durably, before anything else is changed.

    Raises AlreadyExists or Conflict when they are not what they were, HostLacks.
    """
    with host_errors(tree.root):
        check_not_running(tree.root)  # planning took a while, and to hold the directory shuts its server out
        tree.hold(tree.root)
        try:
            _take_control(tree, present)
        except BaseException:
            tree.give_back(tree.root)
            raise
        for path in tree.tablespaces.values():
            tree.hold(path)
        for handle in tree.handles.values():
            os.fsync(handle)


def _take_control(tree: Tree, present: Present) -> None:
    """pg_control without its name, durably; or as it was. A server writes postmaster.pid before it reads pg_control, so
    one that starts meanwhile is seen afterwards, or does not start.
    """
    root = tree.inside()
    check_not_running(root)
    if system_id_of(root) != present.system_id:
        raise AlreadyExists(f"{tree.root} is another cluster's by now")
    control, part = root / CONTROL, root / CONTROL_PART
    shared = os.open(control.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        named = control.exists()
        if named:
            control.rename(part)
        try:
            check_not_running(root)
            os.fsync(shared)
        except BaseException:
            if named:
                part.rename(control)
            raise
    finally:
        os.close(shared)


def _seize(path: str) -> int:
    """The handle of a directory that is ours alone from now on."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.geteuid() == 0:
        os.fchown(handle, 0, 0)
    os.fchmod(handle, 0o700)
    return handle


class Names:
    """The paths of a manifest, eight bytes for each file."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Read all. Raises IntegrityError when a file is named twice."""
        files: list[int] = []
        self.directories: set[str] = set()
        for entry in entries:
            if isinstance(entry, FileEntry):
                files.append(_mark(CONTROL_PART if entry.path == CONTROL else entry.path))
            if isinstance(entry, DirectoryEntry):
                self._add(entry.path)
            else:
                self._add(entry.path.rpartition("/")[0])
        files.sort()
        if any(one == other for one, other in pairwise(files)):
            raise IntegrityError("the manifest names a file twice")
        self._files = array("Q", files)

    def _add(self, path: str) -> None:
        while path and path not in self.directories:
            self.directories.add(path)
            path = path.rpartition("/")[0]

    def file(self, path: str) -> bool:
        """Whether it names this file."""
        mark = _mark(path)
        at = bisect_left(self._files, mark)
        return at < len(self._files) and self._files[at] == mark

    @property
    def versions(self) -> set[str]:
        """The directories within tablespaces that are this cluster's: another version's may lie beside them."""
        parts = [path.split("/") for path in self.directories]
        return {found[2] for found in parts if len(found) >= 3 and found[0] == "pg_tblspc"}


def _mark(path: str) -> int:
    return int.from_bytes(short_id(path.encode("utf-8", "surrogatepass")), "big")


def clear(tree: Tree, names: Names) -> list[str]:
    """Remove what the snapshot does not name; every directory that stays is ours alone and known to the tree. What the
    operator should know. Raises HostLacks.
    """
    notes: list[str] = []
    with host_errors(tree.root):
        _clear(tree, str(tree.inside()), "", names, notes)
        for oid, path in tree.tablespaces.items():
            _clear(tree, str(tree.inside(path)), f"pg_tblspc/{oid}", names, notes)
        tree.link_tablespaces()
    return notes


def _clear(tree: Tree, top: str, within: str, names: Names, notes: list[str]) -> None:
    waiting = [(top, within)]
    while waiting:
        place, path = waiting.pop()
        if place != top:
            os.close(_seize(place))
            tree.known.add(place)
        with os.scandir(place) as found:
            inner = list(found)
        device = Path(place).stat().st_dev
        for item in inner:
            name = f"{path}/{item.name}" if path else item.name
            if within and place == top and item.name not in names.versions:
                continue  # another version's, or a file system's own
            if item.is_dir(follow_symlinks=False):
                if name in names.directories:
                    waiting.append((item.path, name))
                elif item.stat(follow_symlinks=False).st_dev != device:
                    notes.append(f"another file system is mounted at {name}: it was left alone")
                else:
                    shutil.rmtree(item.path)
            elif item.is_symlink():
                _unlink(tree, item, name, notes)
            elif not names.file(name) or not item.is_file() or item.stat(follow_symlinks=False).st_nlink != 1:
                Path(item.path).unlink()


def _unlink(tree: Tree, item: os.DirEntry[str], name: str, notes: list[str]) -> None:
    """Links are made anew at the end; only a tablespace's right one stays, for it tells whose that directory is."""
    target = Path(item.path).readlink()
    parts = name.split("/")
    if len(parts) == 2 and parts[0] == "pg_tblspc" and parts[1].isdecimal():
        if tree.tablespaces.get(int(parts[1])) == target:
            return
    else:
        notes.append(f"{name} was a link to {target}: what lies there was left alone")
    Path(item.path).unlink()


def _same(link: Path, directory: Path) -> bool:
    try:
        return link.is_symlink() and link.samefile(directory)
    except OSError:
        return False


def _size(top: Path) -> int:
    """What the files below take on the disk, and would leave free; what has another name beside stays there."""
    total = 0
    for base, _, files in os.walk(top):
        for name in files:
            try:
                found = os.lstat(f"{base}/{name}")
                total += found.st_blocks * 512 if found.st_nlink == 1 else 0
            except FileNotFoundError as error:
                raise HostLacks(f"{top} changes while it is looked at", hint="See who writes there.") from error
    return total
