"""A repository of some days' snapshots and WAL in directory stores, whose ages a test sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.moment import to_microseconds
from replicator.core.retention import Rule
from replicator.core.snapshot import Snapshot, label_of
from replicator.repository.catalog import StoreCatalog, read_catalog
from replicator.repository.layout import PackId, begin_name, manifest_name, pack_name, parse_name
from replicator.repository.manifests import FileEntry, MapRef, SnapshotFacts, write_manifest
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.header import Compression
from replicator.tolerance import SystemClock
from replicator.upkeep.prune import PruneJob, PruneResult, prune
from tests.repositories import make_repository
from tests.upkeep.depot import SIZE, SYSTEM, Depot

DAY = 86400.0
#: Segments of a day.
SEGMENTS = 3


@dataclass
class Years(Depot):
    """Day 0 is `DAYS` days ago. `lived` makes a day: WAL, and a snapshot that refers to the day before's pack."""

    days: int = 10
    today: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def moment(self, day: float) -> datetime:
        """A time of the story, in days."""
        return self.today - timedelta(days=self.days - day)

    def label(self, day: int) -> str:
        """The label of a day's snapshot."""
        return label_of(self.moment(day + 0.4).replace(second=0))

    def _seal_at(self, part: WalPart, data: bytes, stores: Iterable[str], day: float) -> str:
        content: list[bytes] = []
        keyring = self.repository.keyring
        name = seal_part(keyring, Compression.ZSTD, 1, part, lambda at, count: data[at : at + count], content.append)
        self.put(name, b"".join(content), stores)
        self.age(name, day, *stores)
        return name

    def segment_at(self, number: int, day: float, *stores: str, timeline: int = 1) -> str:
        """A complete segment, written at a day."""
        segment = Segment(timeline, number, SIZE)
        us = to_microseconds(self.moment(day))
        part = WalPart(SYSTEM, segment, segment.start, segment.end, us, us, complete=True)
        return self._seal_at(part, bytes([number % 251]) * SIZE, stores, day)

    def piece_at(self, number: int, start: int, end: int, day: float, *stores: str, timeline: int = 1) -> str:
        """A piece, written at a day."""
        segment = Segment(timeline, number, SIZE)
        us = to_microseconds(self.moment(day))
        part = WalPart(SYSTEM, segment, Lsn(segment.start + start), Lsn(segment.start + end), us, us, complete=False)
        return self._seal_at(part, bytes([number % 251]) * SIZE, stores, day)

    def snapshot_at(
        self,
        day: int,
        packs: Iterable[PackId],
        *stores: str,
        findings: tuple[str, ...] = (),
        parent: str | None = None,
        timeline: int = 1,
    ) -> Snapshot:
        """A day's manifest, from its first segment into its second, with its mark."""
        first = day * SEGMENTS + 1
        label = self.label(day)
        snapshot = Snapshot(label, SYSTEM, timeline, Lsn(first * SIZE + 40), Lsn((first + 1) * SIZE + 900))
        begun = to_microseconds(self.moment(day + 0.4))
        facts = SnapshotFacts(snapshot, "frk", parent, begun, begun + 60_000_000, 150018, SIZE, True, b"c" * 32,
                              findings=findings)  # fmt: skip
        content: list[bytes] = []
        entries = [FileEntry("base/1", 0o600, 9, 3, 8192, tuple(MapRef(pack, 0, 0, 3) for pack in packs))]
        totals = {"bytes": 5, "added_bytes": 4, "files": 1}
        name = write_manifest(self.repository.keyring, 3, facts, 1, entries, packs, totals, content.append)
        self.put(name, b"".join(content), stores)
        mark = self.mark(label, 1, parent, *stores)
        for one in (name, mark):
            self.age(one, day + 0.4, *stores)
        return snapshot

    def mark(self, label: str, attempt: int, parent: str | None, *stores: str) -> str:
        """A begin."""
        body: dict[str, object] = {"host": "x", "pid": 1, "process_start": "1", "parent": parent}
        return self.document("begin", begin_name(SYSTEM, label, attempt), body, *stores)

    def lived(self, *stores: str, days: int | None = None) -> None:
        """Every day's WAL and snapshot; the last segment of all is still in pieces."""
        days = self.days if days is None else days
        before: list[PackId] = []
        for day in range(days):
            for part in range(SEGMENTS):
                self.segment_at(day * SEGMENTS + 1 + part, day + 0.3 * part, *stores)
            pack = self.pack(self.label(day), 0, *stores, size=3000)
            self.age(pack_name(SYSTEM, pack), day + 0.4, *stores)
            self.snapshot_at(day, [*before, pack], *stores)
            before = [pack]
        self.piece_at(days * SEGMENTS + 1, 0, 4000, days, *stores)

    def age(self, name: str, day: float, *stores: str) -> None:
        """Set the time at which stores say that an object was put."""
        at = self.moment(day).timestamp()
        for store in stores:
            os.utime(self.path(store, name), (at, at))

    def age_notes(self, hours: float, *stores: str) -> None:
        """Let so much time pass for every note."""
        for store in stores or self.names:
            for name in self.held(store):
                if "/notes/" in name:
                    path = self.path(store, name)
                    at = path.stat().st_mtime - hours * 3600
                    os.utime(path, (at, at))

    def age_all(self, store: str) -> None:
        """Everything was put when the story began."""
        for name in self.held(store):
            self.age(name, 0, store)

    def written(self, end: int) -> float:
        """The day on which the segment that ends here was written."""
        day, part = divmod(end // SIZE - 2, SEGMENTS)
        return day + 0.3 * part

    def prune(
        self,
        rule: Rule | None,
        *,
        dry_run: bool = False,
        steps: Callable[[str], None] = lambda _: None,
        host: str = "host",
    ) -> PruneResult:
        """Prune as a host does."""
        state = self.base / host
        state.mkdir(exist_ok=True)
        repository = make_repository(self.base, names=self.names, wrap=self.wrap)
        return prune(PruneJob(repository, SystemClock(), state, rule, dry_run=dry_run, steps=steps))

    def until_done(self, rule: Rule | None) -> list[PruneResult]:
        """Prune, let a day pass, and prune again."""
        first = self.prune(rule)
        self.age_notes(25)
        return [first, self.prune(rule)]

    def until_done_but(self, rule: Rule, kept: str) -> None:
        """The same, with notes of one kind as young as ever."""
        self.prune(rule)
        young = {name: self.path("local", name).stat() for name in self.held("local") if f"-{kept}-" in name}
        self.age_notes(25)
        for name, facts in young.items():
            os.utime(self.path("local", name), (facts.st_atime, facts.st_mtime))
        self.prune(rule)

    def check_promises_but(self, forged: Iterable[str]) -> None:
        """The promises of all that is signed."""
        for name in forged:
            for store in self.names:
                self.path(store, name).unlink(missing_ok=True)
        self.check_promises()

    def catalog(self, store: str) -> StoreCatalog:
        """What a store says it holds."""
        return read_catalog(self.plain[store], SYSTEM, self.repository.keyring)

    def labels(self, store: str) -> set[str]:
        """The snapshots of a store."""
        return {snapshot.label for snapshot in self.catalog(store).snapshots}

    def segments(self, store: str) -> set[int]:
        """The numbers of the complete segments of a store."""
        return {Segment.parse(name, SIZE).number for name in self.catalog(store).wal}

    def packs(self, store: str) -> set[str]:
        """The names of a store's packs."""
        return {name for name in self.held(store) if type(parse_name(name)).__name__ == "PackName"}


__all__ = ["DAY", "SEGMENTS", "LsnRange", "Years", "manifest_name"]
