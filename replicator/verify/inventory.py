"""What a store lists, object by object, and what it means by names alone.

Owns one listing of a whole repository in one store. Believes nothing: whoever uses an object verifies it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from replicator.core.coverage import Coverage
from replicator.core.snapshot import Snapshot
from replicator.repository.catalog import ranges_of
from replicator.repository.layout import (
    ROOT,
    BeginName,
    HistoryName,
    ManifestName,
    Name,
    NoteName,
    PackName,
    PieceName,
    RangeName,
    RecordName,
    SummaryName,
    WalName,
    parse_key_name,
    parse_name,
    parse_recipient_name,
    parse_writer_name,
)
from replicator.repository.removals import key_subject, parse_removal_name, recipient_subject, writer_subject
from replicator.store.protocol import ObjectInfo, ReadableStore

Group = Literal[
    "root", "history", "wal", "pieces", "packs", "begins", "snapshots", "notes", "records", "ranges", "unknown"
]
#: In which order objects are put when a store is repaired: what others stand on comes first.
ORDER: tuple[Group, ...] = (
    "root", "history", "wal", "pieces", "packs", "snapshots", "begins", "notes", "records", "ranges", "unknown",
)  # fmt: skip
_GROUPS: dict[type, Group] = {
    HistoryName: "history",
    WalName: "wal",
    PieceName: "pieces",
    PackName: "packs",
    BeginName: "begins",
    ManifestName: "snapshots",
    NoteName: "notes",
    RecordName: "records",
    RangeName: "ranges",
    SummaryName: "ranges",
}


def group_of(name: str) -> Group:
    """What kind of object a name says it is."""
    if name == ROOT or parse_removal_name(name) is not None or _subjects(name):
        return "root"
    place = parse_name(name)
    return "unknown" if place is None else _GROUPS[type(place)]


def _subjects(name: str) -> Set[str]:
    """What a removal would have to name for this document of the root's to count no more; empty for other names."""
    key_id, recipient, writer_id = parse_key_name(name), parse_recipient_name(name), parse_writer_name(name)
    if recipient is not None:
        return {key_subject(recipient[0]), recipient_subject(recipient[1])}
    if key_id is not None:
        return {key_subject(key_id)}
    return {writer_subject(writer_id)} if writer_id is not None else frozenset()


def is_removed(name: str, removed: Set[str]) -> bool:
    """Whether the root said that this document counts no more."""
    return bool(_subjects(name) & removed)


@dataclass(frozen=True)
class Inventory:
    """One store's listing, ascending by name. Memory: a few hundred bytes per object."""

    store: str
    objects: Mapping[str, ObjectInfo]

    @property
    def known(self) -> tuple[str, ...]:
        """Names that mean something, ascending."""
        return tuple(name for name in self.objects if group_of(name) != "unknown")

    def places(self) -> Mapping[str, Name]:
        """What the names within system ids say."""
        places = {name: parse_name(name) for name in self.objects}
        return {name: place for name, place in places.items() if place is not None}


@dataclass(frozen=True)
class Holdings:
    """What an inventory says of one system id: snapshots, and WAL by timeline."""

    system_id: int
    snapshots: tuple[Snapshot, ...]
    timelines: tuple[int, ...]
    coverage: Coverage


def take_inventory(store: ReadableStore) -> Inventory:
    """List everything. Raises StoreUnavailable."""
    return Inventory(store.name, {info.name: info for info in store.list("")})


def holdings_of(names: Mapping[str, Name], segment_sizes: Mapping[int, int]) -> tuple[Holdings, ...]:
    """Of every system id that is named, given its segment size (0 or absent: its WAL counts for nothing)."""
    found = []
    for system_id in sorted({system_of(place) for place in names.values()}):
        own = {name: place for name, place in names.items() if system_of(place) == system_id}
        wal: dict[str, tuple[str, ...]] = {}
        pieces: dict[str, tuple[PieceName, ...]] = {}
        for name, place in own.items():
            if isinstance(place, WalName):
                wal[place.segment] = (*wal.get(place.segment, ()), name)
            elif isinstance(place, PieceName):
                pieces[place.segment] = (*pieces.get(place.segment, ()), place)
        size = segment_sizes.get(system_id, 0)
        found.append(
            Holdings(
                system_id,
                tuple(sorted(place.snapshot for place in own.values() if isinstance(place, ManifestName))),
                tuple(sorted(place.timeline for place in own.values() if isinstance(place, HistoryName))),
                Coverage.of(ranges_of(wal, pieces, size) if size else ()),
            )
        )
    return tuple(found)


def system_of(place: Name) -> int:
    """The system id that a place lies in."""
    return place.snapshot.system_id if isinstance(place, ManifestName) else place.system_id


def modified_us(info: ObjectInfo) -> int:
    """When the store says an object was put, in microseconds."""
    return int(info.modified.timestamp() * 1_000_000)


def older_than(info: ObjectInfo, now: datetime, seconds: float) -> bool:
    """Whether an object has been there for longer than that."""
    return (now - info.modified).total_seconds() > seconds
