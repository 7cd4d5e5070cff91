"""Lists a directory tree in the bytewise order of whole names, one directory in memory at a time."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from replicator.store.names import OddNames, validate_prefix
from replicator.store.protocol import ObjectInfo


def walk(root: Path, prefix: str, after: str, odd: OddNames) -> Iterator[ObjectInfo]:
    """Every regular file below `root` whose name begins with `prefix` and sorts after `after`. Hidden entries are left
    out, symbolic links too. What vanishes meanwhile is left out. Raises OSError.
    """
    folder = validate_prefix(prefix).rpartition("/")[0]
    yield from _walk(root, f"{folder}/" if folder else "", prefix, after, odd)


def _walk(root: Path, base: str, prefix: str, after: str, odd: OddNames) -> Iterator[ObjectInfo]:
    for name in _entries(root / base, base):
        if not name.startswith(prefix):
            continue
        if name.endswith("/"):
            # A whole directory lies before `after` when `after` is behind every name that begins with it.
            if name >= after[: len(name)] and not odd.skip(name[:-1]):
                yield from _walk(root, name, prefix, after, odd)
        elif name > after and not odd.skip(name):
            info = _info(root, name)
            if info is not None:
                yield info


def _entries(directory: Path, base: str) -> list[str]:
    """Full names, those of directories with a slash: so they sort as the names below them do."""
    names: list[str] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(f"{base}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    names.append(f"{base}{entry.name}")
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if base:
            return []  # a file bears the name of the prefix's folder: nothing lies below it
        raise
    names.sort()
    return names


def _info(root: Path, name: str) -> ObjectInfo | None:
    try:
        found = os.lstat(f"{root}/{name}")
    except FileNotFoundError:
        return None
    if not modes.S_ISREG(found.st_mode):
        return None
    return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
