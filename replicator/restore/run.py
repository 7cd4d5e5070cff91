"""A restore from the plan to a directory that can start, or to a server that has recovered.

Owns the order: everything is checked before the directory is touched, and pg_control gets its name last. An aborted
restore leaves a directory that can not start, and says so.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from replicator.core.moment import to_microseconds
from replicator.core.progress import Progress
from replicator.core.target import TargetKind
from replicator.errors import (
    BinariesMissing,
    CannotOpen,
    HostLacks,
    IntegrityError,
    ReplicatorError,
    TargetUnreachable,
)
from replicator.postgres.binaries import Binaries
from replicator.postgres.waldump import Waldump
from replicator.repository.manifests import ManifestReader, SnapshotFacts
from replicator.restore import host, neighbours, settings, start, tablespaces
from replicator.restore.announce import announced
from replicator.restore.fill import fill, owned, prepared
from replicator.restore.gather import Gathered, gather, plan_from
from replicator.restore.job import RestoreJob, RestoreResult
from replicator.restore.plan import RecoveryPlan
from replicator.restore.prefetch import Prefetcher
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.sources import Sources
from replicator.restore.tree import Tree, host_errors
from replicator.restore.walprobe import WaldumpProbe

_READS_WAL = (TargetKind.TIME, TargetKind.XID, TargetKind.NAME)


def make_plan(job: RestoreJob) -> RecoveryPlan:
    """The plan, as `--dry-run` shows it; touches nothing.

    Raises what `plan` does, CannotOpen and BinariesMissing for a target that only the WAL can answer, StoreUnavailable.
    """
    gathered = gather(job.repository, quick=True)
    with _probe(job, gathered) as probe:
        return plan_from(job.repository, job.request, gathered, probe)


def _probe(job: RestoreJob, gathered: Gathered) -> AbstractContextManager[WaldumpProbe | None]:
    kind = job.request.target.kind
    if not job.request.can_open:
        if kind in (TargetKind.XID, TargetKind.NAME):
            raise _can_not_open(job)
        return nullcontext()
    if kind is TargetKind.IMMEDIATE:
        return nullcontext()  # to who wants the snapshot alone each window's last commit is worth no reading of WAL
    facts = _any_facts(job, gathered)
    if facts is None:
        return nullcontext()
    try:
        binaries = job.binaries(_major(facts))
        binaries.program("pg_waldump")
    except BinariesMissing:
        if kind in _READS_WAL:
            raise
        return nullcontext()
    return WaldumpProbe(job.repository, Waldump(binaries))


def _any_facts(job: RestoreJob, gathered: Gathered) -> SnapshotFacts | None:
    """The facts of the snapshot asked for, else of the newest whose manifest opens: which PostgreSQL this is."""
    found = [(snapshot, view) for view in gathered.views for snapshot in view.catalog.snapshots]
    damaged: IntegrityError | None = None
    for snapshot, view in sorted(found, key=lambda item: item[0].label, reverse=True):
        if job.request.snapshot in (None, snapshot.label):
            try:
                store = job.repository.store(view.catalog.store)
                return ManifestReader(store, snapshot, job.repository.keyring).facts
            except IntegrityError as error:
                damaged = error
    if damaged is not None:
        raise damaged
    return None


def _can_not_open(job: RestoreJob) -> CannotOpen:
    return CannotOpen(
        f"this host holds no private key of {job.repository.cluster}'s repository",
        hint="Give [encryption] passphrase or identity in the policy, --identity FILE, or --sheet FILE.",
    )


def _major(facts: SnapshotFacts) -> int:
    return facts.server_version // 10000


def restore(job: RestoreJob) -> RestoreResult:
    """Plan, fetch, configure, and start when asked to.

    Raises what `make_plan` does, AlreadyExists, UsageError, HostLacks, IntegrityError, StoreUnavailable, Interrupted.
    """
    began = time.monotonic()
    if not job.request.can_open:
        raise _can_not_open(job)
    present = prepared(job)
    job = owned(job, present)
    host.check_options(job.owner, job.port, starts=job.start)
    plan = job.plan or make_plan(job)
    if plan.missing:
        raise TargetUnreachable(
            f"{len(plan.missing)} WAL files of the plan are not in store {plan.store}: {', '.join(plan.missing[:3])}",
            windows=tuple(window.as_json() for window in plan.windows),
            hint="Name another store with --store, or another snapshot with --snapshot.",
        )
    if job.start:
        host.check_host(job.into, job.owner, job.port)
    store = job.repository.store(plan.store)
    others = [job.repository.store(name) for name in job.repository.stores if name != plan.store]
    sources = Sources((store, *others))
    manifest = ManifestReader(store, plan.snapshot, job.repository.keyring)
    binaries = job.binaries(_major(manifest.facts)) if job.start else None
    spaces = tablespaces.check(manifest.facts, job.tablespaces, job.into)
    if not job.guarded:
        known = [int(space["oid"]) for space in manifest.facts.tablespaces]
        neighbours.check_tablespaces(plan.snapshot.system_id, known, _end_us(job, manifest.facts))
    tree = Tree(job.into, spaces, job.owner)
    with announced(store, job.repository.keyring, plan) as warnings, tree:
        filled = fill(job, plan, manifest, sources, tree, present)
        job.step("fetched")
        notes = [*plan.warnings, *warnings, *filled, *_configure(job, plan, manifest.facts, tree)]
        unreachable = host.reach_note(job.into, job.owner)
        notes += [unreachable] if unreachable is not None else []
        started = _bring_up(job, plan, sources, tree, binaries, notes)
    return RestoreResult(plan, job.into, started, time.monotonic() - began, (*notes, *sources.notes()))


def _end_us(job: RestoreJob, facts: SnapshotFacts) -> int | None:
    """The time at which the recovery ends, in Unix microseconds, where the target tells."""
    target = job.request.target
    if target.kind is TargetKind.IMMEDIATE:
        return facts.stop_us
    return to_microseconds(target.time) if target.time is not None else None


def _configure(job: RestoreJob, plan: RecoveryPlan, facts: SnapshotFacts, tree: Tree) -> list[str]:
    """Settings, the signal file, configuration that the tree lacks. What it had to add is told."""
    notes: list[str] = []
    root = tree.inside()
    recovery = RecoveryDirectory.beside(job.into)
    told = settings.RecoverySettings(
        plan.stop, plan.timeline, job.request.action, recovery.restore_command, recovery.end_command,
        facts.server_version, facts.settings,
    )  # fmt: skip
    with host_errors(job.into):
        tablespaces.rewrite_map(root, facts, tree.tablespaces)
        for name, text in settings.minimal_files(facts.settings).items():
            if not os.path.lexists(root / name):
                _write(root / name, text)
                notes.append(f"the snapshot holds no {name}: a minimal one was written")
        conf = root / "postgresql.auto.conf"
        held = _read(conf)
        _write(conf, settings.append(held, told))
        (root / "standby.signal").unlink(missing_ok=True)
        _write(root / "recovery.signal", "")
    lacking = start.missing_includes(root)
    if lacking:
        notes.append(f"postgresql.conf includes files that this host lacks: {', '.join(lacking)}")
    return notes


def _read(path: Path) -> str:
    """A file of the tree, empty where there is none; never what a link of a manifest points to."""
    if not os.path.lexists(path):
        return ""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        return file.read().decode("utf-8", "surrogateescape")


def _write(path: Path, text: str) -> None:
    with open(
        path, "w", encoding="utf-8", errors="surrogateescape",
        opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600),
    ) as file:  # fmt: skip
        file.write(text)


def _bring_up(
    job: RestoreJob, plan: RecoveryPlan, sources: Sources, tree: Tree, binaries: Binaries | None, notes: list[str]
) -> start.Started | None:
    recovery = RecoveryDirectory.beside(job.into)
    keyring = job.repository.keyring
    recovery.create(plan, job.repository.cluster, keyring, job.access[plan.store], job.command)
    published = False
    try:
        prefetcher = Prefetcher(
            recovery, sources, keyring, plan.files, plan.needed, owner=job.owner, window=job.window,
            workers=job.workers, report=job.report, stop=job.stop,
        )  # fmt: skip
        prefetcher.histories(plan.snapshot.system_id, plan.histories)
        if binaries is None:
            prefetcher.fill()
            if not prefetcher.fits:
                host.check_command(job.command, job.owner)
                notes.append("more WAL than was prefetched is needed: the server will run replicator for it")
        job.step("prefetched")
        job.report(Progress("restore", "durable"))
        tree.make_durable(job.owner, job.workers)
        recovery.make_durable()
        recovery.give(job.owner)
        job.step("durable")
        tree.publish_control()
        published = True
        job.step("published")
        if binaries is None:
            return None
        job.report(Progress("restore", "recovery"))
        with prefetcher:
            started = _start(job, recovery, binaries, prefetcher)
        if not (job.into / "recovery.signal").exists():
            recovery.remove()  # once more: the prefetcher may have been writing there
        return started
    except BaseException:
        if not published:  # afterwards the directory can be started again, and needs it
            recovery.remove()
        raise


def _start(job: RestoreJob, recovery: RecoveryDirectory, binaries: Binaries, prefetcher: Prefetcher) -> start.Started:
    try:
        return start.start(
            job.into, recovery, binaries,
            owner=job.owner, port=job.port, stop=job.stop, pauses=job.request.action == "pause", options=job.options,
        )  # fmt: skip
    except HostLacks as error:
        if isinstance(prefetcher.error, ReplicatorError):
            raise prefetcher.error from error  # the server died because its WAL could not be fetched
        raise
