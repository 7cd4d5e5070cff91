"""The replicas' part of a cluster's status. Pure: what was seen of each is passed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from replicator.core.lsn import Lsn
from replicator.policy import Policy
from replicator.replicas.health import ABSENT, Health, Seen, judge
from replicator.status import model
from replicator.status.model import Problem, ReplicaStatus


def replicas(policy: Policy, seen: Mapping[str, Seen], primary: Lsn | None) -> dict[str, ReplicaStatus]:
    """Every physical replica of the policy; nothing is known of one that nobody asked."""
    return {
        name: ReplicaStatus(health.state, health.role, health.replay_lsn, health.lag_bytes)
        for name, health in _healths(policy, seen, primary)
    }


def replica_problems(policy: Policy, seen: Mapping[str, Seen], primary: Lsn | None) -> Iterator[Problem]:
    """What is wrong with them. One that was not made yet is worth knowing, no more."""
    for _, health in _healths(policy, seen, primary):
        complaint = health.complaint
        if complaint is not None:
            code = model.REMARK if health.state == ABSENT else complaint.code
            yield Problem(code, complaint.text, complaint.hint)


def _healths(policy: Policy, seen: Mapping[str, Seen], primary: Lsn | None) -> Iterator[tuple[str, Health]]:
    for replica in policy.replicas:
        if replica.kind == "physical":
            yield replica.name, judge(policy.cluster, replica, seen.get(replica.name), primary)
