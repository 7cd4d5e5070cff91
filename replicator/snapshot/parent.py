"""Which snapshot a new one refers to: the newest that every store of this take holds whole and whose hashes we know.

Owns the choice and the reading of a parent's maps. A parent that can't be used costs a full snapshot and is reported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from replicator.core.finding import Finding
from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError, KeysError, ObjectAbsent, StoreUnavailable
from replicator.repository.layout import PackId, manifest_name, pack_name
from replicator.repository.manifests import FileEntry, ManifestReader, MapRef, read_summary
from replicator.repository.objects import StoredObject, open_object
from replicator.seal.keyring import Keyring
from replicator.snapshot.deadpacks import pass_over_dead
from replicator.snapshot.index import IndexWriter, ParentIndex
from replicator.snapshot.job import PARENT_UNUSABLE
from replicator.snapshot.participants import Participants
from replicator.snapshot.presence import missing_packs
from replicator.store.protocol import ReadableStore, Store

#: Snapshots looked at, from the newest back, before a full one is taken.
_CANDIDATES = 3
_FRAMES_KEPT = 4
_PACKS_KEPT = 8


@dataclass(frozen=True)
class Parent:
    """The snapshot referred to, its maps, and the plain and sealed bytes of its packs as far as they are known."""

    snapshot: Snapshot
    index: ParentIndex
    sizes: Mapping[PackId, tuple[int, int]]


def choose_parent(
    participants: Participants, held: Mapping[str, tuple[Snapshot, ...]], keyring: Keyring, index_path: Path,
    opening: Callable[[], Keyring],
) -> tuple[Snapshot | None, list[Finding]]:  # fmt: skip
    """The snapshot to refer to, None for a full one, and what the operator must know about those passed over.

    `held` are the snapshots by store. Reads names and signed tables only. `opening` gives the keyring that may open
    manifests; it is asked for where this host does not remember the snapshot.
    """
    findings: list[Finding] = []
    common = set.intersection(*(set(held[name]) for name in participants.active))
    for snapshot in sorted(common, reverse=True)[:_CANDIDATES]:
        name, store = next(iter(participants.active.items()))
        try:
            summary = read_summary(store, snapshot, keyring)
        except (IntegrityError, ObjectAbsent) as error:
            findings.append(_unusable(snapshot, name, error))
            continue
        except StoreUnavailable as error:
            participants.leave_out(name, error)
            return choose_parent(participants, held, keyring, index_path, opening)
        if summary.damaged or not (_remembers(index_path, snapshot) or opening().can_open):
            continue
        lacking = _lacking(participants, snapshot, summary.packs)
        if not lacking:
            return snapshot, findings
        findings += lacking
    return None, findings


def load_parent(
    participants: Participants, snapshot: Snapshot, keyring: Keyring, index_path: Path, opening: Callable[[], Keyring]
) -> tuple[Parent | None, list[Finding]]:
    """The parent's maps: this host's memory of it, else read from the first store that can give them.

    None, with findings, when none can. Packs that are mostly dead are passed over.
    """
    findings: list[Finding] = []
    index = _remembered(index_path, snapshot)
    for name, store in list(participants.active.items()) if index is None else ():
        try:
            read_into_index(store, snapshot, opening(), index_path)
            index = ParentIndex.open(index_path)
            break
        except (IntegrityError, ObjectAbsent, KeysError) as error:
            findings.append(_unusable(snapshot, name, error))
        except StoreUnavailable as error:
            participants.leave_out(name, error)
    if index is None:
        return None, findings
    return Parent(snapshot, index, pass_over_dead(index, participants.active, keyring, snapshot.system_id)), findings


def _remembers(path: Path, snapshot: Snapshot) -> bool:
    index = _remembered(path, snapshot)
    if index is not None:
        index.close()
    return index is not None


def _remembered(path: Path, snapshot: Snapshot) -> ParentIndex | None:
    index = ParentIndex.open(path)
    if index is not None and index.manifest != manifest_name(snapshot):
        index.close()
        return None
    return index


def _lacking(participants: Participants, snapshot: Snapshot, packs: tuple[PackId, ...]) -> list[Finding]:
    """What the stores lack of a snapshot that they have, and so have lost: packs come first and go last."""

    def lacks(_: str, store: Store) -> list[PackId]:
        return missing_packs(store, snapshot.system_id, packs)

    found = participants.each(lacks, what="looking for the parent's packs")
    return [
        Finding(
            PARENT_UNUSABLE,
            f"snapshot {snapshot.label} can not be a parent: the store lacks {len(missing)} of its {len(packs)} packs",
            "Nothing of it was referred to. Complete the store from another one with `replicator mirror`.",
            object=manifest_name(snapshot),
            store=store,
            affects=snapshot.label,
        )
        for store, missing in sorted(found.items())
        if missing
    ]


def _unusable(snapshot: Snapshot, store: str, error: IntegrityError | ObjectAbsent | KeysError) -> Finding:
    return Finding(
        PARENT_UNUSABLE,
        f"snapshot {snapshot.label} can not be a parent: {error.message}",
        error.hint or "Nothing of it was referred to; verify the repository.",
        object=manifest_name(snapshot),
        store=store,
        affects=snapshot.label,
    )


def read_into_index(store: ReadableStore, snapshot: Snapshot, keyring: Keyring, path: Path) -> None:
    """Read a snapshot's manifest and maps from a store into this host's memory of it.

    Raises ObjectAbsent, IntegrityError, CannotOpen, StoreUnavailable.
    """
    reader = ManifestReader(store, snapshot, keyring)
    maps = MapReader(store, snapshot.system_id, keyring)
    with IndexWriter(path.with_name(f"{path.name}.read"), reader.facts.comparison_key) as writer:
        for entry in reader.entries():
            chunks = [maps.read(chunk) for chunk in entry.chunks] if isinstance(entry, FileEntry) else []
            writer.add(entry, chunks)
        writer.keep(path, manifest_name(snapshot))


class MapReader:
    """Map chunks of any manifest of one system id. Keeps a few frames: chunks of one file lie side by side."""

    def __init__(self, store: ReadableStore, system_id: int, keyring: Keyring) -> None:
        self._store = store
        self._system_id = system_id
        self._keyring = keyring
        self._packs: OrderedDict[PackId, StoredObject] = OrderedDict()
        self._frames: OrderedDict[tuple[PackId, int], bytes] = OrderedDict()

    def read(self, chunk: bytes | MapRef) -> bytes:
        """The chunk's bytes. Raises ObjectAbsent, IntegrityError, StoreUnavailable."""
        if isinstance(chunk, bytes):
            return chunk
        frame = self._frame(chunk.pack, chunk.frame)
        data = frame[chunk.offset : chunk.offset + chunk.length]
        if len(data) != chunk.length:
            name = pack_name(self._system_id, chunk.pack)
            raise IntegrityError(f"{name}: a map chunk lies outside frame {chunk.frame}", object=name)
        return data

    def _frame(self, pack: PackId, number: int) -> bytes:
        place = (pack, number)
        if place not in self._frames:
            if pack not in self._packs:
                name = pack_name(self._system_id, pack)
                self._packs[pack] = open_object(self._store, name, self._keyring)
                _drop_oldest(self._packs, _PACKS_KEPT)
            if number >= len(self._packs[pack].table.frames):
                name = pack_name(self._system_id, pack)
                raise IntegrityError(f"{name}: has no frame {number}", object=name)
            self._frames[place] = self._packs[pack].frame(number)
            _drop_oldest(self._frames, _FRAMES_KEPT)
        return self._frames[place]


def _drop_oldest(kept: OrderedDict[PackId, StoredObject] | OrderedDict[tuple[PackId, int], bytes], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)


__all__ = ["MapReader", "Parent", "choose_parent", "load_parent", "read_into_index"]
