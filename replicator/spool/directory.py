"""A cluster's spool directory, which has one part per system id: which there are, and the end of one.

Owns no file of a part: those are the Spool's.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from replicator.spool.files import translated
from replicator.spool.walfiles import SegmentSizeFile

_GONE = ".gone"
_SYSTEM_ID = re.compile(r"[1-9]\d{0,19}\Z")


def spooled_system_ids(directory: Path) -> tuple[int, ...]:
    """The system ids that a cluster's spool `directory` holds something of, and whose segment size is known; the one
    that a segment was begun or let go of last at the end. Raises HostLacks.
    """
    with translated(directory):
        found = [path for path in directory.glob("*") if _SYSTEM_ID.match(path.name) and path.is_dir()]
        known = [path for path in found if SegmentSizeFile(path).read()]
        used = {path: max(at.stat().st_mtime for at in (path, path / "wal") if at.exists()) for path in known}
    return tuple(int(path.name) for path in sorted(used, key=lambda path: (used[path], path.name)))


def remove_spool(directory: Path, system_id: int) -> None:
    """Remove what a cluster's spool `directory` holds of one system id; nobody may use it. All of it is gone at once:
    who dies in between leaves no spool with holes, and what is left goes the next time. Raises HostLacks.
    """
    with translated(directory):
        (directory / str(system_id)).rename(directory / f"{system_id}{_GONE}")
        for gone in directory.glob(f"*{_GONE}"):
            shutil.rmtree(gone)
