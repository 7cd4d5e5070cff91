"""Holding a replica's replay at one position while it is compared, and letting it go on whatever happens.

Owns the sessions on a replica, and a watcher that resumes its replay should this process be killed. It never pauses
what somebody else has paused already.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from replicator.core.lsn import Lsn
from replicator.errors import BinariesMissing, Conflict, DeadlineExceeded, Interrupted, ReplicatorError, SourceRefused
from replicator.policy import Policy, ReplicaPolicy, resolve_secret
from replicator.postgres import replay
from replicator.postgres.binaries import Binaries
from replicator.postgres.conninfo import beside
from replicator.postgres.query import SqlConnection
from replicator.restore.tree import host_errors
from replicator.tolerance import Deadline
from replicator.verify.model import VerifyJob

#: A part of a table is hashed within this.
_STATEMENT_S = 900.0
_TICK_S = 0.1
_RIGHTS = (
    "Let the policy's user pause replay and read all: GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(),"
    " pg_wal_replay_resume() TO it in its database on the source, and GRANT pg_read_all_data TO it."
)
#: Reads the password, waits until we are gone, and tries for some minutes to let replay go on.
_WATCHER = """
trap '' HUP INT TERM
IFS= read -r password
cat >/dev/null
[ -n "$password" ] && export PGPASSWORD="$password"
export PGCONNECT_TIMEOUT=10
rounds=0
until "$1" -X -q -w -d "$2" -c "$3" || [ $rounds -ge 60 ]; do rounds=$((rounds + 1)); sleep 5; done
"""


@dataclass(frozen=True)
class Replica:
    """A replica of the policy, as the policy's own user reaches it."""

    policy: Policy
    replica: ReplicaPolicy

    def conninfo(self, database: str | None = None) -> str:
        """Without a password."""
        place = self.replica.host or "127.0.0.1"
        return beside(self.policy.source.conninfo, place, self.replica.port, database=database)

    def password(self) -> bytes | None:
        """The policy user's. Raises PolicyError, HostLacks."""
        ref = self.policy.source.password
        return resolve_secret(ref, what=f"the password of {self.policy.cluster}'s source") if ref else None

    def session(self, database: str | None = None) -> SqlConnection:
        """A session for reading all rows. Raises SourceUnavailable and its kinds."""
        tolerance = self.policy.tolerance
        session = SqlConnection(
            self.conninfo(database), self.password(), connect_timeout=tolerance.connect_timeout,
            statement_timeout=_STATEMENT_S,
        )  # fmt: skip
        try:
            session.execute("SET search_path = ''")
            session.execute("SET row_security = off")
        except BaseException:
            session.close()
            raise
        return session


def standing(job: VerifyJob) -> tuple[Replica | None, ReplicatorError | None]:
    """The first physical replica of the policy that can be held; else why the last one asked can not."""
    why: ReplicatorError | None = None
    for found in job.policy.replicas:
        if found.kind != "physical":
            continue
        replica = Replica(job.policy, found)
        try:
            with replica.session() as session:
                why = _unable(session, found.name)
            if why is None:
                return replica, None
        except ReplicatorError as error:
            why = error
    return None, why


def _unable(session: SqlConnection, name: str) -> ReplicatorError | None:
    """Why a replica can not be held by us."""
    if not session.is_in_recovery():
        return Conflict(f"replica {name} is not a standby", hint="Rebuild it as a standby of the primary.")
    if not replay.may_pause(session):
        return SourceRefused(f"the policy's user may not pause the replay of replica {name}", hint=_RIGHTS)
    if replay.is_asked_to_pause(session):
        return Conflict(
            f"the replay of replica {name} is paused already",
            hint="If nobody needs that, resume it there with SELECT pg_wal_replay_resume().",
        )
    return None


@contextmanager
def held(job: VerifyJob, replica: Replica, binaries: Binaries, deadline: Deadline) -> Iterator[Lsn]:
    """Pause replay, wait until it stands still, and resume it at the end. Yields where it stands.

    Raises SourceRefused without the right to, Conflict where it is paused already, DeadlineExceeded, Interrupted.
    """
    name = replica.replica.name
    with replica.session() as session:
        unable = _unable(session, name)
        if unable is not None:
            raise unable
        watcher = _watch(replica, binaries)
        try:
            yield _paused(job, session, deadline, name)
        finally:
            _resume(replica, session, watcher)


def _paused(job: VerifyJob, session: SqlConnection, deadline: Deadline, name: str) -> Lsn:
    replay.pause(session)
    while not replay.is_paused(session):
        if deadline.over:
            raise DeadlineExceeded(f"the replay of replica {name} did not pause in time")
        if job.clock.wait(job.stop, _TICK_S):
            raise Interrupted("the comparison was interrupted")
    position = replay.replayed(session)
    if position is None:
        raise DeadlineExceeded(f"replica {name} has replayed nothing yet")
    return position


def _resume(replica: Replica, session: SqlConnection, watcher: subprocess.Popen[bytes] | None) -> None:
    """By the session that paused it, by a new one, or by the watcher, which goes on trying."""
    done = False
    for again in (False, True):
        with suppress(ReplicatorError):
            if again:
                with replica.session() as fresh:
                    replay.resume(fresh)
            else:
                replay.resume(session)
            done = True
            break
    if watcher is None:
        return
    if done:
        watcher.kill()
    if watcher.stdin is not None:
        watcher.stdin.close()
    if done:
        watcher.wait(10)


def _watch(replica: Replica, binaries: Binaries) -> subprocess.Popen[bytes] | None:
    """None where this host has no psql: then a kill leaves the replica paused, which its lag shows."""
    try:
        psql = binaries.program("psql")
    except BinariesMissing:
        return None
    command = ["/bin/sh", "-c", _WATCHER, "replicator-hold", str(psql), replica.conninfo(), replay.RESUME]
    quiet = subprocess.DEVNULL
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG") or key == "PGPASSFILE"}
    with host_errors(Path("/bin/sh")):
        watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True, env=kept
        )
        assert watcher.stdin is not None
        watcher.stdin.write((replica.password() or b"").replace(b"\n", b"") + b"\n")
        watcher.stdin.flush()
    return watcher
