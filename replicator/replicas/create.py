"""Making a replica: the newest snapshot of any store, its own slot, a server that follows the primary.

Owns the order: the mark first, then the slot, then the data, pg_control last. Until then a failure takes everything
away again; afterwards the server stays, for its log to be read. It reads no data of the primary.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from replicator.core.lsn import Lsn
from replicator.core.progress import Progress
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import AlreadyExists, CannotOpen, ForeignSource, HostLacks, ReplicatorError
from replicator.postgres.binaries import run
from replicator.postgres.localserver import LocalServer
from replicator.postgres.standby import passfile_line, primary_conninfo
from replicator.replicas import server
from replicator.replicas.job import Created, ReplicaJob, check_kind, check_owner
from replicator.replicas.place import MARK, ReplicaMark
from replicator.replicas.remove import drop_slot, take_away
from replicator.replicas.settings import ReplicaSettings, append
from replicator.repository.manifests import ManifestReader
from replicator.repository.repository import Repository
from replicator.restore import host, settings, tablespaces
from replicator.restore.access import StoreAccess
from replicator.restore.fetch import Fetch
from replicator.restore.gather import gather, plan_from
from replicator.restore.plan import PlanRequest, RecoveryPlan
from replicator.restore.prefetch import DEFAULT_WINDOW, Prefetcher
from replicator.restore.start import missing_includes, overrides, socket_directory
from replicator.restore.tree import Tree, host_errors

_log = logging.getLogger(__name__)

#: Seconds that a standby's restore_command tries a store.
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Primary:
    """The primary when the work began."""

    system_id: int
    end: Lsn
    settings: dict[str, str]


def create(job: ReplicaJob) -> Created:
    """Make the replica and return when it follows.

    Raises UsageError, AlreadyExists, CannotOpen, SnapshotNotFound, TargetUnreachable, ForeignSource, HostLacks,
    SourceUnavailable, StoreUnavailable, IntegrityError, Interrupted.
    """
    began = job.clock.monotonic()
    check_kind(job.policy)
    check_owner(job.owner)
    place, data = job.place, job.policy.data_directory
    place.check_new(job.cluster, job.policy.name)
    Tree(data, job.tablespaces).check_empty()
    host.check_host(data, job.owner, job.policy.port)
    primary = _look_at_primary(job)
    repository = job.repository()
    plan = _plan(job, repository, primary)
    store = repository.store(plan.store)
    manifest = ManifestReader(store, plan.snapshot, repository.keyring)
    binaries = job.binaries(manifest.facts.server_version // 10000)
    tree = Tree(data, tablespaces.check(manifest.facts, job.tablespaces, data))
    host.check_room(data, plan.summary.bytes, job.tablespaces.values())
    mark = ReplicaMark.new(job.cluster, job.policy.name, data, job.slot, job.owner, tuple(job.tablespaces.values()))
    place.begin(mark)
    _make_slot(job, mark)
    with _all_or_nothing(job, mark), tree:
        job.step("slot")
        tree.create()
        job.step("created")
        Fetch(store, repository.keyring, tree, job.workers, job.report, job.stop).run(manifest)
        job.step("fetched")
        reached, notes = second_source(job, repository)
        place.fill(repository, reached, _passfile(job), job.command)
        sockets = socket_directory(data, job.owner)
        notes += _configure(job, tree, manifest, primary, sockets)
        (tree.inside() / MARK).write_bytes(mark.to_bytes())
        (tree.inside() / MARK).chmod(0o600)
        job.report(Progress("replica", "durable"))
        tree.make_durable(job.owner, job.workers)
        place.give(job.owner)
        job.step("durable")
        tree.publish_control()
    job.step("published")
    running = server.local_server(job, binaries, sockets)
    replayed = _bring_up(job, running, repository, plan, primary.end)
    return Created(
        job.policy.name, plan.snapshot.label, plan.store, data, job.slot, running.port, running.pid, primary.end,
        replayed, plan.summary.bytes, job.clock.monotonic() - began, tuple(notes),
    )  # fmt: skip


def _look_at_primary(job: ReplicaJob) -> _Primary:
    with job.connect() as connection:
        identity = connection.identify()
        if connection.read_slot(job.slot) is not None:
            raise _slot_taken(job.slot)
    with job.sql() as sql:
        return _Primary(identity.system_id, sql.wal_end(), sql.settings(settings.AT_LEAST))


def _plan(job: ReplicaJob, repository: Repository, primary: _Primary) -> RecoveryPlan:
    """The newest snapshot and the complete segments after it. Raises ForeignSource for another system's."""
    if not repository.keyring.can_open:
        raise CannotOpen(
            f"this host holds no private key of {job.cluster}'s repository",
            hint="Give [encryption] passphrase or identity in the policy.",
        )
    request = PlanRequest(job.cluster, RecoveryTarget(TargetKind.LATEST))
    plan = plan_from(repository, request, gather(repository), None)
    if plan.snapshot.system_id != primary.system_id:
        raise ForeignSource(
            f"the newest snapshot is of system {plan.snapshot.system_id}, the primary's is {primary.system_id}",
            hint=f"Take a snapshot of this primary with `replicator snapshot take {job.cluster}`.",
        )
    return plan


@contextmanager
def _all_or_nothing(job: ReplicaJob, mark: ReplicaMark) -> Iterator[None]:
    """Nothing stays of a replica that can't start yet: its slot would hold the primary's WAL for nobody."""
    try:
        yield
    except AlreadyExists:  # somebody filled the directory since it was looked at: it is not ours to empty
        _undo(job, mark, files=False)
        raise
    except BaseException:
        _undo(job, mark)
        raise


def _undo(job: ReplicaJob, mark: ReplicaMark, *, files: bool = True) -> None:
    """Take away what was made. What can't be is still marked: `remove` does it later. Without `files` nothing but the
    slot was made, and the mark goes whatever happens: with it `remove` would take what is somebody else's.
    """
    job.stop.clear()  # whoever interrupted us wants it gone, too; a second interrupt ends the waiting here
    try:
        if files:
            take_away(job, mark)
            return
        job.place.forget()
        drop_slot(job, mark)
    except ReplicatorError as error:
        if not files:
            _log.warning("%s; drop the slot by hand", error.message)
            return
        _log.warning("%s; run `replicator replica remove %s %s`", error.message, job.cluster, job.policy.name)


def _make_slot(job: ReplicaJob, mark: ReplicaMark) -> None:
    """Make the slot, or leave nothing. One that somebody else made is never ours to drop."""
    try:
        with job.connect() as connection:
            connection.create_slot(mark.slot)
    except AlreadyExists as error:
        job.place.forget()
        raise _slot_taken(mark.slot) from error
    except BaseException:  # it may have been made all the same
        _undo(job, mark)
        raise


def _slot_taken(slot: str) -> AlreadyExists:
    return AlreadyExists(
        f"the primary has a slot {slot} already",
        hint="Another host may have made a replica of this name: drop the slot if nobody uses it, or choose another"
        " name in the policy.",
    )


def _passfile(job: ReplicaJob) -> bytes | None:
    password = job.password()
    return passfile_line(password) if password is not None else None


def _configure(job: ReplicaJob, tree: Tree, manifest: ManifestReader, primary: _Primary, sockets: Path) -> list[str]:
    """Settings, the signal file, configuration that the tree lacks. What it had to add is told."""
    root, facts, place = tree.inside(), manifest.facts, job.place
    notes: list[str] = []
    with host_errors(place.data_directory):
        tablespaces.rewrite_map(root, facts, tree.tablespaces)
        for name, text in settings.minimal_files(facts.settings).items():
            if not os.path.lexists(root / name):
                _write(root / name, text)
                notes.append(f"the snapshot holds no {name}: a minimal one was written")
        passfile = place.passfile if place.passfile.exists() else None
        told = ReplicaSettings(
            primary_conninfo=primary_conninfo(
                job.conninfo, facts.server_version // 10000, application_name=job.policy.name, passfile=passfile
            ),
            slot=job.slot,
            restore_command=place.restore_command,
            port=job.policy.port,
            listen=server.listen_addresses(job),
            sockets=sockets,
            server_version=facts.server_version,
            primary=primary.settings,
            snapshot=facts.settings,
            overrides=_lasting(overrides(root), root, place.data_directory),
        )
        if "data_directory" in overrides(root):  # of all files it counts in this one alone, and the last line wins
            conf = root / "postgresql.conf"
            _write(conf, f"{_read(conf)}\ndata_directory = {settings.quote(str(place.data_directory))}\n")
        conf = root / "postgresql.auto.conf"
        _write(conf, append(_read(conf), told))
        (root / "recovery.signal").unlink(missing_ok=True)
        _write(root / "standby.signal", "")
    lacking = missing_includes(root)
    return [*notes, f"postgresql.conf includes files that this host lacks: {', '.join(lacking)}"] if lacking else notes


def _lasting(found: dict[str, str], root: Path, data_directory: Path) -> dict[str, str]:
    """Overrides that may stand in a file, with the paths of the data directory instead of our handle's."""
    kept = {name: value for name, value in found.items() if name != "data_directory"}
    return {name: value.replace(str(root), str(data_directory)) for name, value in kept.items()}


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


def second_source(job: ReplicaJob, repository: Repository) -> tuple[dict[str, StoreAccess], list[str]]:
    """The stores that the server's user can reach, for restore_command; and what is to be said of the others."""
    found = {name: _impatient(one) for name, one in job.access().items() if name in repository.stores}
    if job.owner is None:
        return found, []
    try:
        host.check_command(job.command, job.owner)
    except HostLacks:
        return {}, [f"{job.owner} can not run {job.command[0]}: the replica gets WAL from the primary alone"]
    closed = [name for name, access in found.items() if not _readable(access, job)]
    reached = {name: access for name, access in found.items() if name not in closed}
    notes = [f"{job.owner} can not read store {name}: the replica gets no WAL from there" for name in closed]
    return reached, notes


def _impatient(access: StoreAccess) -> StoreAccess:
    """The same, given up soon: while restore_command waits, the standby does not try its primary."""
    tolerance = access.tolerance
    budget, timeout = min(tolerance.retry_budget, _PATIENCE_S), min(tolerance.request_timeout, 2 * _PATIENCE_S)
    shorter = tolerance.model_copy(update={"retry_budget": budget, "request_timeout": timeout})
    return replace(access, tolerance=shorter)


def _readable(access: StoreAccess, job: ReplicaJob) -> bool:
    """Whether the server's user may read a directory store; an S3 store asks for keys, not for users."""
    if access.policy.scheme != "file":
        return True
    path = str(access.policy.directory / job.cluster)
    return run(["test", "-r", path, "-a", "-x", path], timeout=30, owner=job.owner).returncode == 0


def _bring_up(job: ReplicaJob, running: LocalServer, repository: Repository, plan: RecoveryPlan, target: Lsn) -> Lsn:
    """Start it, with what the repository has of whole segments fetched ahead of it, and wait until it follows."""
    whole = [
        file
        for file in plan.files
        if file.end == file.start + file.size and all(source.whole for source in file.sources)
    ]
    prefetcher = Prefetcher(
        job.place.recovery, repository.store(plan.store), repository.keyring, whole, len(whole), owner=job.owner,
        window=DEFAULT_WINDOW, workers=job.workers, report=job.report, stop=job.stop,
    )  # fmt: skip
    with prefetcher:
        server.start(job, running)
        job.step("started")
        replayed = server.follow(job, running, target)
    for left in job.place.recovery.ready.iterdir():
        left.unlink(missing_ok=True)
    return replayed
