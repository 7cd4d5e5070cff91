"""Taking one snapshot: mark, parent, base backup, packs, WAL, and last of all the manifest.

Owns the order of these steps, which is what makes a snapshot exist if and only if it can be restored. A store that
fails is left out; the snapshot is complete when at least one store has all of it.
"""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from replicator.core.coverage import LsnRange
from replicator.core.finding import Finding
from replicator.core.moment import to_microseconds
from replicator.core.progress import Progress, Report
from replicator.core.snapshot import Snapshot
from replicator.errors import HostLacks, StoreUnavailable, StreamNotRunning
from replicator.postgres.connection import Identity, ReplicationConnection
from replicator.repository.catalog import list_snapshots
from replicator.repository.layout import PackId, manifest_name
from replicator.repository.manifests import SnapshotFacts, write_manifest
from replicator.repository.repository import check_store
from replicator.snapshot.begin import Begun, attempt, exclude_others, free_label, put_mark
from replicator.snapshot.channels import Channels
from replicator.snapshot.choice import Sources
from replicator.snapshot.index import IndexWriter
from replicator.snapshot.job import TakeJob, TakeResult
from replicator.snapshot.manifest import extend_locks, put_once, refuse_lacking
from replicator.snapshot.outcome import findings_of, row_of
from replicator.snapshot.packer import Packer, PackPlace
from replicator.snapshot.parent import Parent, choose_parent, load_parent
from replicator.snapshot.participants import Participants
from replicator.snapshot.resume import Leftovers, bound_to
from replicator.snapshot.row import SnapshotRow
from replicator.snapshot.runs import SMALLEST
from replicator.snapshot.source import Asked, Ended, Intake, Totals
from replicator.snapshot.standby import Stored
from replicator.snapshot.wal import WalNeed, wait_for_wal
from replicator.store.protocol import Store

#: Settings that a restore needs to know of its source; those that the role may not read are absent.
SETTINGS = (
    "block_size", "config_file", "data_checksums", "data_directory", "data_directory_mode", "hba_file", "ident_file",
    "max_connections", "max_locks_per_transaction", "max_prepared_transactions", "max_wal_senders",
    "max_worker_processes", "port", "server_encoding", "shared_preload_libraries", "unix_socket_directories",
    "wal_level", "wal_segment_size",
)  # fmt: skip
_LEFT_OVER_S = 3600


def take(job: TakeJob, report: Report, stop: Event) -> TakeResult:
    """Take a snapshot. Progress goes to `report`; once `stop` is set the attempt is abandoned with Interrupted.

    Raises StreamNotRunning without a running stream, Conflict while another take is alive, StoreUnavailable when no
    store is left, SourceUnavailable and its kinds, HostLacks, KeysError.
    """
    started = job.clock.monotonic()
    with attempt() as number:
        row, findings = _Take(job, report, stop, number).run()
    return TakeResult(row, job.clock.monotonic() - started, tuple(findings))


@dataclass(frozen=True)
class _Read:
    """What a finished base backup left."""

    snapshot: Snapshot
    start_us: int
    stop_us: int
    totals: Totals
    added_bytes: int
    tablespaces: tuple[dict[str, object], ...]
    damage: tuple[str, ...]


class _Take:
    def __init__(self, job: TakeJob, report: Report, stop: Event, number: int) -> None:
        self._job = job
        self._report = report
        self._stop = stop
        self._attempt = number
        self._keyring = job.repository.keyring
        self._directory = job.state_directory / "snapshot"
        self._server_epoch_us = 0
        self._sources = Sources(job, report)
        self._participants = Participants(job.repository.stores, job.clock, job.store_deadline_s, stop)

    def run(self) -> tuple[SnapshotRow, list[Finding]]:
        job = self._job
        settings = self._look_at_server()
        with job.connect() as connection:
            identity = connection.identify()
            segment_size = connection.wal_segment_size
            begun, parent, findings = self._begin(identity)
            key = parent.index.key if parent is not None else self._leftovers.key or secrets.token_bytes(32)
            taking = self._directory / f"taking-{self._attempt:08x}.sqlite"
            with IndexWriter(taking, key, parent.index if parent is not None else None) as index:
                self._leftovers.carry(index, begun.label)
                index.add_packs(parent.sizes if parent is not None else {})
                read = self._read(connection, begun, parent, index, key, settings)
                connection.close()
                self._wait_for_wal(read.snapshot, segment_size)
                facts = SnapshotFacts(
                    snapshot=read.snapshot, cluster=job.repository.cluster,
                    parent=parent.snapshot.label if parent is not None else None,
                    start_us=read.start_us, stop_us=read.stop_us, server_version=connection.server_version,
                    wal_segment_size=segment_size, checksums=settings.get("data_checksums") == "on",
                    comparison_key=key, block_page=int(settings.get("block_size", 8192)), settings=settings,
                    tablespaces=read.tablespaces, findings=read.damage,
                )  # fmt: skip
                holders = self._put_manifest(facts, read, index)
                self._keep(index, parent, read.snapshot)
        row = row_of(facts, read.totals.bytes, read.added_bytes, holders)
        return row, [*findings, *findings_of(facts, self._participants.left_out), *self._sources.notes]

    def _look_at_server(self) -> dict[str, str]:
        """The settings to remember; fails at once when nobody streams, as the WAL of a backup would never come."""
        job = self._job
        self._progress("start")
        with job.sql() as sql:
            slot = sql.slot_state(job.slot)
            if slot is None or not slot.active:
                state = "does not exist" if slot is None else "is not active"
                raise StreamNotRunning(
                    f"slot {job.slot} {state}: no stream of {job.repository.cluster} is running",
                    hint=f"Start `replicator daemon {job.repository.cluster}`, then take the snapshot.",
                )
            self._sources.look(sql)
            settings = sql.settings(SETTINGS)
            asked = job.clock.monotonic()
            self._server_epoch_us = to_microseconds(sql.clock()) - round(asked * 1e6)
        job.steps("slot")
        return settings

    def _server_us(self) -> int:
        """The server's time, which is what target times mean: not before it, later by a round trip at most."""
        return self._server_epoch_us + round(self._job.clock.monotonic() * 1e6)

    def _begin(self, identity: Identity) -> tuple[Begun, Parent | None, list[Finding]]:
        job, system_id = self._job, identity.system_id

        def look(name: str, store: Store) -> tuple[Snapshot, ...]:
            if not check_store(job.repository, name):
                raise StoreUnavailable(
                    f"store {name} holds no repository yet",
                    hint=f"Run `replicator init {job.repository.cluster}` to give it this one.",
                    store=name,
                )
            return list_snapshots(store, system_id)

        held = self._participants.each(look, what="looking at the stores")
        job.steps("stores")
        chosen: Snapshot | None = None
        findings: list[Finding] = []
        if not job.full:
            chosen, findings = choose_parent(self._participants, held, self._keyring, self._parent_path, job.opening)
        # The label is as fresh as can be when the mark is put: that makes the lower label the earlier mark.
        label = free_label(self._participants, system_id, job.clock, self._stop)
        begun = Begun(system_id, label, self._attempt)
        parent_label = chosen.label if chosen is not None else None
        self._leftovers = Leftovers(self._directory, bound_to(self._keyring, system_id, chosen))
        put_mark(
            self._participants, self._keyring, begun, parent_label, job.clock.now(), continues=self._leftovers.labels
        )
        findings += exclude_others(self._participants, self._keyring, begun)
        job.steps("begun")
        self._clean()
        parent: Parent | None = None
        if chosen is not None:
            parent, unusable = load_parent(self._participants, chosen, self._keyring, self._parent_path, job.opening)
            findings += unusable
        if parent is None and chosen is not None:
            self._leftovers.close()  # they refer to what can not be referred to
        self._leftovers.confirm(self._participants, self._keyring, begun, parent.index if parent is not None else None)
        job.steps("parent")
        return begun, parent, findings

    @property
    def _parent_path(self) -> Path:
        return self._directory / "parent.sqlite"

    def _clean(self) -> None:
        """Forget what crashed takes left, once it is so old that no take can still write it: nobody else is alive."""
        before = self._job.clock.now().timestamp() - _LEFT_OVER_S
        for path in self._directory.glob("*-????????.*"):
            with suppress(OSError):  # another take may be cleaning too
                if path.stat().st_mtime < before and path.with_suffix(".sqlite") not in self._leftovers.paths:
                    path.unlink()

    def _read(
        self, connection: ReplicationConnection, begun: Begun, parent: Parent | None, index: IndexWriter, key: bytes,
        settings: dict[str, str],
    ) -> _Read:  # fmt: skip
        job = self._job
        self._progress("checkpoint")
        start_us = self._server_us()
        place = PackPlace(
            self._keyring, begun.system_id, begun.label, begun.attempt, job.compression, job.level
        )  # fmt: skip
        asked = Asked(f"replicator {begun.label}", job.checkpoint, job.rate_limit, settings)
        stored = Stored(
            self._participants, begun.system_id, connection.wal_segment_size, job.clock, self._stop
        )  # fmt: skip
        with ExitStack() as stack:
            source = stack.enter_context(self._sources.open(connection, asked, stored))
            job.steps("backup")
            channels = stack.enter_context(Channels(self._participants, job.clock, job.store_deadline_s, self._stop))
            executor = ThreadPoolExecutor(job.workers, thread_name_prefix="snapshot-work")
            stack.callback(executor.shutdown, wait=True, cancel_futures=True)

            def packed(pack: PackId, plain: int, sealed: int) -> None:
                index.add_packs({pack: (plain, sealed)})
                index.checkpoint()
                job.steps("packed")

            packer = Packer(place, channels, executor, ahead=job.workers + 1, packed=packed, pack_size=job.pack_size)
            intake = Intake(
                index, packer, key, self._leftovers.over(parent.index if parent is not None else None),
                max(int(settings.get("block_size", 8192)), SMALLEST), executor, job.workers, self._directory, job.clock,
                self._report, self._stop, job.steps,
            )  # fmt: skip
            totals, ended = source.read(intake)
            packer.finish()
            job.steps("read")
            self._progress("packs")
            channels.finish()
            return self._outcome(begun, start_us, totals, packer.added_bytes, ended)

    def _outcome(self, begun: Begun, start_us: int, totals: Totals, added_bytes: int, ended: Ended) -> _Read:
        snapshot = Snapshot(begun.label, begun.system_id, ended.timeline, ended.start, ended.stop)
        return _Read(snapshot, start_us, self._server_us(), totals, added_bytes, ended.tablespaces, ended.damage)

    def _wait_for_wal(self, snapshot: Snapshot, segment_size: int) -> None:
        job = self._job
        total = snapshot.stop - snapshot.start
        self._report(Progress("snapshot", "wal", 0, total, facts={"stop_lsn": str(snapshot.stop)}))
        wait_for_wal(
            self._participants,
            WalNeed(snapshot.system_id, segment_size, LsnRange(snapshot.timeline, snapshot.start, snapshot.stop)),
            clock=job.clock, stop=self._stop, deadline_s=job.wal_deadline_s, report=self._report,
        )  # fmt: skip
        job.steps("wal")

    def _put_manifest(self, facts: SnapshotFacts, read: _Read, index: IndexWriter) -> tuple[str, ...]:
        """The stores that now have the snapshot. Each is asked right before for every pack, the parents' too; where it
        locks objects, their locks are extended.
        """
        job, packs, snapshot = self._job, read.totals.packs, facts.snapshot
        path = self._directory / f"manifest-{self._attempt:08x}.new"
        totals = {"added_bytes": read.added_bytes, "bytes": read.totals.bytes, "files": read.totals.files}
        try:
            with open(path, "wb", opener=_private) as file:
                name = write_manifest(
                    self._keyring, job.level, facts, self._attempt, index.lines(), packs, totals, file.write
                )
            job.steps("sealed")
            self._progress("manifest")
            extend_locks(self._participants, self._keyring, snapshot, self._attempt, packs)

            def put(_: str, store: Store) -> None:
                refuse_lacking(store, snapshot.system_id, packs)
                put_once(store, name, path, self._keyring, self._attempt)

            holders = self._participants.each(put, what="putting the manifest", to_the_end=True)
            index.settle()
            job.steps("manifest")
            return tuple(sorted(set(holders) & set(self._participants.active)))
        except OSError as error:
            raise HostLacks(
                f"{path} can not be written: {(error.strerror or 'unknown reason').lower()}",
                hint="See that the state directory has room and is ours.",
            ) from error
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, index: IndexWriter, parent: Parent | None, snapshot: Snapshot) -> None:
        """Remember the hashes for the next take. The snapshot exists already: failing here costs only time later."""
        if parent is not None:
            parent.index.close()
        try:
            index.keep(self._parent_path, manifest_name(snapshot))
            self._leftovers.delete()
        except HostLacks as error:
            self._report(Progress("snapshot", "kept", facts={"warning": error.message}))
        self._job.steps("kept")

    def _progress(self, phase: str) -> None:
        self._report(Progress("snapshot", phase))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
