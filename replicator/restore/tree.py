"""The data directory being written: where each path of a manifest goes, and the finishing touches.

Owns path safety: a manifest's path never leaves the directory or its mapped tablespaces, and is never written through
a symbolic link. As root it trusts nobody on the way: each directory is opened once, is root's alone until all in it is
given away, and is reached through that handle, so that who may rename its parent can not turn our writes elsewhere.
Owns the last step too: pg_control gets its name after everything else is durable.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from replicator.errors import AlreadyExists, HostLacks, IntegrityError, UsageError
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry

CONTROL = "global/pg_control"
_CONTROL_PART = "global/.pg_control.part"
_BATCH = 1024
_OID = re.compile(r"[0-9]{1,10}\Z")
_BY_HANDLE = re.compile(r"(/proc/self/fd/\d+)")


class Tree:
    """`root` and the directories of its tablespaces by OID; both absent or empty before `create`."""

    def __init__(self, root: Path, tablespaces: Mapping[int, Path]) -> None:
        self.root = root
        self.tablespaces = dict(tablespaces)
        self._handles: dict[Path, int] = {}
        self._known: set[Path] = set()
        self._links: dict[str, str] = {}

    def check_empty(self) -> None:
        """Raise AlreadyExists when something is there, UsageError when it is no directory."""
        for path in (self.root, *self.tablespaces.values()):
            if not os.path.lexists(path):
                continue
            if not path.is_dir() or path.is_symlink():
                raise UsageError(f"{path} is not a directory", hint="Name a directory that is empty or not there yet.")
            if next(path.iterdir(), None) is not None:
                raise _not_empty(path)

    def create(self) -> None:
        """Make the directories. Raises HostLacks, AlreadyExists when one was filled meanwhile."""
        with host_errors(self.root):
            for path in (self.root, *self.tablespaces.values()):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle = self._handles[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                if os.geteuid() == 0:
                    os.fchown(handle, 0, 0)
                os.fchmod(handle, 0o700)
                if os.listdir(handle):  # noqa: PTH208 of the handle
                    raise _not_empty(path)
                self._known.add(self.inside(path))

    def inside(self, path: Path | None = None) -> Path:
        """Where the directory (or one of the tablespaces') is written: by its handle where the system can do that."""
        path = self.root if path is None else path
        by_handle = Path(f"/proc/self/fd/{self._handles.get(path, -1)}")
        return by_handle if by_handle.exists() else path

    def __enter__(self) -> Tree:
        """Hold the directories that `create` makes until left."""
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            os.close(self._handles.popitem()[1])

    def add_directory(self, entry: DirectoryEntry) -> None:
        """A directory with its mode. Raises IntegrityError, HostLacks."""
        with host_errors(self.root):
            path = self.inside() if entry.path in ("", ".") else self._place(entry.path)
            self._make(path)
            path.chmod(0o750 if entry.mode & 0o050 else 0o700)

    def add_link(self, entry: LinkEntry) -> None:
        """A symbolic link, made at the end; those of tablespaces go to the mapped directories."""
        self._place(entry.path)
        self._links[entry.path] = entry.target

    def add_file(self, entry: FileEntry) -> Path:
        """An empty file of the full size: what is not written stays a hole. Raises IntegrityError, HostLacks."""
        with host_errors(self.root):
            path = self._place(_CONTROL_PART if entry.path == CONTROL else entry.path)
            self._make(path.parent)
            mode = 0o640 if entry.mode & 0o040 else 0o600
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            except FileExistsError as error:
                raise IntegrityError(f"the manifest names {entry.path} twice") from error
            try:
                os.fchmod(handle, mode)
                os.ftruncate(handle, entry.size)
            finally:
                os.close(handle)
        return path

    def _place(self, path: str) -> Path:
        parts = path.split("/")
        if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise IntegrityError(f"the manifest holds the path {path!r}, which no data directory has")
        if any("/".join(parts[:count]) in self._links for count in range(1, len(parts))):
            raise IntegrityError(f"the manifest puts {path!r} below a symbolic link")
        if len(parts) > 1 and parts[0] == "pg_tblspc" and _OID.match(parts[1]) and int(parts[1]) in self.tablespaces:
            return self.inside(self.tablespaces[int(parts[1])]).joinpath(*parts[2:])
        return self.inside().joinpath(*parts)

    def _make(self, path: Path) -> None:
        """The directory and those above it, none of them a link of ours or of anybody."""
        if path in self._known:
            return
        self._make(path.parent)
        path.mkdir(mode=0o700, exist_ok=False)
        self._known.add(path)

    def finish_links(self) -> None:
        """Make the symbolic links, tablespaces last. Raises HostLacks."""
        with host_errors(self.root):
            for path, target in self._links.items():
                parts = path.split("/")
                if not (len(parts) == 2 and parts[0] == "pg_tblspc" and _OID.match(parts[1])):
                    self._make(self._place(path).parent)
                    self._place(path).symlink_to(target)
            for oid, directory in self.tablespaces.items():
                self._make(self.inside() / "pg_tblspc")
                (self.inside() / "pg_tblspc" / str(oid)).symlink_to(directory)

    def make_durable(self, owner: str | None, workers: int) -> None:
        """Give everything to `owner` and fsync it: files, then directories, last those that keep others out. Raises
        HostLacks.
        """
        ids = owner_ids(owner) if owner is not None else None
        with host_errors(self.root), ThreadPoolExecutor(workers) as pool:
            for kind in (False, True):
                paths = self._walk(directories=kind)
                while batch := list(islice(paths, _BATCH)):
                    for _ in pool.map(lambda path: _settle(path, ids), batch):
                        pass
            for handle in self._handles.values():
                if ids is not None:
                    os.fchown(handle, *ids)
                os.fsync(handle)

    def _walk(self, *, directories: bool) -> Iterator[Path]:
        for top in map(self.inside, (self.root, *self.tablespaces.values())):
            for base, names, files in os.walk(top):
                yield from (Path(base, name) for name in (names if directories else files))

    def publish_control(self) -> None:
        """Give pg_control its name: from here on the directory can start. Raises HostLacks, IntegrityError."""
        part, control = self.inside() / _CONTROL_PART, self.inside() / CONTROL
        if not part.exists():
            raise IntegrityError("the snapshot holds no global/pg_control")
        with host_errors(self.root):
            part.rename(control)
            _settle(control.parent, None)


def _not_empty(path: Path) -> AlreadyExists:
    return AlreadyExists(
        f"{path}: directory is not empty",
        hint="Restore into an empty directory, or empty this one if an earlier restore was cut off.",
    )


def _settle(path: Path, ids: tuple[int, int] | None) -> None:
    if ids is not None:
        os.chown(path, *ids, follow_symlinks=False)
    if path.is_symlink():
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

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            place = _said(os.fspath(error.filename or self._path))
            reason = (error.strerror or "unknown reason").lower()
            raise HostLacks(
                f"{place} can not be written: {reason}",
                hint="Make room or give the rights, empty the directory, and restore again.",
            ) from error


def _said(place: str | bytes | int) -> str:
    """A path as people know it, for one that was reached by a handle of ours."""
    text = os.fsdecode(place) if not isinstance(place, int) else f"/proc/self/fd/{place}"
    match = _BY_HANDLE.match(text)
    return str(Path(match[1]).readlink()) + text[match.end() :] if match and os.path.lexists(match[1]) else text
