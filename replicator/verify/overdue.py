"""A level that time ran out for again and again is not well: its proof grows old, and who only reads cron's mail must
be told. Owns that finding. Reads only.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from replicator.core.finding import Finding
from replicator.core.moment import rfc3339
from replicator.errors import StoreUnavailable
from replicator.policy import VerifyPolicy
from replicator.policy.units import format_duration
from replicator.repository.catalog import list_snapshots
from replicator.repository.repository import Repository
from replicator.verify.findings import NOT_ALL
from replicator.verify.history import current_system
from replicator.verify.model import LevelResult, VerifyJob
from replicator.verify.proofs import read_proofs

OVERDUE = "proof_overdue"


def told_when_overdue(job: VerifyJob, result: LevelResult) -> LevelResult:
    """The result; no longer well when the time ended before it was done and its last proof is too old by now. A
    cluster whose snapshots are younger than that has nothing to prove yet.
    """
    if not result.ok or all(finding.code != NOT_ALL for finding in result.findings):
        return result
    now, most = job.clock.now(), (job.policy.verify or VerifyPolicy()).max_age
    proof = read_proofs(job.repository, now)[result.level]
    since = proof or _oldest(job.repository)
    if since is None or now - since <= timedelta(seconds=most):
        return result
    age = "there is none" if proof is None else f"the last is of {rfc3339(proof)}"
    text = f"the time ended, and a proof by {result.level} is overdue: {age}, and it may be {format_duration(most)} old"
    finding = Finding(OVERDUE, text, "Give it more time with --time-limit.", f"the proof by {result.level}")
    return replace(result, ok=False, findings=(*result.findings, finding))


def _oldest(repository: Repository) -> datetime | None:
    """When the present cluster's first snapshot was taken that any store which answers still holds."""
    system_id = current_system(repository)
    labels: list[str] = []
    for store in repository.stores.values() if system_id is not None else ():
        try:
            labels += [found.label for found in list_snapshots(store, system_id or 0)]
        except StoreUnavailable:  # the levels have told
            continue
    return datetime.strptime(min(labels), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if labels else None
