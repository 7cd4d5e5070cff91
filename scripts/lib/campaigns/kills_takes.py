"""Takes that the campaign of kills starts, and what one that was killed left behind. Owns no kill and no verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.repository.catalog import list_snapshots, system_ids
from replicator.repository.layout import PackId, PackName, pack_name, packs_prefix, parse_name
from replicator.repository.manifests import read_summary
from replicator.repository.repository import Repository
from tests.e2e.site import COMMAND

_PACKS = Path(__file__).with_name("kills_packs.py")


@dataclass(frozen=True)
class Told:
    """How a take ended: its result, None when it failed, and whether it read the directory beside the server."""

    result: dict[str, Any] | None
    beside: bool
    text: str


def take_line(policies: Path, *, full: bool, many: bool) -> list[str]:
    """The verb, or the same with `many` small packs."""
    options = ["--full"] if full else []
    if many:
        return [sys.executable, str(_PACKS), str(policies), *options]
    return [*COMMAND, "snapshot", "take", "frk", *options, "--progress", "json", "--policies", str(policies)]


def told_by(line: list[str], timeout: float) -> Told:
    """Run a take to its end."""
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    events = []
    for text in done.stdout.splitlines():
        with suppress(ValueError):
            events.append(json.loads(text))
    beside = any(event.get("phase") == "source" for event in events)
    result = next((event["result"] for event in events if event["event"] == "result"), None)
    well = done.returncode == 0 and "Traceback" not in done.stderr
    return Told(result if well else None, beside, f"{done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def left_over(repository: Repository, names: Iterable[str]) -> dict[PackId, int]:
    """The packs that all these stores have and no snapshot of any of them names, with their bytes."""
    held: list[dict[PackId, int]] = []
    named: set[PackId] = set()
    for name in names:
        store = repository.store(name)
        packs: dict[PackId, int] = {}
        for system in system_ids(store):
            for snapshot in list_snapshots(store, system):
                named |= set(read_summary(store, snapshot, repository.keyring).packs)
            for info in store.list(packs_prefix(system)):
                place = parse_name(info.name)
                if isinstance(place, PackName):
                    packs[place.pack] = info.size
        held.append(packs)
    return {pack: size for pack, size in held[0].items() if all(pack in one for one in held) and pack not in named}


def packs_of(repository: Repository, store: str, label: str) -> frozenset[PackId]:
    """The packs that a snapshot of a store needs."""
    found = repository.store(store)
    (snapshot,) = (one for system in system_ids(found) for one in list_snapshots(found, system) if one.label == label)
    return frozenset(read_summary(found, snapshot, repository.keyring).packs)


def files_of(store: Path) -> int:
    """The packs that lie in the directory of a store, marks of takes included."""
    return sum(1 for _ in store.glob("*/packs/*/*"))


def lacking(repository: Repository, names: Iterable[str]) -> list[str]:
    """The snapshots of each store whose packs are not all there, in words."""
    found = []
    for name in names:
        store = repository.store(name)
        for system in system_ids(store):
            snapshots = list_snapshots(store, system)  # before the packs: those of a manifest are older than it
            held = {info.name for info in store.list(packs_prefix(system))}
            for snapshot in snapshots:
                needed = {pack_name(system, pack) for pack in read_summary(store, snapshot, repository.keyring).packs}
                if absent := sorted(needed - held):
                    found.append(f"{name}: {snapshot.label} lacks {absent}")
    return found
