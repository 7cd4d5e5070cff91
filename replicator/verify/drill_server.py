"""A restored cluster in scratch: recovered, running safely, and gone afterwards.

Owns the phases' times, and the watchdog that ends it when the time is over. It judges nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Event, Thread

from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.progress import Report
from replicator.errors import (
    DeadlineExceeded,
    HostLacks,
    Interrupted,
    RecoveryFailed,
    ReplicatorError,
    SourceRefused,
    SourceUnavailable,
)
from replicator.policy import VerifyPolicy
from replicator.postgres.binaries import Binaries
from replicator.postgres.binaries import run as execute
from replicator.postgres.conninfo import targets_of
from replicator.postgres.localserver import LocalServer
from replicator.postgres.query import SqlConnection
from replicator.postgres.tables import local_session, superusers
from replicator.repository.manifests import ManifestReader, SnapshotFacts
from replicator.restore.job import RestoreJob, RestoreResult
from replicator.restore.plan import PlanRequest, RecoveryPlan
from replicator.restore.run import restore
from replicator.tolerance import Deadline
from replicator.verify.drill_scratch import RunDirectory, clean, owner_of, prepare, run_directory
from replicator.verify.drill_settings import quiet_options, safe_settings
from replicator.verify.model import VerifyJob

#: Nobody but the owner and root gets as far as the socket.
_FILES = {"hba.conf": "local all all trust\n", "ident.conf": "", "postgresql.conf": "\n"}
_WATCH_S = 0.1
#: SQLSTATE "cannot connect now".
_NOT_YET = "57P03"
#: A statement that takes longer than this is one of a server that hangs.
_STATEMENT_S = 24 * 3600.0


@dataclass
class Phases:
    """Seconds by phase, in their order."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def end(self, name: str, *, at: float | None = None) -> None:
        """The phase that ran until now (or until a moment of the monotonic clock) was `name`."""
        now = max(self._since, time.monotonic() if at is None else at)
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._since, 3)
        self._since = now


@dataclass(frozen=True)
class Restored:
    """A recovered cluster whose server runs. `superuser`: a role that may do all."""

    run: RunDirectory
    binaries: Binaries
    facts: SnapshotFacts
    plan: RecoveryPlan
    result: RestoreResult
    owner: str | None
    port: int
    superuser: str
    deadline: Deadline
    libraries: str = ""

    @property
    def reached(self) -> Lsn | None:
        """Where its recovery ended."""
        return self.result.started.reached_lsn if self.result.started else None

    @property
    def quiet(self) -> tuple[str, ...]:
        """What a database or a role may not bring into a session."""
        return quiet_options(self.facts.server_version)

    def in_time(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """These findings while there is time: what a server that is ended says is none. Raises DeadlineExceeded."""
        for finding in findings:
            self.deadline.check("the drill")
            yield finding

    def session(self, database: str, *, plain: bool = False, timeout: float = _STATEMENT_S) -> SqlConnection:
        """A superuser's session; `plain`: with the database's own settings, as an application has it."""
        least = max(1.0, min(timeout, self.deadline.remaining()))
        options = [*self.quiet, *(() if plain else ("search_path=", "row_security=off"))]
        return local_session(str(self.run.data), self.port, self.superuser, database, timeout=least, options=options)

    def stop(self) -> None:
        """End the server with a checkpoint, so that its files are whole. Raises DeadlineExceeded."""
        server = LocalServer(self.run.data, self.binaries, self.owner, self.port, log=self.run.log)
        server.stop("fast", timeout=max(1.0, min(600.0, self.deadline.remaining())))


class Watchdog:
    """Ends the server when the drill is stopped or its time is over; `why` tells which. Use it in a with statement."""

    def __init__(self, run: RunDirectory, deadline: Deadline, stop: Event) -> None:
        self.stop = Event()
        self.why = ""
        self._run, self._deadline, self._outer = run, deadline, stop
        self._done = Event()
        self._thread = Thread(target=self._watch, name="drill-watchdog")

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def explained(self, error: ReplicatorError) -> ReplicatorError:
        """The error that this one really is, where it is the watchdog's doing."""
        if self.why == "interrupted":
            return Interrupted("the drill was interrupted")
        if self.why:
            return DeadlineExceeded(f"the drill's time is over ({error.message})", hint=error.hint)
        return error

    def _watch(self) -> None:
        while not self._done.wait(_WATCH_S):
            if self._outer.is_set() or self._deadline.over:
                self.why = self.why or ("interrupted" if self._outer.is_set() else "deadline")
                self.stop.set()
                self._run.stop_all(patience_s=2.0)


@contextmanager
def scratch_run(job: VerifyJob) -> Iterator[tuple[RunDirectory, str | None]]:
    """A new run directory in the policy's scratch, after what killed runs left was removed; and who owns it.

    Raises HostLacks.
    """
    scratch = (job.policy.verify or VerifyPolicy()).scratch
    owner = owner_of(job.owner, scratch, job.policy.source.data_directory)
    place = prepare(scratch, owner)
    clean(place)
    with run_directory(place, owner, _FILES) as made:
        yield made, owner


@contextmanager
def restored(
    job: VerifyJob, plan: RecoveryPlan, deadline: Deadline, phases: Phases, report: Report
) -> Iterator[Restored]:
    """Restore by a plan into scratch, recover, and find a superuser. The server runs until left; then nothing is left.

    A cluster that does not recover without its preloaded libraries is restored once more, with them. Raises what
    `restore` does, RecoveryFailed, DeadlineExceeded, Interrupted.
    """
    libraries = ""
    while True:
        with scratch_run(job) as (run, owner), Watchdog(run, deadline, job.stop) as dog:
            try:
                made = _recovered(job, plan, run, owner, libraries, dog.stop, deadline, phases, report)
            except ReplicatorError as error:
                again = isinstance(error, RecoveryFailed) and not libraries and not dog.why
                libraries = _preloaded(job, plan, run, owner) if again else ""
                if not libraries:
                    raise dog.explained(error) from error
                continue
            try:
                yield made
                if dog.why:  # the looks may have taken the end of their server for something else
                    raise RecoveryFailed("the drill's server was ended")
            except ReplicatorError as error:
                raise dog.explained(error) from error
            return


def _recovered(
    job: VerifyJob, plan: RecoveryPlan, run: RunDirectory, owner: str | None, libraries: str, stop: Event,
    deadline: Deadline, phases: Phases, report: Report,
) -> Restored:  # fmt: skip
    facts = ManifestReader(job.repository.store(plan.store), plan.snapshot, job.repository.keyring).facts
    steps = _Steps(phases, run)
    spaces = [int(space["oid"]) for space in facts.tablespaces if not space["in_place"]]
    # One store alone: what another would have to mend is what the drill is to find.
    alone, access = job.repository.only((plan.store,)), {plan.store: job.access()[plan.store]}
    wanted = RestoreJob(
        repository=alone, access=access, request=PlanRequest(job.cluster, plan.target), into=run.data,
        binaries=job.binaries, tablespaces={oid: run.path / f"tablespace-{oid}" for oid in spaces}, start=True,
        guarded=True, owner=owner, options=safe_settings(run, facts.server_version, libraries), plan=plan,
        report=report, stop=stop, step=steps,
    )  # fmt: skip
    try:
        result = restore(wanted)
        assert result.started is not None
        run.open_tablespaces()
        steps.recovered(run.data)
        role = _superuser(job, run, result.started.port, quiet_options(facts.server_version), stop)
    except (HostLacks, SourceUnavailable) as error:
        if not steps.published:
            raise
        raise RecoveryFailed(error.message, hint=error.hint, **error.context) from error
    binaries = job.binaries(facts.server_version // 10000)
    return Restored(run, binaries, facts, plan, result, owner, result.started.port, role, deadline, libraries)


class _Steps:
    """Listens to a restore's steps: when each phase ended, and whether the directory may be started. Before it is, the
    server is kept from making tablespaces.
    """

    def __init__(self, phases: Phases, run: RunDirectory) -> None:
        self.published = False
        self._phases = phases
        self._run = run

    def __call__(self, step: str) -> None:
        if step == "fetched":
            self._phases.end("fetch")
        elif step == "published":
            self._run.shut_tablespaces()
            self._phases.end("sync")
            self.published = True

    def recovered(self, data: Path) -> None:
        """Tell starting from replaying by what the server wrote down: it renames the backup's label before it replays,
        and writes the new timeline's history after.
        """
        ahead = time.time() - time.monotonic()
        histories = [path.stat().st_mtime for path in (data / "pg_wal").glob("*.history")]
        with suppress(OSError):
            self._phases.end("start", at=(data / "backup_label.old").stat().st_ctime - ahead)
        if histories:
            self._phases.end("replay", at=max(histories) - ahead)
        self._phases.end("start")


def _preloaded(job: VerifyJob, plan: RecoveryPlan, run: RunDirectory, owner: str | None) -> str:
    """The libraries that the restored settings preload; empty when there are none, or they can't be read."""
    manifest = ManifestReader(job.repository.store(plan.store), plan.snapshot, job.repository.keyring)
    postgres = job.binaries(manifest.facts.server_version // 10000).program("postgres")
    done = execute([str(postgres), "-D", str(run.data), "-C", "shared_preload_libraries"], timeout=30, owner=owner)
    return done.stdout.strip() if done.returncode == 0 else ""


def _superuser(job: VerifyJob, run: RunDirectory, port: int, quiet: Sequence[str], stop: Event) -> str:
    """A role that may do all and log in: postgres, or one that the policy's user can name. Raises RecoveryFailed."""
    ours = targets_of(job.policy.source.conninfo, None, application_name="replicator")[0].parameters.get("user")
    probes = job.policy.verify.probes if job.policy.verify is not None else ()
    places = ("postgres", "template1", *(probe.database for probe in probes))
    refused = ""
    users = dict.fromkeys(("postgres", *((ours,) if ours else ())))
    for user, told, database in product(users, (quiet, ()), dict.fromkeys(places)):  # who is no superuser sets nothing
        try:
            with _opened(run, port, user, database, told, stop) as session:
                found = superusers(session)
        except SourceRefused as error:
            refused = error.message
            continue
        if found:
            return user if user in found else found[0]
    raise RecoveryFailed(
        f"no superuser may log in to the restored cluster{f': {refused}' if refused else ''}",
        hint="Give a superuser of the source the attribute LOGIN.",
    )


def _opened(run: RunDirectory, port: int, user: str, database: str, quiet: Sequence[str], stop: Event) -> SqlConnection:
    """A first session. A server that has just recovered says so a moment before it lets anybody in."""
    while True:
        try:
            return local_session(str(run.data), port, user, database, timeout=60, options=quiet)
        except SourceUnavailable as error:
            if error.context.get("sqlstate") != _NOT_YET or stop.wait(_WATCH_S):
                raise
