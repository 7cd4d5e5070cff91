"""The data directory being written: where each path of a manifest goes, and the finishing touches.

Owns path safety: a manifest's path never leaves the directory or its mapped tablespaces, and is never written through
a symbolic link. As root it trusts nobody on the way: each directory is opened once, is root's alone until all in it is
given away, and is reached through that handle, so that who may rename its parent can not turn our writes elsewhere.
Owns the last step too: pg_control gets its name after everything else is durable.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from replicator.errors import AlreadyExists, Conflict, HostLacks, IntegrityError, UsageError
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry
from replicator.restore.durable import can_sync_at_once, on_one_file_system, sync_at_once

CONTROL = "global/pg_control"
#: pg_control until everything else is durable. Its first eight bytes, the system identifier, are there from the
#: beginning: they tell `--delta` whose aborted restore this is.
CONTROL_PART = "global/.pg_control.part"
_BATCH = 1024
_OID = re.compile(r"[0-9]{1,10}\Z")
_BY_HANDLE = re.compile(r"(/proc/self/fd/\d+)")


class Tree:
    """`root` and the directories of its tablespaces by OID; both absent or empty before `create`. `owner`: who gets the
    files as they are made; `make_durable` gives away the rest.
    """

    def __init__(self, root: Path, tablespaces: Mapping[int, Path], owner: str | None = None) -> None:
        self.root = root
        self.tablespaces = dict(tablespaces)
        self.ids = owner_ids(owner) if owner is not None else None
        self.handles: dict[Path, int] = {}
        self._locks: list[int] = []
        self._before: dict[Path, os.stat_result] = {}
        self.known: set[str] = set()
        self._parents: dict[str, str] = {}
        self._links: dict[str, str] = {}

    def check_empty(self) -> None:
        """Raise AlreadyExists when something is there, UsageError when it is no directory."""
        for path in (self.root, *self.tablespaces.values()):
            check_directory(path)
            if os.path.lexists(path) and next(path.iterdir(), None) is not None:
                raise not_empty(path)

    def create(self, system_id: int | None = None) -> None:
        """Make the directories. With the cluster's system identifier an aborted restore can be told from any other
        directory. Raises HostLacks, AlreadyExists when one was filled meanwhile.
        """
        with host_errors(self.root):
            for path in (self.root, *self.tablespaces.values()):
                if os.listdir(self.hold(path)):  # noqa: PTH208 of the handle
                    raise not_empty(path)
            if system_id is not None:
                self._mark(system_id)
                self.link_tablespaces()

    def hold(self, path: Path) -> int:
        """The handle of the data directory or a tablespace's, made when it is not there, and nobody else's from now.
        Raises Conflict while another restore holds it.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = self.handles[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        # By a descriptor of its own: a child that has the handle must not keep the lock when the restore is killed.
        self._locks.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle))
        try:
            fcntl.flock(self._locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another restore works in {path}", hint="Wait for it, or end it.") from None
        self._before[path] = os.fstat(handle)
        if os.geteuid() == 0:
            os.fchown(handle, 0, 0)
        os.fchmod(handle, 0o700)
        self.known.add(str(self.inside(path)))
        return handle

    def give_back(self, path: Path) -> None:
        """Owner and mode of a directory that is held, as they were: nothing in it was changed. Raises OSError."""
        found = self._before[path]
        if os.geteuid() == 0:
            os.fchown(self.handles[path], found.st_uid, found.st_gid)
        os.fchmod(self.handles[path], stat.S_IMODE(found.st_mode))

    def inside(self, path: Path | None = None) -> Path:
        """Where the directory (or one of the tablespaces') is written: by its handle where the system can do that."""
        path = self.root if path is None else path
        by_handle = Path(f"/proc/self/fd/{self.handles.get(path, -1)}")
        return by_handle if by_handle.exists() else path

    def __enter__(self) -> Tree:
        """Hold the directories that `create` makes until left."""
        return self

    def __exit__(self, *_: object) -> None:
        while self.handles:
            os.close(self.handles.popitem()[1])
        while self._locks:
            os.close(self._locks.pop())

    def add_directory(self, entry: DirectoryEntry) -> None:
        """A directory with its mode. Raises IntegrityError, HostLacks."""
        with host_errors(self.root):
            path = str(self.inside()) if entry.path in ("", ".") else self._place(entry.path)
            self._make(path)
            Path(path).chmod(0o750 if entry.mode & 0o050 else 0o700)

    def add_link(self, entry: LinkEntry) -> None:
        """A symbolic link, made at the end; those of tablespaces go to the mapped directories."""
        self._place(entry.path)
        self._links[entry.path] = entry.target
        self._parents.clear()

    def place_file(self, entry: FileEntry) -> str:
        """Where a file goes; the directory that it lies in is there then. Raises IntegrityError, HostLacks."""
        above, slash, name = entry.path.rpartition("/")
        parent = self._parents.get(above) if slash else None
        if parent is None or name in ("", ".", "..") or "\0" in name or entry.path == CONTROL:
            with host_errors(self.root):
                place = self._place(CONTROL_PART if entry.path == CONTROL else entry.path)
                parent = os.path.dirname(place)  # noqa: PTH120 for each file: a Path takes ten times as long
                self._make(parent)
                if slash and place == f"{parent}/{name}":
                    self._parents[above] = parent
                return place
        return f"{parent}/{name}"

    def _place(self, path: str) -> str:
        parts = path.split("/")
        if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise IntegrityError(f"the manifest holds the path {path!r}, which no data directory has")
        if any("/".join(parts[:count]) in self._links for count in range(1, len(parts))):
            raise IntegrityError(f"the manifest puts {path!r} below a symbolic link")
        if len(parts) > 1 and parts[0] == "pg_tblspc" and _OID.match(parts[1]) and int(parts[1]) in self.tablespaces:
            return "/".join([str(self.inside(self.tablespaces[int(parts[1])])), *parts[2:]])
        return "/".join([str(self.inside()), *parts])

    def _make(self, path: str) -> None:
        """The directory and those above it, none of them a link of ours or of anybody."""
        if path in self.known:
            return
        self._make(os.path.dirname(path))  # noqa: PTH120 as above
        Path(path).mkdir(mode=0o700, exist_ok=False)
        self.known.add(path)

    def _mark(self, system_id: int) -> None:
        """The beginning of pg_control under its temporary name."""
        place = self._place(CONTROL_PART)
        self._make(os.path.dirname(place))  # noqa: PTH120 as above
        with open(place, "xb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(system_id.to_bytes(8, sys.byteorder))
            file.flush()
            os.fsync(file.fileno())
        sync(os.path.dirname(place))  # noqa: PTH120 as above
        os.fsync(self.handles[self.root])

    def link_tablespaces(self) -> None:
        """The links in pg_tblspc, where they are not there yet."""
        for oid, directory in self.tablespaces.items():
            link = self.inside() / "pg_tblspc" / str(oid)
            self._make(str(link.parent))
            if not (link.is_symlink() and link.readlink() == directory):
                link.symlink_to(directory)

    def finish_links(self) -> None:
        """Make the symbolic links, tablespaces last. Raises HostLacks."""
        with host_errors(self.root):
            for path, target in self._links.items():
                parts = path.split("/")
                if not (len(parts) == 2 and parts[0] == "pg_tblspc" and _OID.match(parts[1])):
                    place = self._place(path)
                    self._make(os.path.dirname(place))  # noqa: PTH120 as above
                    Path(place).symlink_to(target)
            self.link_tablespaces()

    def make_durable(self, owner: str | None, workers: int) -> None:
        """Give everything to `owner` and make it durable: files, then directories from the innermost out, last those
        that keep others out. One call for a whole file system where that can be trusted. Raises HostLacks.
        """
        ids = owner_ids(owner) if owner is not None else None
        with host_errors(self.root), ThreadPoolExecutor(workers) as pool:
            at_once = {os.fstat(handle).st_dev: handle for handle in self.handles.values() if can_sync_at_once(handle)}
            for top, handle in self.handles.items():
                synced = os.fstat(handle).st_dev in at_once and on_one_file_system(str(self.inside(top)))
                for base, names, files in os.walk(self.inside(top), topdown=False):
                    # From the innermost out: who gets a directory back can no longer turn what we do in it elsewhere.
                    for path in _below(base, files):
                        _give(path, ids)
                    unsynced = iter(()) if synced else _below(base, files)
                    while batch := list(islice(unsynced, _BATCH)):
                        for _ in pool.map(sync, batch):
                            pass
                    for path in _below(base, names):
                        _give(path, ids)
                        if not synced:
                            sync(path)
            for handle in at_once.values():
                sync_at_once(handle)
            for handle in self.handles.values():
                if ids is not None:
                    os.fchown(handle, *ids)
                os.fsync(handle)

    def publish_control(self) -> None:
        """Give pg_control its name: from here on the directory can start. Raises HostLacks, IntegrityError."""
        part, control = self.inside() / CONTROL_PART, self.inside() / CONTROL
        if not part.exists():
            raise IntegrityError("the snapshot holds no global/pg_control")
        with host_errors(self.root):
            part.rename(control)
            sync(str(control.parent))


def check_directory(path: Path) -> None:
    """Raise UsageError for what is there and no directory."""
    if os.path.lexists(path) and (not path.is_dir() or path.is_symlink()):
        raise UsageError(f"{path} is not a directory", hint="Name a directory that is empty or not there yet.")


def not_empty(path: Path) -> AlreadyExists:
    """The refusal of a directory with something in it."""
    return AlreadyExists(
        f"{path}: directory is not empty",
        hint="Restore into an empty directory; with --delta into one of the same cluster, or of an aborted restore.",
    )


def _below(base: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{base}/{name}" for name in names)


def _give(path: str, ids: tuple[int, int] | None) -> None:
    if ids is None:
        return
    found = os.lstat(path)
    if (found.st_uid, found.st_gid) != ids:
        os.chown(path, *ids, follow_symlinks=False)


def sync(path: str) -> None:
    """Make a file or a directory durable; a link is its directory's. Raises OSError."""
    if os.path.islink(path):  # noqa: PTH114 for each file
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def owner_ids(owner: str) -> tuple[int, int]:
    """User and group id. Raises HostLacks when there is no such user, or we may not give files to it."""
    try:
        entry = pwd.getpwnam(owner)
    except KeyError:
        raise HostLacks(f"there is no user {owner} on this host", hint="Name an existing user with --owner.") from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise HostLacks(f"only root can give files to {owner}", hint=f"Run this as {owner} or as root.")
    return entry.pw_uid, entry.pw_gid


class host_errors:  # noqa: N801 reads as the verb it is in a with statement
    """A with statement that turns OSError into HostLacks naming the file, or `path`."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            place = said(os.fspath(error.filename or self._path))
            reason = (error.strerror or "unknown reason").lower()
            raise HostLacks(
                f"{place} can not be written: {reason}",
                hint="Make room or give the rights, and restore again with --delta, or into an empty directory.",
            ) from error


def said(place: str | bytes | int) -> str:
    """A path as people know it, for one that was reached by a handle of ours."""
    text = os.fsdecode(place) if not isinstance(place, int) else f"/proc/self/fd/{place}"
    match = _BY_HANDLE.match(text)
    return str(Path(match[1]).readlink()) + text[match.end() :] if match and os.path.lexists(match[1]) else text
