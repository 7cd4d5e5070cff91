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
from replicator.errors import HostLacks, SourceUnavailable, StoreUnavailable, StreamNotRunning
from replicator.postgres.basebackup import BaseBackup, base_backup
from replicator.postgres.connection import Identity, ReplicationConnection
from replicator.repository.catalog import list_snapshots
from replicator.repository.layout import manifest_name
from replicator.repository.locks import extend_locks
from replicator.repository.manifests import SnapshotFacts, write_manifest
from replicator.repository.repository import check_store
from replicator.snapshot.backup import BackupReader, Totals
from replicator.snapshot.begin import Begun, attempt, exclude_others, free_label, put_mark
from replicator.snapshot.channels import Channels
from replicator.snapshot.index import IndexWriter
from replicator.snapshot.job import PAGE_CHECKSUM, STORE_LACKS, SnapshotRow, TakeJob, TakeResult
from replicator.snapshot.leftout import refuse_left_out
from replicator.snapshot.manifest import put_once
from replicator.snapshot.packer import Packer, PackPlace
from replicator.snapshot.parent import Parent, choose_parent, load_parent, missing_packs
from replicator.snapshot.participants import Participants
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
        self._participants = Participants(job.repository.stores, job.clock, job.store_deadline_s, stop)

    def run(self) -> tuple[SnapshotRow, list[Finding]]:
        job = self._job
        settings = self._look_at_server()
        with job.connect() as connection:
            identity = connection.identify()
            segment_size = connection.wal_segment_size
            begun, parent, findings = self._begin(identity)
            key = parent.index.key if parent is not None else secrets.token_bytes(32)
            with IndexWriter(self._directory / f"taking-{self._attempt:08x}.sqlite", key) as index:
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
        return self._row(facts, read, holders), [*findings, *self._findings(facts)]

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
            refuse_left_out(sql)
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
            chosen, findings = choose_parent(self._participants, held, self._keyring, self._parent_path)
        # The label is as fresh as can be when the mark is put: that makes the lower label the earlier mark.
        label = free_label(self._participants, system_id, job.clock, self._stop)
        begun = Begun(system_id, label, self._attempt)
        parent_label = chosen.label if chosen is not None else None
        put_mark(self._participants, self._keyring, begun, parent_label, job.clock.now())
        findings += exclude_others(self._participants, self._keyring, begun)
        job.steps("begun")
        self._clean()
        parent: Parent | None = None
        if chosen is not None:
            parent, unusable = load_parent(self._participants, chosen, self._keyring, self._parent_path)
            findings += unusable
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
                if path.stat().st_mtime < before:
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
        with ExitStack() as stack:
            backup = stack.enter_context(
                base_backup(connection, label=f"replicator {begun.label}", checkpoint=job.checkpoint,
                            max_rate=job.rate_limit)
            )  # fmt: skip
            job.steps("backup")
            channels = stack.enter_context(Channels(self._participants, job.clock, job.store_deadline_s, self._stop))
            executor = ThreadPoolExecutor(job.workers, thread_name_prefix="snapshot-seal")
            stack.callback(executor.shutdown, wait=True, cancel_futures=True)
            packer = Packer(place, channels, executor, ahead=job.workers + 1, packed=lambda: job.steps("packed"))
            reader = BackupReader(
                index, packer, key, parent.index if parent is not None else None,
                page=int(settings.get("block_size", 8192)), report=self._report, stop=self._stop, step=job.steps,
            )  # fmt: skip
            totals = reader.read(backup)
            packer.finish()
            job.steps("read")
            self._progress("packs")
            channels.finish()
            return self._outcome(begun, backup, start_us, totals, packer.added_bytes)

    def _outcome(self, begun: Begun, backup: BaseBackup, start_us: int, totals: Totals, added_bytes: int) -> _Read:
        if backup.stop_lsn is None or backup.stop_timeline != backup.timeline:
            raise SourceUnavailable(
                f"the server changed from timeline {backup.timeline} to {backup.stop_timeline} during the backup",
                hint="Take the snapshot again.",
            )
        snapshot = Snapshot(begun.label, begun.system_id, backup.timeline, backup.start_lsn, backup.stop_lsn)
        spaces = tuple(
            {"in_place": not space.location.startswith("/"), "location": space.location, "oid": space.oid}
            for space in backup.tablespaces
            if space.oid is not None
        )
        damage: tuple[str, ...] = ()
        if backup.checksum_failures:
            damage = tuple(backup.warnings) or ("the server found pages with wrong checksums",)
        return _Read(snapshot, start_us, self._server_us(), totals, added_bytes, spaces, damage)

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
        """The stores that now have the snapshot. Each is asked for every pack first, the parents' too, whose locks are
        extended where it has some.
        """
        job, packs, snapshot = self._job, read.totals.packs, facts.snapshot
        path = self._directory / f"manifest-{self._attempt:08x}.new"
        totals = {"added_bytes": read.added_bytes, "bytes": read.totals.bytes, "files": read.totals.files}
        try:
            with open(path, "wb", opener=_private) as file:
                name = write_manifest(
                    self._keyring, job.level, facts, self._attempt, index.entries(), packs, totals, file.write
                )
            job.steps("sealed")
            self._progress("manifest")

            def put(store_name: str, store: Store) -> None:
                lacking = missing_packs(store, snapshot.system_id, packs)
                if lacking:
                    raise StoreUnavailable(
                        f"store {store_name} lacks {len(lacking)} of {len(packs)} packs of the snapshot",
                        hint="Take a full snapshot with `--full`, or complete the store from another one.",
                        store=store_name,
                    )
                extend_locks(store, self._keyring, snapshot.system_id, packs, new=(snapshot.label, self._attempt))
                put_once(store, name, path, self._keyring, self._attempt)

            holders = self._participants.each(put, what="putting the manifest", to_the_end=True)
            job.steps("manifest")
            return tuple(sorted(set(holders) & set(self._participants.active)))
        except OSError as error:
            raise HostLacks(f"{path} can not be written: {(error.strerror or 'unknown reason').lower()}") from error
        finally:
            path.unlink(missing_ok=True)

    def _keep(self, index: IndexWriter, parent: Parent | None, snapshot: Snapshot) -> None:
        """Remember the hashes for the next take. The snapshot exists already: failing here costs only time later."""
        if parent is not None:
            parent.index.close()
        try:
            index.keep(self._parent_path, manifest_name(snapshot))
        except HostLacks as error:
            self._report(Progress("snapshot", "kept", facts={"warning": error.message}))
        self._job.steps("kept")

    def _row(self, facts: SnapshotFacts, read: _Read, holders: tuple[str, ...]) -> SnapshotRow:
        return SnapshotRow(
            facts.snapshot, facts.stop_us, facts.parent, read.totals.bytes, read.added_bytes, False, holders,
            bool(facts.findings),
        )  # fmt: skip

    def _findings(self, facts: SnapshotFacts) -> list[Finding]:
        label, name = facts.snapshot.label, manifest_name(facts.snapshot)
        hint = "The snapshot is complete and marked as damaged; repair the source, then take another."
        damage = [Finding(PAGE_CHECKSUM, text, hint, object=name, affects=label) for text in facts.findings]
        lacking = [
            Finding(
                STORE_LACKS,
                f"store {store} lacks the snapshot: {error.message}",
                error.hint,
                object=name,
                store=store,
                affects=label,
            )
            for store, error in sorted(self._participants.left_out.items())
        ]
        return damage + lacking

    def _progress(self, phase: str) -> None:
        self._report(Progress("snapshot", phase))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


__all__ = ["SETTINGS", "take"]
