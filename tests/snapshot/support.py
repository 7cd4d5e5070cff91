"""For the tests of snapshots: a repository, a small stream beside the server, a reader that puts a tree back."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import SlotBusy, StoreUnavailable
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.messages import XLogData
from replicator.postgres.query import SqlConnection
from replicator.postgres.walreceive import WalStream
from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId, pack_name
from replicator.repository.manifests import DirectoryEntry, FileEntry, LinkEntry, ManifestReader
from replicator.repository.objects import StoredObject, open_object
from replicator.repository.repository import Repository, Secrets, open_repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.header import Compression
from replicator.seal.signature import SEALING, key_text, new_x25519, x25519_public
from replicator.snapshot.job import TakeJob, TakeResult
from replicator.snapshot.parent import MapReader
from replicator.store.protocol import ReadableStore, Store
from replicator.upkeep.init import InitJob, initialise
from replicator.upkeep.secrets import load_writer_key
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, binaries

SLOT = "replicator_frk"
#: The private half of the one recipient of every repository here.
IDENTITY = new_x25519()


def make_repository(stores: Mapping[str, Store], home: Path, *, mode: str = "aes-256-gcm") -> Repository:
    """A new repository `frk` in `stores`, opened by a host that can open and write."""
    job = InitJob(
        cluster="frk", stores=stores, sheet_stores=(), mode=mode,
        recipients=(key_text(SEALING, x25519_public(IDENTITY)),), secrets=Secrets(identities=(IDENTITY,)),
        writer_key=home / "writer.key", host="tests", now=datetime.now(UTC), pending=home / "init", pinned_root=None,
        prepare=lambda: None, deliver=lambda _: None,
    )  # fmt: skip
    initialise(job)
    writer = load_writer_key(home / "writer.key")
    return open_repository("frk", stores, Secrets(identities=(IDENTITY,), writer=writer))


def connect(cluster: TestCluster) -> ReplicationConnection:
    """As compose connects."""
    return ReplicationConnection.connect(
        cluster.conninfo(REPLICATION_USER), PASSWORD.encode(), application_name="tests", connect_timeout=60
    )


def take_job(
    cluster: TestCluster, repository: Repository, state: Path, *, full: bool = False,
    steps: Callable[[str], None] = lambda _: None, store_deadline_s: float = 20.0, wal_deadline_s: float = 60.0,
) -> TakeJob:  # fmt: skip
    """A job as compose makes one, with short deadlines."""
    return TakeJob(
        repository=repository, connect=lambda: connect(cluster),
        sql=lambda: SqlConnection(cluster.conninfo(REPLICATION_USER), PASSWORD.encode()), slot=SLOT,
        state_directory=state, full=full, steps=steps, store_deadline_s=store_deadline_s, wal_deadline_s=wal_deadline_s,
    )  # fmt: skip


class Shipping:
    """Streams the slot and puts what comes as pieces into the repository's stores, until left."""

    def __init__(self, cluster: TestCluster, repository: Repository) -> None:
        self._cluster = cluster
        self._repository = repository
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)
        self._granted = threading.Event()
        self.error: Exception | None = None

    def __enter__(self) -> Shipping:
        with connect(self._cluster) as connection:
            if connection.read_slot(SLOT) is None:
                connection.create_slot(SLOT)
        self._thread.start()
        while not self._granted.wait(0.02) and self._thread.is_alive():
            pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(60)
        if self.error is not None and kind is None:
            raise self.error

    def _run(self) -> None:
        try:
            with connect(self._cluster) as connection:
                self._stream(connection)
        except Exception as error:  # noqa: BLE001  # raised again where the stream is left
            self.error = error

    def _stream(self, connection: ReplicationConnection) -> None:
        identity, size = connection.identify(), connection.wal_segment_size
        slot = connection.read_slot(SLOT)
        assert slot is not None
        assert slot.restart_lsn is not None
        position = slot.restart_lsn.floor(size)
        stream = self._start(connection, identity.timeline, position)
        self._granted.set()
        while not self._stop.is_set():
            batch = stream.read(0.05)
            assert isinstance(batch, list)
            for message in batch:
                if isinstance(message, XLogData):
                    position = self._piece(identity.system_id, identity.timeline, size, message)
            stream.send_status(position, position, position)
        stream.finish(30)

    def _start(self, connection: ReplicationConnection, timeline: int, position: Lsn) -> WalStream:
        for _ in range(1000):
            try:
                return WalStream(connection, slot=SLOT, timeline=timeline, start=position)
            except SlotBusy:
                self._stop.wait(0.05)
        raise SlotBusy("the slot stays busy")

    def _piece(self, system_id: int, timeline: int, size: int, message: XLogData) -> Lsn:
        data, start = bytes(message.data), message.start
        while data:
            segment = Segment.holding(timeline, start, size)
            part = data[: segment.end - start]
            self._put(WalPart(system_id, segment, start, start + len(part), 1, 1, complete=False), part)
            start, data = start + len(part), data[len(part) :]
        return start

    def _put(self, part: WalPart, data: bytes) -> None:
        first, sealed = part.start - part.segment.start, bytearray()

        def read(offset: int, length: int) -> bytes:
            return data[offset - first : offset - first + length]

        def write(chunk: bytes) -> None:
            nonlocal sealed
            sealed += chunk

        name = seal_part(self._repository.keyring, Compression.ZSTD, 1, part, read, write)
        for store in self._repository.stores.values():
            with suppress(StoreUnavailable):  # a store that a test took away
                store.put(name, bytes(sealed))


@contextmanager
def shipping(cluster: TestCluster, repository: Repository) -> Iterator[Shipping]:
    """A running `Shipping`."""
    with Shipping(cluster, repository) as found:
        yield found


class TreeReader:
    """Puts a snapshot's tree back into a directory, the simplest way that can be."""

    def __init__(self, repository: Repository, store: ReadableStore, snapshot: Snapshot) -> None:
        self.reader = ManifestReader(store, snapshot, repository.keyring)
        self._repository = repository
        self._store = store
        self._system_id = snapshot.system_id
        self._maps = MapReader(store, snapshot.system_id, repository.keyring)
        self._packs: dict[PackId, StoredObject] = {}
        self._frames: dict[tuple[PackId, int], bytes] = {}

    def write(self, directory: Path) -> list[str]:
        """The tree; returns the paths of the entries in their order."""
        directory.mkdir(mode=0o700)
        paths = []
        for entry in self.reader.entries():
            paths.append(entry.path)
            path = directory / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            match entry:
                case FileEntry():
                    path.write_bytes(self.content(entry))
                case DirectoryEntry():
                    path.mkdir(exist_ok=True)
                case LinkEntry():
                    path.symlink_to(entry.target)
        return paths

    def content(self, entry: FileEntry) -> bytes:
        """A file's bytes."""
        content = bytearray()
        for chunk in entry.chunks:
            for run in MapChunk.parse(self._maps.read(chunk)).runs:
                length = min(run.blocks * entry.block_size, entry.size - len(content))
                if run.pack is None:
                    content += bytes(length)
                else:
                    part = self._frame(run.pack, run.frame)[run.offset : run.offset + length]
                    assert len(part) == length
                    content += part
        assert len(content) == entry.size
        return bytes(content)

    def _frame(self, pack: PackId, frame: int) -> bytes:
        if (pack, frame) not in self._frames:
            if pack not in self._packs:
                name = pack_name(self._system_id, pack)
                self._packs[pack] = open_object(self._store, name, self._repository.keyring)
            self._frames[pack, frame] = self._packs[pack].frame(frame)
        return self._frames[pack, frame]


def verify_tree(repository: Repository, store: ReadableStore, result: TakeResult, directory: Path) -> list[str]:
    """Put the snapshot's tree back, have PostgreSQL's own program compare it with the backup's manifest; its paths."""
    paths = TreeReader(repository, store, result.row.snapshot).write(directory)
    program = binaries().program("pg_verifybackup")
    done = subprocess.run([program, "-n", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return paths
