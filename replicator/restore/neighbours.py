"""Servers of the same cluster that run on this host: what a recovery here would write of theirs.

WAL tells of a CREATE TABLESPACE by the absolute path that the source gave it, and a recovery links that very directory
(manual of PostgreSQL 15, 26.3.7). Beside the source both servers would then write the same files. Owns the refusal,
as far as this user may look into other processes. Never touches what it finds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from replicator.errors import Conflict
from replicator.postgres.datadir import CONTROL_FILE
from replicator.restore.tree import said

_SYSTEM_ID_BYTES = 8


def check_tablespaces(system_id: int, known: Collection[int], until_us: int | None) -> None:
    """Raise Conflict when a server of this system runs here with a tablespace outside its data directory that the
    snapshot does not know and that was there at `until_us`, where the recovery ends (Unix microseconds; None: at its
    WAL's end).
    """
    for root in sorted(_data_directories()):
        if _system_of(root) != system_id:
            continue
        for oid, made_us, location in _tablespaces(root):
            if oid not in known and (until_us is None or made_us <= until_us):
                raise Conflict(
                    f"the server in {said(str(root))} uses tablespace {oid} at {said(location)}, made after the "
                    "snapshot: the recovery would write the same files",
                    hint="Take a snapshot first and restore from that, restore on another host, or give --to-time with "
                    "a moment before it was made.",
                )


def _data_directories() -> set[Path]:
    """Where servers of this host work, as far as this user may know."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text("utf-8", "replace").strip()
            if "postgres" in name or name == "postmaster":
                found.add((process / "cwd").readlink())
        except OSError:
            continue  # it has ended, or is none of ours to look at
    return found


def _system_of(root: Path) -> int | None:
    """pg_control begins with the system identifier, in every version."""
    try:
        with (root / CONTROL_FILE).open("rb") as file:
            return int.from_bytes(file.read(_SYSTEM_ID_BYTES), "little")
    except OSError:
        return None


def _tablespaces(root: Path) -> Iterator[tuple[int, int, str]]:
    """Those outside the data directory: number, when its link was made (Unix microseconds), location."""
    try:
        links = [path for path in (root / "pg_tblspc").iterdir() if path.name.isdigit() and path.is_symlink()]
    except OSError:
        return
    for link in links:
        try:
            yield int(link.name), link.lstat().st_mtime_ns // 1000, str(link.readlink())
        except FileNotFoundError:
            continue  # it was dropped just now
