"""From a manifest to files: frames fetched by range in pack order, in parallel, in bounded memory.

Owns the order of reading and writing. Every frame is verified by the object it comes from before a byte is written;
zeros stay holes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

from replicator.core.progress import Progress, Report, silent
from replicator.errors import IntegrityError, Interrupted
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId, pack_name
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry, ManifestReader, MapRef
from replicator.repository.objects import StoredObject, open_object
from replicator.restore.tree import CONTROL, Tree, host_errors
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

#: Writes sorted together; bounds memory to some megabytes whatever the size of the data.
_BATCH = 32_768
#: Consecutive frames of one job: about one range request.
_JOB_FRAMES = 4
_PACKS_OPEN = 64
_FRAMES_KEPT = 8


@dataclass(slots=True)
class _Write:
    """`length` bytes from `frame_offset` of a frame go to `offset` of a file."""

    path: Path
    offset: int
    frame_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FetchTotals:
    """What was written."""

    files: int
    bytes: int


@dataclass
class Fetch:
    """Writes one snapshot from one store into `tree`. Memory: workers × about 20 MB and one batch of writes."""

    store: ReadableStore
    keyring: Keyring
    tree: Tree
    workers: int = 4
    report: Report = silent
    stop: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self._packs = _Packs(self.store, self.keyring)
        self._frames: OrderedDict[tuple[PackId, int], bytes] = OrderedDict()
        self._done = 0

    def run(self, manifest: ManifestReader) -> FetchTotals:
        """Write every entry; pg_control stays under a temporary name until `Tree.publish_control`.

        Raises IntegrityError, StoreUnavailable naming the store, HostLacks, Interrupted.
        """
        self._packs.system_id = manifest.snapshot.system_id
        files, paths = 0, set[str]()
        total = manifest.summary.bytes
        batch: dict[tuple[PackId, int], list[_Write]] = {}
        held = 0
        with ThreadPoolExecutor(self.workers, thread_name_prefix="restore") as pool:
            for entry in manifest.entries():
                if isinstance(entry, DirectoryEntry):
                    self.tree.add_directory(entry)
                elif isinstance(entry, LinkEntry):
                    self.tree.add_link(entry)
                else:
                    files += 1
                    paths |= {entry.path} & {CONTROL, "backup_label"}
                    for key, write in self._writes(entry):
                        batch.setdefault(key, []).append(write)
                        held += 1
                if held >= _BATCH:
                    self._flush(pool, batch, total)
                    batch, held = {}, 0
                self._check_stop()
            self._flush(pool, batch, total)
        for needed in (CONTROL, "backup_label"):
            if needed not in paths:
                raise IntegrityError(f"snapshot {manifest.snapshot.label} holds no {needed}")
        self.tree.finish_links()
        return FetchTotals(files, self._done)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted("the restore was interrupted", hint="Empty the directory before restoring into it again.")

    def _writes(self, entry: FileEntry) -> Iterator[tuple[tuple[PackId, int], _Write]]:
        path = self.tree.add_file(entry)
        offset = 0
        for chunk in entry.chunks:
            found = MapChunk.parse(self._chunk(chunk) if isinstance(chunk, MapRef) else chunk)
            for run in found.runs:
                length = min(run.blocks * entry.block_size, entry.size - offset)
                if length <= (run.blocks - 1) * entry.block_size:
                    raise IntegrityError(f"the map of {entry.path} describes more than its size")
                if run.pack is not None:
                    yield (run.pack, run.frame), _Write(path, offset, run.offset, length)
                else:
                    self._done += length
                offset += length
        if offset != entry.size:
            raise IntegrityError(f"the map of {entry.path} describes {offset} of its {entry.size} bytes")

    def _chunk(self, ref: MapRef) -> bytes:
        key = (ref.pack, ref.frame)
        if key not in self._frames:
            self._frames[key] = self._packs.open(ref.pack).frame(ref.frame)
            if len(self._frames) > _FRAMES_KEPT:
                self._frames.popitem(last=False)
        self._frames.move_to_end(key)
        data = self._frames[key][ref.offset : ref.offset + ref.length]
        if len(data) != ref.length:
            raise IntegrityError("a map chunk lies outside its frame")
        return data

    def _flush(self, pool: ThreadPoolExecutor, batch: dict[tuple[PackId, int], list[_Write]], total: int) -> None:
        """Fetch and write a batch in pack order, with a bounded number of jobs under way."""
        running: set[Future[int]] = set()
        try:
            for pack, frames in _jobs(batch):
                running.add(pool.submit(self._job, pack, frames, batch))
                if len(running) >= 2 * self.workers:
                    running = self._collect(running, total)
            while running:
                running = self._collect(running, total)
        finally:
            for future in running:
                future.cancel()

    def _collect(self, running: set[Future[int]], total: int) -> set[Future[int]]:
        done, rest = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            self._done += future.result()
        self.report(Progress("restore", "files", self._done, total))
        self._check_stop()
        return rest

    def _job(self, pack: PackId, frames: list[int], batch: dict[tuple[PackId, int], list[_Write]]) -> int:
        written = 0
        found = self._packs.open(pack)
        if frames[-1] >= len(found.table.frames):
            raise IntegrityError(f"{found.table.name}: a map names a frame that it has not", object=found.table.name)
        for number, plain in zip(frames, found.frames(frames[0], len(frames)), strict=True):
            written += _write(plain, batch[pack, number], found.table.name)
        return written


def _jobs(batch: dict[tuple[PackId, int], list[_Write]]) -> Iterator[tuple[PackId, list[int]]]:
    """Runs of consecutive frames, in pack order."""
    run: list[int] = []
    current: PackId | None = None
    for pack, frame in sorted(batch):
        if run and (pack != current or frame != run[-1] + 1 or len(run) >= _JOB_FRAMES):
            assert current is not None
            yield current, run
            run = []
        current = pack
        run.append(frame)
    if run and current is not None:
        yield current, run


def _write(plain: bytes, writes: list[_Write], name: str) -> int:
    view = memoryview(plain)
    written = 0
    for path, group in _by_path(writes):
        with host_errors(path):
            handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                for write in group:
                    data = view[write.frame_offset : write.frame_offset + write.length]
                    if len(data) != write.length:
                        raise IntegrityError(f"{name}: a map reaches beyond a frame", object=name)
                    offset = write.offset
                    while data:
                        count = os.pwrite(handle, data, offset)
                        data, offset, written = data[count:], offset + count, written + count
            finally:
                os.close(handle)
    return written


def _by_path(writes: list[_Write]) -> Iterator[tuple[Path, list[_Write]]]:
    groups: dict[Path, list[_Write]] = {}
    for write in writes:
        groups.setdefault(write.path, []).append(write)
    yield from groups.items()


class _Packs:
    """Opened packs, a bounded number; several threads may ask for the same one."""

    def __init__(self, store: ReadableStore, keyring: Keyring) -> None:
        self.system_id = 0
        self._store = store
        self._keyring = keyring
        self._lock = Lock()
        self._kept: OrderedDict[PackId, Future[StoredObject]] = OrderedDict()

    def open(self, pack: PackId) -> StoredObject:
        """A pack whose head and table are verified. Raises ObjectAbsent, IntegrityError, StoreUnavailable."""
        with self._lock:
            future = self._kept.get(pack)
            ours = future is None
            if future is None:
                future = self._kept[pack] = Future()
                if len(self._kept) > _PACKS_OPEN:
                    self._kept.popitem(last=False)
        if ours:
            try:
                future.set_result(open_object(self._store, pack_name(self.system_id, pack), self._keyring))
            except BaseException as error:  # noqa: BLE001 it belongs to everyone who waits for this pack
                future.set_exception(error)
        return future.result()
