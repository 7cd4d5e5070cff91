"""Promises 1 to 6 of the design, asked of what is really there: the slot, the source's own WAL files, the spool's files
and the stores' objects. Nothing is believed that the stream says of itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blake3 import blake3

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.windows import holes
from replicator.errors import ObjectAbsent, StoreUnavailable, UsageError
from replicator.repository.catalog import StoreCatalog, list_snapshots, read_catalog
from replicator.repository.layout import PieceName, parse_name, wal_name
from replicator.repository.manifests import read_summary
from replicator.repository.objects import check_object, open_object
from replicator.repository.repository import Repository
from replicator.seal.keyring import Keyring
from replicator.snapshot.presence import missing_packs
from replicator.store import Prefixed
from replicator.store.directory import DirectoryStore
from replicator.store.protocol import ReadableStore
from tests.clusters import TestCluster
from tests.stream.streams import SLOT, Tap, catalog

MB = 2**20


@dataclass
class Site:
    """A source that keeps all its WAL, the repository that its stream fills, and what was seen so far. `began` is where
    the slot stood at first.
    """

    cluster: TestCluster
    repository: Repository
    home: Path
    began: Lsn
    acknowledge: str = "spool"
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    covered: dict[str, Coverage] = field(default_factory=dict)
    compared: set[tuple[str, str]] = field(default_factory=set)

    @property
    def spool(self) -> Path:
        """The stream's spool."""
        return self.home / "spool"


def check_promises(site: Site, *, repaired: bool = True) -> None:
    """Hold everything that is there against promises 1 to 6. May be called while the stream runs. Not `repaired`: the
    spool was just lost, and nobody has looked yet what of it is gone.
    """
    acknowledged = _acknowledged(site.cluster)
    spooled = _spool_end(site)
    held = {name: catalog(site.repository, site.cluster.system_id, name, MB) for name in site.repository.stores}
    _acknowledged_is_durable(site, acknowledged, spooled, held)
    for name, store in held.items():
        _store_is_byte_exact(site, name, store)
        _objects_are_as_they_were(site, name, store)
        if repaired:
            _gaps_are_recorded(site, store)
        check_snapshots(site.repository.store(name), store, site.repository.keyring)
        _absent_is_not_broken(site, name)


def _acknowledged(cluster: TestCluster) -> Lsn:
    """What the source need not keep for us: the flush position that it heard last."""
    query = "SELECT coalesce(restart_lsn, '0/0')::text FROM pg_replication_slots WHERE slot_name = %s"
    rows = cluster.sql(query, (SLOT,))
    return Lsn.parse(rows[0][0]) if rows else Lsn(0)


def _source_bytes(cluster: TestCluster, segment: Segment, start: Lsn, end: Lsn) -> bytes:
    with (cluster.directory / "pg_wal" / segment.name).open("rb") as file:
        file.seek(start - segment.start)
        return file.read(end - start)


def _spool_end(site: Site) -> Lsn:
    """The end of what the spool's files hold; each is a beginning of the source's own."""
    end = Lsn(0)
    for path in site.spool.glob("*/wal/*/*"):
        try:
            segment = Segment.parse(path.name.removesuffix(".partial"), MB)
        except UsageError:
            continue
        with suppress(FileNotFoundError):  # let go of, or completed, meanwhile
            data = path.read_bytes()
            assert data == _source_bytes(site.cluster, segment, segment.start, Lsn(segment.start + len(data))), path
            end = max(end, Lsn(segment.start + len(data)))
    return end


def _acknowledged_is_durable(site: Site, acknowledged: Lsn, spooled: Lsn, held: dict[str, StoreCatalog]) -> None:
    """Promise 1, by the policy's place. The slot's own beginning was never acknowledged."""
    timeline = max((number for store in held.values() for number in store.coverage.by_timeline), default=0)
    ends = [store.coverage.end(timeline) or Lsn(0) for store in held.values()]
    durable = {"spool": max(spooled, *ends), "store": max(ends), "stores": min(ends)}[site.acknowledge]
    assert acknowledged <= max(durable, site.began), (acknowledged, spooled, ends)


def _store_is_byte_exact(site: Site, name: str, store: StoreCatalog) -> None:
    """Promises 1 and 2: what a store says it covers opens, and is what the source wrote."""
    driver = site.repository.store(name)
    for object_name, segment, start, end in _wal_objects(site, store):
        if (name, object_name) in site.compared:
            continue
        with suppress(ObjectAbsent):  # a piece that gave way to its segment meanwhile
            data = open_object(driver, object_name, site.repository.keyring).read()
            assert data == _source_bytes(site.cluster, segment, start, end), object_name
            site.compared.add((name, object_name))
    before = site.covered.get(name, Coverage.of())
    for run in before.ranges():
        assert store.coverage.holds(run.timeline, run.start, run.end), f"{name} lost {run}"
    site.covered[name] = store.coverage


def _wal_objects(site: Site, store: StoreCatalog) -> Iterator[tuple[str, Segment, Lsn, Lsn]]:
    for segment_name, names in store.wal.items():
        segment = Segment.parse(segment_name, MB)
        for name in names:
            yield name, segment, segment.start, segment.end
    for info in site.repository.store(store.store).list(f"{store.system_id}/pieces/"):
        piece = parse_name(info.name)
        if isinstance(piece, PieceName):
            yield info.name, Segment.parse(piece.segment, MB), piece.start, piece.end


def _objects_are_as_they_were(site: Site, name: str, store: StoreCatalog) -> None:
    """Promise 3: no object changed, none but replaced pieces went, and no segment has two contents."""
    assert store.conflicts == ()
    root = site.home / "stores" / name
    now: dict[tuple[str, str], bytes] = {}
    for directory, _, files in os.walk(root):  # pathlib's own walk minds directories that go meanwhile
        for path in (Path(directory) / file for file in files if not file.startswith(".tmp-")):
            with suppress(FileNotFoundError):
                now[name, path.relative_to(root).as_posix()] = blake3(path.read_bytes()).digest()
    for key, digest in site.objects.items():
        if key[0] == name:
            assert now.get(key, digest) == digest, f"{key} changed"
            assert key in now or "/pieces/" in key[1], f"{key} is gone"
    site.objects = {key: digest for key, digest in site.objects.items() if key[0] != name} | now


def _gaps_are_recorded(site: Site, store: StoreCatalog) -> None:
    """Promise 6: what a store's run lacks is said by a note; or the spool or another store has it still, to be put in
    its turn. While a stream runs, a hole that was filled since the catalog was read is none.
    """
    for _ in range(3):
        waiting = {path.name.removesuffix(".partial") for path in site.spool.glob("*/wal/*/*")}
        others = [catalog(site.repository, store.system_id, name, MB).coverage for name in site.repository.stores]
        silent = [
            hole
            for hole in _unrecorded(store)
            if Segment.holding(hole.timeline, hole.start, MB).name not in waiting
            and not any(other.holds(hole.timeline, hole.start, hole.end) for other in others)
        ]
        if not silent:
            return
        store = catalog(site.repository, site.cluster.system_id, store.store, MB)
    raise AssertionError(f"nobody says of {store.store} that it lacks {silent}")


def _unrecorded(store: StoreCatalog) -> Iterator[LsnRange]:
    for hole in holes(store.coverage):
        if not any(gap.start <= hole.start and hole.end <= gap.end for gap in store.recorded_gaps):
            yield hole


def check_snapshots(store: ReadableStore, held: StoreCatalog, keyring: Keyring) -> None:
    """Promise 4: a manifest that is there opens, every pack it names is whole, and its WAL is covered."""
    for snapshot in list_snapshots(store, held.system_id):
        summary = read_summary(store, snapshot, keyring)
        assert missing_packs(store, snapshot.system_id, summary.packs) == []
        assert held.coverage.holds(snapshot.timeline, snapshot.start, snapshot.stop)
    for info in store.list(f"{held.system_id}/packs/"):
        if "begin-" not in info.name:
            check_object(store, info.name, keyring)


def _absent_is_not_broken(site: Site, name: str) -> None:
    """Promise 5: "absent" is said by a store that answered, and one that doesn't answer is never an empty one."""
    nowhere = wal_name(site.cluster.system_id, Segment.holding(1, Lsn(0), MB), "0" * 16)
    driver = DirectoryStore(name, site.home / "stores" / name)
    with pytest.raises(ObjectAbsent):
        Prefixed(driver, "frk/").get(nowhere)
    silent = Tap(driver)
    silent.closed = True
    for question in (lambda store: store.get(nowhere), lambda store: read_catalog(store, 1, site.repository.keyring)):
        with pytest.raises(StoreUnavailable):
            question(Prefixed(silent, "frk/"))
