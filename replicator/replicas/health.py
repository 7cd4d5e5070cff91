"""How a replica stands, from what it says and where the primary is. Pure.

Owns the words of `state` and which of them are problems.
"""

from __future__ import annotations

from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.errors import ReplicatorError, SourceRefused
from replicator.policy import ReplicaPolicy, format_size
from replicator.postgres.standby import StandbyFacts

STREAMING, CATCHING_UP, LAGGING = "streaming", "catching up", "lagging"
PROMOTED, AWAY, REFUSED, ABSENT = "promoted", "away", "refused", "absent"

#: Code of a problem → the exit code it means.
CODES = {"replica_lagging": 5, "replica_away": 5, "replica_promoted": 8, "replica_absent": 0}


@dataclass(frozen=True, slots=True)
class Seen:
    """What asking a replica brought: its answer, or why there is none. `made`: its data directory is on this host;
    None where that can't be seen from here.
    """

    facts: StandbyFacts | None = None
    error: ReplicatorError | None = None
    made: bool | None = None


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem with a replica."""

    code: str
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Health:
    """How it stands; None where it is not known. `lag_bytes`: the primary's WAL that it has not replayed."""

    state: str | None = None
    role: str | None = None
    replay_lsn: Lsn | None = None
    lag_bytes: int | None = None
    complaint: Complaint | None = None


def judge(cluster: str, policy: ReplicaPolicy, seen: Seen | None, primary: Lsn | None) -> Health:
    """The health of one replica. `seen` None: not asked yet; `primary`: the end of its WAL, as far as it is known."""
    if seen is None:
        return Health()
    if seen.facts is None:
        return _silent(cluster, policy, seen)
    facts = seen.facts
    if not facts.in_recovery:
        text = f"replica {policy.name} is no standby any more: it was promoted"
        hint = "Find out which server is the primary; one that was promoted by mistake has to be made anew."
        return Health(PROMOTED, "primary", facts.replay_lsn, None, Complaint("replica_promoted", text, hint))
    lag = max(0, primary - facts.replay_lsn) if primary is not None and facts.replay_lsn is not None else None
    if lag is not None and lag > policy.max_lag:
        how = "streams" if facts.streaming else "does not stream"
        text = f"replica {policy.name} is {lag:,} bytes behind, more than {format_size(policy.max_lag)}; it {how}"
        hint = "Look into its log, and whether its host and its line are fast enough."
        return Health(LAGGING, "standby", facts.replay_lsn, lag, Complaint("replica_lagging", text, hint))
    return Health(STREAMING if facts.streaming else CATCHING_UP, "standby", facts.replay_lsn, lag)


def _silent(cluster: str, policy: ReplicaPolicy, seen: Seen) -> Health:
    if seen.made is False:
        text = f"replica {policy.name} is in the policy and was not made yet"
        hint = f"Make it with `replicator replica create {cluster} {policy.name}`."
        return Health(ABSENT, complaint=Complaint("replica_absent", text, hint))
    error = seen.error
    why = error.message if error is not None else "it says nothing"
    state = REFUSED if isinstance(error, SourceRefused) else AWAY
    text = f"replica {policy.name} can not be asked: {why}"
    hint = error.hint if error is not None and error.hint else "Start it, or look into its log."
    return Health(state, complaint=Complaint("replica_away", text, hint))
