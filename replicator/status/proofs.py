"""Proofs in the status: since when the repository is proven, what is overdue, and what the last look found. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from replicator.core.snapshot import Snapshot
from replicator.policy import Policy, VerifyPolicy, format_duration
from replicator.repository.records import KINDS, Record, last_of, proven_since
from replicator.status.catalogs import StoreView, labels
from replicator.status.model import PROOF_OVERDUE, Problem, ProofStatus

#: Of a policy that says nothing about verification.
_MAX_AGE_S = 8 * 86400.0
_FAILED = "verification_failed"


def proofs(policy: Policy, views: Mapping[str, StoreView], now: datetime) -> Mapping[str, ProofStatus]:
    """By kind: all of them where the policy verifies, else those that there are."""
    most = policy.verify.max_age if policy.verify is not None else _MAX_AGE_S
    found: dict[str, ProofStatus] = {}
    for kind in KINDS:
        moment = _since(policy, views, kind)
        if moment is not None or policy.verify is not None:
            found[kind] = ProofStatus(moment, moment is not None and now - moment <= timedelta(seconds=most))
    return found


def proof_problems(policy: Policy, views: Mapping[str, StoreView], now: datetime) -> Iterable[Problem]:
    """What is overdue, where the policy says when to verify, and what the newest records found wrong."""
    records = _records(views)
    if policy.verify is not None and policy.verify.schedule is not None:
        yield from _overdue(policy, policy.verify, views, now)
    for kind in KINDS:
        last = last_of(records, kind)
        if last is not None and not last.ok:
            problem = failed_problem(kind, last.body.get("findings", ()))
            if problem is not None:
                yield problem


def _overdue(policy: Policy, verify: VerifyPolicy, views: Mapping[str, StoreView], now: datetime) -> Iterable[Problem]:
    """A cluster whose snapshots are younger than `max_age` has nothing to prove yet."""
    if not labels(views.values()) or any(view.read_at is None for view in views.values()):
        return
    taken = min(found.label for found in _snapshots(views) if found.system_id == _system(views))
    oldest = datetime.strptime(taken, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    limit = timedelta(seconds=verify.max_age)
    for kind, proof in proofs(policy, views, now).items():
        if not proof.ok and now - (proof.time or oldest) > limit:
            age = "there is none" if proof.time is None else f"the last is of {proof.time:%Y-%m-%d %H:%M} UTC"
            yield Problem(
                PROOF_OVERDUE,
                f"a proof by {kind} is overdue: {age}, and it may be {format_duration(verify.max_age)} old",
                f"Run `replicator verify {policy.cluster}` and see what it says.",
            )


def failed_problem(kind: str, findings: Iterable[Mapping[str, Any]]) -> Problem | None:
    """What a level found wrong, as one problem; None when it found nothing but remarks."""
    wrong = [finding for finding in findings if finding.get("affects") is not None]
    if not wrong:
        return None
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    text = f"the last verification ({kind}) found: {wrong[0].get('text', '')}{more}"
    return Problem(_FAILED, text, str(wrong[0].get("hint") or ""))


def _since(policy: Policy, views: Mapping[str, StoreView], kind: str) -> datetime | None:
    return proven_since(_records(views), kind, tuple(store.name for store in policy.stores), _system(views))


def _snapshots(views: Mapping[str, StoreView]) -> tuple[Snapshot, ...]:
    return tuple(snapshot for view in views.values() for snapshot in view.snapshots)


def _system(views: Mapping[str, StoreView]) -> int | None:
    """The system identifier of the newest snapshot: the present cluster's."""
    newest = max(_snapshots(views), key=lambda found: found.label, default=None)
    return newest.system_id if newest is not None else None


def _records(views: Mapping[str, StoreView]) -> tuple[Record, ...]:
    return tuple({record.name: record for view in views.values() for record in view.records}.values())
