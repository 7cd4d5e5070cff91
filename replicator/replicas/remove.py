"""Taking a replica away: its server, its slot on the primary, its directory. In this order, and again after a break.

Owns the refusals: never a cluster that this host did not make as that replica, never one that was promoted.
"""

from __future__ import annotations

from pathlib import Path

from replicator.errors import Conflict, SourceUnavailable
from replicator.postgres.controldata import system_id_of
from replicator.postgres.localserver import LocalServer
from replicator.replicas.job import ReplicaJob
from replicator.replicas.place import ReplicaMark


def remove(job: ReplicaJob) -> ReplicaMark:
    """Remove the replica: what was removed. Run it again when the primary could not be reached.

    Raises NotFound, Conflict (nothing was touched), SourceUnavailable (the directory is still there), HostLacks.
    """
    place = job.place
    mark = place.mark()
    place.check_ours(mark)
    if system_id_of(place.data_directory) is not None and not (place.data_directory / "standby.signal").exists():
        raise Conflict(
            f"replica {mark.name} in {place.data_directory} was promoted: it is no standby any more",
            hint="Nothing was removed; a primary is stopped and removed by hand.",
        )
    take_away(job, mark)
    return mark


def take_away(job: ReplicaJob, mark: ReplicaMark) -> None:
    """The three steps of `remove`, without its questions."""
    _stop_server(job, mark)
    job.step("stopped")
    drop_slot(job, mark)
    job.step("dropped")
    job.place.remove(mark)


def _stop_server(job: ReplicaJob, mark: ReplicaMark) -> None:
    data = job.place.data_directory
    version = _major(data)
    if version is None or not (data / "postmaster.pid").exists():
        return
    LocalServer(data, job.binaries(version), mark.owner, job.policy.port, log=job.place.log).stop("fast")


def _major(data_directory: Path) -> int | None:
    try:
        return int((data_directory / "PG_VERSION").read_text("ascii").split(".")[0])
    except (OSError, ValueError):
        return None


def drop_slot(job: ReplicaJob, mark: ReplicaMark) -> None:
    """Drop the slot, if it is there. The walsender of a server that has just ended is waited for. Raises
    SourceUnavailable and its kinds.
    """
    try:
        with job.connect() as connection:
            if connection.read_slot(mark.slot) is not None:
                connection.drop_slot(mark.slot, wait=True)
    except SourceUnavailable as error:
        raise type(error)(
            f"slot {mark.slot} could not be dropped: {error.message}",
            hint="Run the verb again when the primary answers: until then the slot keeps its WAL.",
            **error.context,
        ) from error
