"""From a manifest to files: frames fetched by range in pack order, in parallel, in bounded memory.

Owns the order of reading and writing. Every frame is verified by the object it comes from before a byte is written;
zeros stay holes. A frame that one store can't give comes from another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from threading import BoundedSemaphore, Event, local

from replicator.core.progress import Progress, Report, silent
from replicator.errors import IntegrityError, Interrupted
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry, LinkEntry, ManifestReader, MapRef
from replicator.restore.assemble import Assembler, Work, is_worth, parts
from replicator.restore.compare import Comparison, Found, Key, Look
from replicator.restore.durable import Flusher
from replicator.restore.files import FileFacts, Write, make_file, write_frame
from replicator.restore.packs import Packs
from replicator.restore.sources import Sources, entries
from replicator.restore.tree import CONTROL, Tree
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import FrameRoom
from replicator.store.protocol import ReadableStore

#: Writes sorted together: the first batch is small, so that the workers begin soon, the others larger, so that few
#: frames are opened twice. With the jobs under way this bounds memory to some megabytes whatever the size of the data.
_FIRST_BATCH, _BATCH = 1024, 16_384
#: Frames of one job: about one range request.
_JOB_FRAMES = 8
#: A part of a file goes past the page cache when its writes have so many bytes on average.
_APART = 512 * 1024
#: Files that hold nothing, made by one job.
_JOB_FILES = 256
#: Threads for each worker: while one waits for a store or a disk, another opens frames.
_THREADS = 2
_FRAMES_KEPT = 8


@dataclass(frozen=True, slots=True)
class FetchTotals:
    """What was written. `fetched`: the bytes that came from stores; the others are zeros, or were there already."""

    files: int
    bytes: int
    fetched: int = 0


@dataclass
class Fetch:
    """Writes one snapshot from a store, or from several of which one stands in for another, into `tree`. So many
    `workers` open frames at once. Memory: for each about 60 MB, and two batches of writes. `comparison`: of what is in
    the tree already, only what differs is fetched.
    """

    store: ReadableStore | Sources
    keyring: Keyring
    tree: Tree
    workers: int = 4
    report: Report = silent
    stop: Event = field(default_factory=Event)
    comparison: Comparison | None = None

    def __post_init__(self) -> None:
        self.sources = self.store if isinstance(self.store, Sources) else Sources((self.store,))
        self._packs = Packs(self.keyring)
        self._frames: OrderedDict[Key, bytes] = OrderedDict()
        self._rooms = local()
        self._turn = BoundedSemaphore(self.workers)
        self._assembler = Assembler(self._turn)
        self._running: set[Future[Found]] = set()
        self._batch: dict[Key, list[Write]] = {}
        self._held, self._enough = 0, _FIRST_BATCH
        self._bare: list[tuple[str, FileFacts]] = []
        self._done = self._fetched = self._total = 0

    def run(self, manifest: ManifestReader, read: Iterable[Entry] | None = None) -> FetchTotals:
        """Write every entry; pg_control stays under a temporary name until `Tree.publish_control`. `read`: the entries,
        where they were read already.

        Raises IntegrityError, StoreUnavailable naming the store, HostLacks, Interrupted.
        """
        self._packs.system_id = manifest.snapshot.system_id
        self._total = manifest.summary.bytes
        files, paths = 0, set[str]()
        with (
            Flusher(self.tree.handles.get(self.tree.root)) as self._flusher,
            ThreadPoolExecutor(_THREADS * self.workers, thread_name_prefix="restore") as self._pool,
        ):
            try:
                for entry in entries(self.sources, manifest, self.keyring) if read is None else read:
                    if isinstance(entry, DirectoryEntry):
                        self.tree.add_directory(entry)
                    elif isinstance(entry, LinkEntry):
                        self.tree.add_link(entry)
                    else:
                        files += 1
                        paths |= {entry.path} & {CONTROL, "backup_label"}
                        self._file(entry)
                    self._check_stop()
                self._finish()
            finally:
                for future in self._running:
                    future.cancel()
        for needed in (CONTROL, "backup_label"):
            if needed not in paths:
                raise IntegrityError(f"snapshot {manifest.snapshot.label} holds no {needed}")
        self.tree.finish_links()
        return FetchTotals(files, self._done, self._fetched)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted(
                "the restore was interrupted",
                hint="Run it again with --delta: what was written already is not fetched again.",
            )

    def _file(self, entry: FileEntry) -> None:
        path = self.tree.place_file(entry)
        facts = FileFacts.of(entry, again=entry.path == CONTROL)
        if self.comparison is not None:
            for looks in self.comparison.add(path, facts, self._pieces(entry), entry.block_size):
                self._submit(self._look, looks)
        elif len(entry.chunks) <= 1:
            self._small(path, facts, list(self._writes(entry, path)))
        else:
            make_file(path, facts, self.tree.ids)
            self._large(self._writes(entry, path))
        if self._held >= self._enough:
            self._flush()

    def _small(self, path: str, facts: FileFacts, writes: list[tuple[Key, Write]]) -> None:
        """A file that one frame holds is made by who writes it; one that holds nothing together with others."""
        if not writes:
            self._bare.append((path, facts))
            if len(self._bare) >= _JOB_FILES:
                self._flush_bare()
            return
        if any(key != writes[0][0] for key, _ in writes):
            make_file(path, facts, self.tree.ids)
            self._large(writes)
            return
        writes[0][1].new = facts
        for key, write in writes:
            self._add(key, write)

    def _large(self, writes: Iterable[tuple[Key, Write]]) -> None:
        """Runs that are large, or that many frames share, go where they belong as their frames come; others are put
        together first.
        """
        for direct, group in groupby(writes, key=lambda item: item[1].direct):
            for work in (list(group),) if direct else parts(group):
                if direct or not is_worth(work):
                    for key, write in work:
                        self._add(key, write)
                else:
                    self._submit(self._part, work)

    def _add(self, key: Key, write: Write) -> None:
        self._batch.setdefault(key, []).append(write)
        self._held += 1

    def _pieces(self, entry: FileEntry) -> Iterator[MapChunk]:
        for chunk in entry.chunks:
            yield MapChunk.parse(self._chunk(chunk) if isinstance(chunk, MapRef) else chunk)

    def _writes(self, entry: FileEntry, path: str) -> Iterator[tuple[Key, Write]]:
        offset = 0
        for chunk in self._pieces(entry):
            stored = [run.blocks for run in chunk.runs if run.pack is not None]
            direct = sum(stored) * entry.block_size >= len(stored) * _APART
            for run in chunk.runs:
                length = min(run.blocks * entry.block_size, entry.size - offset)
                if length <= (run.blocks - 1) * entry.block_size:
                    raise IntegrityError(f"the map of {entry.path} describes more than its size")
                if run.pack is not None:
                    yield (run.pack, run.frame), Write(path, offset, run.offset, length, direct=direct)
                else:
                    self._done += length
                offset += length
        if offset != entry.size:
            raise IntegrityError(f"the map of {entry.path} describes {offset} of its {entry.size} bytes")

    def _chunk(self, ref: MapRef) -> bytes:
        key = (ref.pack, ref.frame)
        if key not in self._frames:
            self._frames[key] = self.sources.read(lambda store: self._packs.open(store, ref.pack).frame(ref.frame))
            if len(self._frames) > _FRAMES_KEPT:
                self._frames.popitem(last=False)
        self._frames.move_to_end(key)
        data = self._frames[key][ref.offset : ref.offset + ref.length]
        if len(data) != ref.length:
            raise IntegrityError("a map chunk lies outside its frame")
        return data

    def _submit(self, job: Callable[..., Found], *arguments: object) -> None:
        """Have a worker do it; wait while there is enough to do."""
        while len(self._running) >= 2 * _THREADS * self.workers:
            self._collect()
        self._running.add(self._pool.submit(job, *arguments))

    def _flush(self) -> None:
        """Hand the batch to the workers in pack order."""
        batch, self._batch, self._held = self._batch, {}, 0
        self._enough = min(_BATCH, 2 * self._enough)
        for pack, frames in _jobs(batch):
            self._submit(self._job, pack, [(frame, batch.pop((pack, frame))) for frame in frames])

    def _flush_bare(self) -> None:
        bare, self._bare = self._bare, []
        self._submit(self._make, bare)

    def _finish(self) -> None:
        """Everything that is left, until nothing is."""
        if self._bare:
            self._flush_bare()
        if self.comparison is not None:
            for looks in self.comparison.rest():
                self._submit(self._look, looks)
        while self._running or self._batch:
            while self._running:
                self._collect()
            self._flush()

    def _collect(self) -> None:
        """Wait for a job or more; what a comparison found to differ joins the batch."""
        done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
        for future in done:
            found = future.result()
            self._done += found.done
            self._fetched += found.fetched
            for key, write in found.writes:
                self._add(key, write)
        self._flusher.written(self._fetched)
        self.report(Progress("restore", "files", self._done, self._total))
        self._check_stop()

    def _look(self, looks: list[Look]) -> Found:
        assert self.comparison is not None
        answers = self.comparison.ask(looks)
        with self._turn:
            return self.comparison.look(looks, answers)

    def _make(self, bare: list[tuple[str, FileFacts]]) -> Found:
        for path, facts in bare:
            make_file(path, facts, self.tree.ids)
        return Found()

    def _job(self, pack: PackId, work: list[tuple[int, list[Write]]]) -> Found:
        written = self.sources.read(lambda store: self._written(store, pack, work))
        return Found(written, written)

    def _written(self, store: ReadableStore, pack: PackId, work: list[tuple[int, list[Write]]]) -> int:
        found = self._packs.open(store, pack)
        written = 0
        plains = found.frames_at([number for number, _ in work], self._room(), self._turn)
        for (_, writes), plain in zip(work, plains, strict=True):
            # Writes into the page cache are work for a processor, and more threads would only wait for each other's.
            with self._turn if not writes[0].direct else nullcontext():
                written += write_frame(plain, writes, found.table.name, self.tree.ids)
        return written

    def _part(self, work: Work) -> Found:
        written = self.sources.read(
            lambda store: self._assembler.write(work, lambda pack: self._packs.open(store, pack), self._room())
        )
        return Found(written, written)

    def _room(self) -> FrameRoom:
        """This thread's."""
        if not hasattr(self._rooms, "room"):
            self._rooms.room = FrameRoom()
        room: FrameRoom = self._rooms.room
        return room


def _jobs(batch: dict[Key, list[Write]]) -> Iterator[tuple[PackId, list[int]]]:
    """Frames that lie near each other, in pack order."""
    run: list[int] = []
    current: PackId | None = None
    for pack, frame in sorted(batch):
        if run and (pack != current or frame >= run[0] + _JOB_FRAMES):
            assert current is not None
            yield current, run
            run = []
        current = pack
        run.append(frame)
    if run and current is not None:
        yield current, run
