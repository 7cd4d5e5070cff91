"""A repository of several directory stores whose objects are made one by one, so that each store can lack any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.repository.layout import PackId, begin_name, history_name, manifest_name, pack_name, parse_name
from replicator.repository.manifests import FileEntry, MapRef, SnapshotFacts, read_summary, write_manifest
from replicator.repository.notes import sign_note
from replicator.repository.objects import check_object
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.document import sign_as_writer
from replicator.seal.header import Cipher, Compression, Header, Kind
from replicator.seal.sealer import ObjectSealer
from replicator.seal.signature import base64url
from replicator.store import Store
from replicator.store.directory import DirectoryStore
from replicator.tolerance import SystemClock
from replicator.upkeep.mirror import MirrorJob, MirrorResult, mirror
from replicator.upkeep.mirror_plan import lost, segments_of
from tests.repositories import make_repository

SYSTEM = 7301234567890123456
SIZE = 2**20
NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)


@dataclass
class Depot:
    """`wrap` goes around the driver of each store that a mirror uses."""

    base: Path
    names: tuple[str, ...] = ("local", "offsite")
    wrap: Callable[[Store], Store] = lambda store: store
    mode: str = "aes-256-gcm"
    made: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make it."""
        self.repository: Repository = make_repository(self.base, names=self.names, mode=self.mode)
        self.plain = {name: DirectoryStore(name, self.base / "stores" / name / "frk") for name in self.names}

    def put(self, name: str, data: bytes, stores: Iterable[str]) -> str:
        """Put an object into some stores."""
        self.made[name] = data
        for store in stores:
            self.plain[store].put(name, data)
        return name

    def path(self, store: str, name: str) -> Path:
        """Where an object lies."""
        return self.base / "stores" / store / "frk" / name

    def wal(self, number: int, *stores: str, timeline: int = 1, content: int = 0) -> str:
        """A complete segment."""
        segment = Segment(timeline, number, SIZE)
        data = bytes([content or number]) * SIZE
        part = WalPart(SYSTEM, segment, segment.start, segment.end, 5, 6, complete=True)
        return self._seal(part, data, stores)

    def piece(self, number: int, start: int, end: int, *stores: str, timeline: int = 1) -> str:
        """The bytes [start, end) of a segment."""
        segment = Segment(timeline, number, SIZE)
        data = bytes([number]) * SIZE
        first, last = Lsn(segment.start + start), Lsn(segment.start + end)
        return self._seal(WalPart(SYSTEM, segment, first, last, 5, 6, complete=False), data, stores)

    def _seal(self, part: WalPart, data: bytes, stores: Iterable[str]) -> str:
        content: list[bytes] = []
        keyring = self.repository.keyring
        name = seal_part(
            keyring, Compression.NONE, 3, part, lambda offset, length: data[offset : offset + length], content.append
        )
        return self.put(name, b"".join(content), stores)

    def pack(self, label: str, number: int, *stores: str, size: int = 300_000, frames: int = 3) -> PackId:
        """A pack of random bytes."""
        pack = PackId(label, 1, number)
        name = pack_name(SYSTEM, pack)
        header = Header(Kind.PACK, Cipher.NONE, Compression.NONE, b"", b"", b"", SYSTEM, label=label, attempt=1,
                        number=number)  # fmt: skip
        sealer = ObjectSealer(self.repository.keyring, header, 3)
        body = b"".join(sealer.frame(os.urandom(size // frames)) for _ in range(frames))
        self.put(name, sealer.head + body + sealer.finish(name), stores)
        return pack

    def snapshot(self, label: str, first: int, last: int, packs: Iterable[PackId], *stores: str) -> Snapshot:
        """A manifest over segments first..last, with its begin."""
        snapshot = Snapshot(label, SYSTEM, 1, Lsn(first * SIZE + 40), Lsn(last * SIZE + 900))
        facts = SnapshotFacts(snapshot, "frk", None, 1, 2, 150018, SIZE, True, b"c" * 32)
        content: list[bytes] = []
        entries = [FileEntry("base/1", 0o600, 9, 3, 8192, tuple(MapRef(pack, 0, 0, 3) for pack in packs))]
        totals = {"bytes": 5, "added_bytes": 4, "files": 1}
        name = write_manifest(self.repository.keyring, 3, facts, 1, entries, packs, totals, content.append)
        self.put(name, b"".join(content), stores)
        self.document("begin", begin_name(SYSTEM, label, 1), {"host": "x", "pid": 1, "process_start": "1"}, *stores)
        return snapshot

    def document(self, kind: str, name: str, body: dict[str, object], *stores: str) -> str:
        """A document signed by the writer."""
        return self.put(name, sign_as_writer(self.repository.keyring, kind, name, body), stores)

    def history(self, timeline: int, *stores: str) -> str:
        """A timeline's history."""
        body = {"timeline": timeline, "content": base64url(b"1\t0/1100000\tno recovery target specified\n")}
        return self.document("history", history_name(SYSTEM, timeline), body, *stores)

    def note(self, kind: str, subject: str, facts: dict[str, object], *stores: str) -> str:
        """A note."""
        return self.put(*sign_note(self.repository.keyring, SYSTEM, kind, subject, facts, NOW), stores)

    def fill(self, *stores: str) -> None:
        """Ten segments, the last as pieces; two snapshots that share packs; a history and a note."""
        for number in range(1, 10):
            self.wal(number, *stores)
        self.piece(10, 0, 1000, *stores)
        self.piece(10, 1000, 5000, *stores)
        old = [self.pack("20260101T000000Z", number, *stores) for number in range(3)]
        new = [self.pack("20260102T000000Z", number, *stores) for number in range(2)]
        self.snapshot("20260101T000000Z", 2, 3, old, *stores)
        self.snapshot("20260102T000000Z", 8, 10, [*old[1:], *new], *stores)
        self.history(2, *stores)
        self.note("gap", "00000001.0000000000000000.0000000000000100", {"reason": "lost"}, *stores)

    def mirror(
        self, *, steps: Callable[[str], None] = lambda _: None, host: str = "host", workers: int = 2
    ) -> MirrorResult:
        """Run a mirror as a host does."""
        state = self.base / host
        state.mkdir(exist_ok=True)
        repository = make_repository(self.base, names=self.names, wrap=self.wrap, mode=self.mode)
        return mirror(MirrorJob(repository, SystemClock(), state, self.names, self.names, steps=steps, workers=workers))

    def held(self, store: str) -> dict[str, bytes]:
        """Every object of a store but the root's documents."""
        root = self.base / "stores" / store / "frk"
        files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        named = ((path.relative_to(root).as_posix(), path) for path in files)
        return {name: path.read_bytes() for name, path in named if parse_name(name) is not None}

    def check_promises(self, *stores: str) -> None:
        """In these stores (all) each manifest has its packs and its own WAL, and every sealed object is well."""
        keyring = self.repository.keyring
        for name in stores or self.names:
            store = self.plain[name]
            held = set(self.held(name))
            for place in map(parse_name, sorted(held)):
                snapshot = getattr(place, "snapshot", None)
                if snapshot is None:
                    continue
                packs = {pack_name(SYSTEM, pack) for pack in read_summary(store, snapshot, keyring).packs}
                assert packs <= held, (name, snapshot)
                assert not lost(held, snapshot, SIZE), (name, snapshot)
                for object_ in packs | {manifest_name(snapshot)}:
                    check_object(store, object_, keyring)
                assert segments_of(snapshot, SIZE)
