"""Tablespaces of a restored cluster: where each goes, and the tablespace_map that the server reads at its first start.

Owns the refusal to guess: a tablespace outside the data directory goes where the operator says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from replicator.errors import UsageError
from replicator.repository.manifests import SnapshotFacts

_MAP = "tablespace_map"


def check(facts: SnapshotFacts, given: Mapping[int, Path], into: Path) -> dict[int, Path]:
    """Where each tablespace goes; those within the data directory need no place. Raises UsageError."""
    outside = {int(space["oid"]): str(space["location"]) for space in facts.tablespaces if not space["in_place"]}
    for oid, location in outside.items():
        if oid not in given:
            raise UsageError(
                f"tablespace {oid} was at {location} and has no place here",
                hint=f"Add --tablespace {oid}=DIR with an empty directory.",
            )
    for oid in given:
        if oid not in outside:
            known = ", ".join(str(found) for found in sorted(outside)) or "none"
            raise UsageError(
                f"the snapshot has no tablespace {oid} outside its data directory",
                hint=f"Those it has: {known}.",
            )
    places = [into, *given.values()]
    for one in places:
        for other in places:
            if one is not other and other.resolve().is_relative_to(one.resolve()):
                raise UsageError(f"{other} lies within {one}", hint="Give each tablespace a directory of its own.")
    return dict(given)


def rewrite_map(root: Path, facts: SnapshotFacts, places: Mapping[int, Path]) -> None:
    """Correct tablespace_map: the server makes its links again from it. Unchanged locations leave it as it was."""
    path = root / _MAP
    moved = {
        int(space["oid"]): places[int(space["oid"])]
        for space in facts.tablespaces
        if int(space["oid"]) in places and str(places[int(space["oid"])]) != space["location"]
    }
    if not moved or not path.exists():
        return
    with open(path, "rb+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        lines = file.read().split(b"\n")
        file.seek(0)
        file.truncate()
        file.write(b"\n".join(_moved(line, moved) for line in lines))


def _moved(line: bytes, moved: Mapping[int, Path]) -> bytes:
    oid = line.split(b" ", 1)[0]
    if not oid.isdigit() or int(oid) not in moved:
        return line
    target = str(moved[int(oid)]).encode("utf-8", "surrogateescape")
    for character in (b"\\", b"\n", b"\r"):
        target = target.replace(character, b"\\" + character)
    return oid + b" " + target
