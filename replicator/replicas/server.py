"""A replica's server on this host: started, watched until it follows, stopped.

Owns what "follows" means: it has replayed a position that was the primary's when the work began, and it streams.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path

from replicator.core.lsn import Lsn
from replicator.core.progress import Progress
from replicator.errors import HostLacks, Interrupted, ReplicatorError, SourceUnavailable
from replicator.postgres.binaries import Binaries
from replicator.postgres.localserver import LocalServer
from replicator.postgres.standby import StandbyFacts, facts_of_slot, standby_facts
from replicator.replicas.job import ReplicaJob
from replicator.restore.start import log_file

_TICK_S = 0.1


def local_server(job: ReplicaJob, binaries: Binaries, sockets: Path) -> LocalServer:
    """The server of a replica's data directory."""
    place = job.place
    return LocalServer(place.data_directory, binaries, job.owner, job.policy.port, sockets, log=place.log)


def listen_addresses(job: ReplicaJob) -> str:
    """Where it listens: this host, and the address that the policy names."""
    host = job.policy.host
    return "localhost" if host is None or host.startswith("/") else f"localhost,{host}"


def start(job: ReplicaJob, server: LocalServer) -> None:
    """Start it and wait until it answers. Raises HostLacks with the log's last lines, DeadlineExceeded, Interrupted."""
    log_file(job.place.data_directory, job.owner)
    with ThreadPoolExecutor(1, thread_name_prefix="start") as pool:
        options = {"listen_addresses": listen_addresses(job)}
        starting: Future[int] = pool.submit(server.start, options, job.wait_s)
        while not wait_for([starting], _TICK_S).done:
            if job.stop.is_set():
                server.stop("immediate")
                wait_for([starting])
                raise Interrupted("making the replica was interrupted")
        try:
            starting.result()
        except HostLacks as error:
            raise _with_log(error, server) from error


def follow(job: ReplicaJob, server: LocalServer, target: Lsn) -> Lsn:
    """Wait until it has replayed `target` and streams: where it is then.

    Raises SourceUnavailable when it gets no further or the time is over, HostLacks when it died, Interrupted.
    """
    began = moved = job.clock.monotonic()
    last: StandbyFacts | None = None
    while True:
        if not server.running():
            raise _with_log(HostLacks(f"the replica's server in {server.data_directory} ended"), server)
        facts = _ask(job)
        replayed = facts.replay_lsn if facts is not None and facts.replay_lsn is not None else Lsn(0)
        job.report(Progress("replica", "wal", min(replayed, target), int(target)))
        if facts is not None and facts.streaming and facts.in_recovery and replayed >= target:
            return replayed
        now = job.clock.monotonic()
        if facts != last:
            last, moved = facts, now
        if now - moved > job.stall_s or now - began > job.wait_s:
            raise _not_following(job, server, facts, target)
        if job.clock.wait(job.stop, _TICK_S):
            raise Interrupted("waiting for the replica was interrupted; its server goes on")


def _ask(job: ReplicaJob) -> StandbyFacts | None:
    """What the replica says, or, where nobody may log in there, what the primary knows of it."""
    try:
        with job.replica_sql() as sql:
            return standby_facts(sql)
    except SourceUnavailable:
        pass
    try:
        with job.sql() as sql:
            return facts_of_slot(sql, job.slot)
    except SourceUnavailable:
        return None


def _not_following(job: ReplicaJob, server: LocalServer, facts: StandbyFacts | None, target: Lsn) -> SourceUnavailable:
    how = "can not be asked"
    if facts is not None:
        how = f"has replayed {facts.replay_lsn} of {target}, and {'streams' if facts.streaming else 'does not stream'}"
    return SourceUnavailable(
        f"the replica runs and does not follow: it {how}; its log ends with:\n{server.last_log_lines()}",
        hint=f"Mend what the log names, or remove it with `replicator replica remove {job.cluster} {job.policy.name}`.",
    )


def _with_log(error: HostLacks, server: LocalServer) -> ReplicatorError:
    log = server.last_log_lines()
    text = f"{error.message}; its log ends with:\n{log}" if log else error.message
    return HostLacks(text, hint=error.hint or "Mend what the log names, remove the replica and make it again.")
