"""What of a data directory belongs into a base backup, file by file, as PostgreSQL's own basebackup.c chooses.

Owns the list of what is left out. Reads names and sizes only, and follows no link but those of tablespaces. A file or
directory that vanishes meanwhile is left out: it was dropped after the backup began, and the WAL tells the rest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import HostLacks

CONTROL_FILE = "global/pg_control"
#: Directories whose contents are left out; they themselves stay.
EMPTIED = frozenset(
    {"pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
)
#: Left out wherever they are.
_LEFT_OUT = frozenset(
    {
        "backup_label", "backup_label.old", "backup_manifest", "current_logfiles.tmp", "postgresql.auto.conf.tmp",
        "postmaster.opts", "postmaster.pid", "tablespace_map", "tablespace_map.old",
    }
)  # fmt: skip
_LEFT_OUT_BEGINNINGS = ("pgsql_tmp", "pg_internal.init")
_FORK = r"(?:_(fsm|vm|init))?"
_RELATION = re.compile(rf"(\d+){_FORK}(?:\.(\d+))?\Z")
_TEMPORARY = re.compile(rf"t\d+_\d+{_FORK}(?:\.\d+)?\Z")
_DATABASE = re.compile(r"(?:base|pg_tblspc/\d+/[^/]+)/\d+\Z")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file. `segment` is the number of a relation's segment, None for a file that has no pages. Size, times
    and inode are those of the moment it was found.
    """

    path: str
    size: int
    mode: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    segment: int | None


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """A directory; it comes before what is in it."""

    path: str
    mode: int


@dataclass(frozen=True, slots=True)
class FoundSpace:
    """A tablespace in pg_tblspc: where its link leads, None for one inside the data directory."""

    oid: int
    location: str | None


def tablespaces(root: Path) -> tuple[FoundSpace, ...]:
    """The tablespaces that there are now, by oid. Raises HostLacks."""
    found: list[FoundSpace] = []
    for name in _names(root / "pg_tblspc"):
        path = root / "pg_tblspc" / name
        if name.isascii() and name.isdigit():
            try:
                found.append(FoundSpace(int(name), str(path.readlink()) if path.is_symlink() else None))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable(path, error) from error
    return tuple(sorted(found, key=lambda space: space.oid))


def walk(root: Path, spaces: tuple[FoundSpace, ...], version: str) -> Iterator[FoundFile | FoundDirectory]:
    """All that is kept, in the order of names, the tablespaces given last; never global/pg_control. `version` is the
    directory that the server uses in each tablespace. Raises HostLacks for what can't be read.
    """
    apart = _within(root, spaces)
    for name in _names(root):
        found = _look(root, name)
        if found is None or _left_out(name):
            continue
        if name == "pg_wal":  # perhaps a link, always a directory in a backup
            yield from _emptied_wal(root, found)
        elif name in EMPTIED or name == "pg_tblspc":
            yield FoundDirectory(name, _mode(found) if stat.S_ISDIR(found.st_mode) else 0o700)
        elif stat.S_ISDIR(found.st_mode):
            yield from _directory(root, name, found, apart)
        elif stat.S_ISREG(found.st_mode):
            yield _file(name, found, None)
    for space in spaces:
        path = f"pg_tblspc/{space.oid}"
        found = _look(root, path) if space.location is None else None
        if found is not None:
            yield FoundDirectory(path, _mode(found))
        found = _look(root, f"{path}/{version}")
        if found is not None:
            yield from _directory(root, f"{path}/{version}", found)


def _within(root: Path, spaces: tuple[FoundSpace, ...]) -> frozenset[str]:
    """The directories of linked tablespaces that lie below the data directory all the same: read as tablespaces."""
    top = root.resolve()
    places = (Path(space.location).resolve() for space in spaces if space.location is not None)
    return frozenset(str(place.relative_to(top)) for place in places if top in place.parents)


def _emptied_wal(root: Path, found: os.stat_result) -> Iterator[FoundDirectory]:
    yield FoundDirectory("pg_wal", _mode(found) if stat.S_ISDIR(found.st_mode) else 0o700)
    for name in ("archive_status", "summaries"):
        inner = _look(root, f"pg_wal/{name}")
        if inner is not None:
            yield FoundDirectory(f"pg_wal/{name}", _mode(inner))


def _directory(
    root: Path, path: str, found: os.stat_result, apart: frozenset[str] = frozenset()
) -> Iterator[FoundFile | FoundDirectory]:  # fmt: skip
    """A directory and what is in it, but for directories `apart`. Links and special files are left out, as the server
    leaves them out.
    """
    yield FoundDirectory(path, _mode(found))
    if path in apart:
        return
    names = _names(root / path)
    has_relations = path == "global" or _DATABASE.match(path) is not None
    unlogged = {match[1] for name in names if "_init" in name and (match := _RELATION.match(name))}
    for name in names:
        inner = f"{path}/{name}"
        if _left_out(name) or inner == CONTROL_FILE:
            continue
        relation = _RELATION.match(name) if has_relations else None
        if relation is None:
            if has_relations and _TEMPORARY.match(name):
                continue
        elif relation[1] in unlogged and relation[2] != "init":
            continue
        status = _look(root, inner)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _directory(root, inner, status, apart)
        elif stat.S_ISREG(status.st_mode):
            yield _file(inner, status, int(relation[3] or 0) if relation else None)


def _left_out(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(_LEFT_OUT_BEGINNINGS)


def _file(path: str, found: os.stat_result, segment: int | None) -> FoundFile:
    return FoundFile(
        path, found.st_size, _mode(found), found.st_mtime_ns, found.st_ctime_ns, found.st_ino, segment
    )  # fmt: skip


def _mode(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)


def _look(root: Path, path: str) -> os.stat_result | None:
    full = f"{root}/{path}"
    try:
        return os.lstat(full)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(Path(full), error) from error


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208  # names only, without an object for each
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(directory, error) from error


def unreadable(path: Path, error: OSError) -> HostLacks:
    """The error for what this process may not read, or the disk does not give."""
    return HostLacks(
        f"{path} can not be read: {(error.strerror or 'unknown reason').lower()}",
        hint="Run the daemon as the server's user, or take `data_directory` out of the policy's [source].",
    )
