"""Going on where takes of this host died: what they knew, and which of their packs are durable in every store.

Owns which of them may be gone on from: only those of the same system, parent, comparison key, repository key and
writer, to whose labels something was put within twelve hours by each store's clock; later, prune may have let go of
them. A pack counts when each store lists it and its table is signed; what lies elsewhere, or was not looked at before
half of a store's time was over, is stored again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, ObjectAbsent
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId, PackName, manifest_name, pack_name, packs_prefix, parse_name
from replicator.repository.objects import read_table
from replicator.seal.keyring import Keyring
from replicator.snapshot.begin import Begun
from replicator.snapshot.index import IndexWriter, delete_index
from replicator.snapshot.overlay import lay_over
from replicator.snapshot.parentindex import Known, ParentFile, ParentIndex, pass_over
from replicator.snapshot.participants import Participants
from replicator.store.protocol import ReadableStore, Store
from replicator.tolerance import Deadline

#: A label to which nothing was put for so long is not gone on from: half of what prune waits for.
FRESH = timedelta(hours=12)
#: The most takes that died which are gone on from at once.
_MOST = 4
_WORKERS = 8
#: Holds the table of a pack: 40 bytes a frame.
_TAIL = 8192


def bound_to(keyring: Keyring, system_id: int, parent: Snapshot | None) -> bytes:
    """What a take and the one that goes on from it must have in common, the comparison key aside."""
    value = {
        "key": keyring.current.hex(),
        "parent": manifest_name(parent) if parent is not None else None,
        "repository": keyring.repository_id.hex(),
        "system": system_id,
        "writer": keyring.writer.id.hex() if keyring.writer is not None else None,
    }
    return json.dumps(value, sort_keys=True).encode("ascii")


@dataclass(frozen=True)
class _Died:
    path: Path
    index: ParentIndex
    label: str
    #: Labels that it went on from itself.
    earlier: tuple[str, ...]


class Leftovers:
    """What takes that died left in `directory`, the newest first. `confirm` before any of it is used."""

    def __init__(self, directory: Path, bound: bytes) -> None:
        self._bound = bound
        self._died: list[_Died] = []
        self._durable: dict[PackId, tuple[int, int]] = {}
        for path in sorted(directory.glob("taking-????????.sqlite"), key=_modified, reverse=True):
            found = _open(path, bound) if len(self._died) < _MOST else None
            if found is not None and found.index.key == (self._died[0].index.key if self._died else found.index.key):
                self._died.append(found)
            elif found is not None:
                found.index.close()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels under which their packs lie, ascending: a mark must name them."""
        return tuple(sorted({label for died in self._died for label in (died.label, *died.earlier)}))

    @property
    def paths(self) -> frozenset[Path]:
        """Their files."""
        return frozenset(died.path for died in self._died)

    @property
    def key(self) -> bytes | None:
        """Their comparison key."""
        return self._died[0].index.key if self._died else None

    def confirm(self, participants: Participants, keyring: Keyring, begun: Begun, parent: ParentIndex | None) -> None:
        """Find out what of it every store has. `begun` is the mark that names `labels`, and no other take is alive.

        What is too old is deleted.
        """
        if parent is not None and self.key != parent.key:
            self.close()
        if not self._died:
            return

        def look(_: str, store: Store) -> tuple[set[str], set[PackId]]:
            now = store.stat(begun.name).modified
            fresh, listed = _listed(store, begun.system_id, self.labels, now)
            return fresh, _signed(store, keyring, begun.system_id, listed & recorded, limit)

        limit = participants.half_time()
        recorded = {pack for died in self._died for pack in died.index.packs() if pack.label in self.labels}
        answers = participants.each(look, what="looking at what a take left").values()
        fresh = set.intersection(*(labels for labels, _ in answers))
        held = set.intersection(*(packs for _, packs in answers))
        for died in list(self._died):
            if died.label not in fresh:
                self._died.remove(died)
                died.index.close()
                delete_index(died.path)
        for died in self._died:
            died.index.order()
            known = died.index.packs()
            mine = {died.label, *died.earlier}
            self._durable.update({pack: known[pack] for pack in known if pack in held and pack.label in mine})

    def over(self, parent: ParentIndex | None) -> ParentIndex | None:
        """The parent's memory with theirs above it."""
        return _Resumed(self._died, self._durable, parent) if self._durable else parent

    def carry(self, index: IndexWriter, label: str) -> None:
        """Let a take's own memory say what a later one must know to go on from it."""
        index.remember("bound", self._bound)
        index.remember("label", label.encode("ascii"))
        index.remember("earlier", " ".join(self.labels).encode("ascii"))
        index.add_packs(self._durable)

    def delete(self) -> None:
        """Nobody needs them any more."""
        paths = self.paths
        self.close()
        for path in paths:
            with suppress(OSError):  # it is deleted when it is old
                delete_index(path)

    def close(self) -> None:
        """Close them; nothing of them is used."""
        for died in self._died:
            died.index.close()
        self._died, self._durable = [], {}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _open(path: Path, bound: bytes) -> _Died | None:
    index = ParentIndex.open(path, died=True)
    if index is None:
        return None
    label, earlier = index.recall("label"), index.recall("earlier")
    if index.recall("bound") == bound and label is not None and earlier is not None:
        return _Died(path, index, label.decode("ascii"), tuple(earlier.decode("ascii").split()))
    index.close()
    return None


def _listed(
    store: ReadableStore, system_id: int, labels: Iterable[str], now: datetime
) -> tuple[set[str], set[PackId]]:  # fmt: skip
    """The labels to which something was put lately, and the packs under all of them."""
    fresh: set[str] = set()
    packs: set[PackId] = set()
    for label in labels:
        for info in store.list(packs_prefix(system_id, label)):
            if now - info.modified < FRESH:
                fresh.add(label)
            place = parse_name(info.name)
            if isinstance(place, PackName):
                packs.add(place.pack)
    return fresh, packs


def _signed(
    store: ReadableStore, keyring: Keyring, system_id: int, packs: Iterable[PackId], limit: Deadline
) -> set[PackId]:  # fmt: skip
    """Those whose tables are signed and fit their sizes, as far as they were read in time: names are claims."""

    def holds(pack: PackId) -> bool:
        if limit.over:
            return False
        try:
            read_table(store, pack_name(system_id, pack), keyring, tail=_TAIL)
        except (ObjectAbsent, IntegrityError):
            return False
        return True

    wanted = sorted(packs)
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="snapshot-left") as pool:
        return {pack for pack, good in zip(wanted, pool.map(holds, wanted), strict=True) if good}


class _Resumed(ParentIndex):
    """The parent's memory, where there is one, with that of takes that died above it."""

    def __init__(self, died: Sequence[_Died], durable: Iterable[PackId], parent: ParentIndex | None) -> None:
        base = parent if parent is not None else died[0].index
        super().__init__(base.database, base.uri, base.manifest, base.key)
        self._died = died
        self._durable = frozenset(durable)
        self._labels = frozenset(label for one in died for label in (one.label, *one.earlier))
        self._parent = parent
        if parent is not None:
            self.passed_over = parent.passed_over

    def recall(self, name: str) -> bytes | None:
        """What the parent remembers."""
        return self._parent.recall(name) if self._parent is not None else None

    def file(self, path: str) -> ParentFile | None:
        """The parent's file, or one of which only takes that died know, with what they know of its chunks."""
        own = self._parent.file(path) if self._parent is not None else None
        entries = [(one.index, one.index.file(path)) for one in self._died]
        size = own.block_size if own is not None else next((file.block_size for _, file in entries if file), 0)
        size = size or next((size for one in self._died if (size := one.index.opened_size(path))), 0)
        if not size:
            return own
        above = [(index, file if file is not None and file.block_size == size else None) for index, file in entries]
        return _ResumedFile(self, path, size, own, above)

    def usable(self, pack: PackId) -> bool:
        """Whether a pack that a take that died refers to may be referred to."""
        return pack in self._durable if pack.label in self._labels else pack not in self.passed_over


class _ResumedFile(ParentFile):
    """A file of the parent, or of none, with what takes that died know of it."""

    def __init__(
        self, index: _Resumed, path: str, block_size: int, own: ParentFile | None,
        above: Sequence[tuple[ParentIndex, ParentFile | None]],
    ) -> None:  # fmt: skip
        super().__init__(index, path, own.row if own is not None else None)
        self._size = block_size
        self._resumed = index
        self._own = own
        self._above = above

    @property
    def block_size(self) -> int:
        """The size of its blocks in bytes."""
        return self._size

    def chunk(self, number: int) -> Known | None:
        """The parent's, with the places that takes that died give to its blocks, the newest's first."""
        known = self._own.chunk(number) if self._own is not None else None
        for index, file in reversed(self._above):
            found = self._of(index, file, number)
            if found is None:
                continue
            named, data, chunk = pass_over(*found, self._resumed.usable, self.block_size)
            if data and (known is None or known[2].blocks <= chunk.blocks):
                known = named, data, chunk
            else:
                below = known[2] if known is not None else None
                known = b"", b"", lay_over(found[2], below, self._resumed.usable, self.block_size)
        return known

    def sound(self, number: int) -> bytes:
        """The parent's: a take that died told nobody of the pages that it found wrong."""
        return self._own.sound(number) if self._own is not None else b""

    def _of(self, index: ParentIndex, file: ParentFile | None, number: int) -> Known | None:
        if file is not None:
            return file.chunk(number)
        opened = index.opened(self.path, number)
        if opened is None or opened[0] != self.block_size:
            return None
        try:
            return b"", b"", MapChunk.parse(opened[1])
        except IntegrityError:  # a cache that doesn't fit is no cache
            return None


__all__ = ["FRESH", "Leftovers", "bound_to"]
