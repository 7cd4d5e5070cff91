"""Proofs in the status: their age, what is overdue, and what the last look found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.moment import rfc3339
from replicator.core.snapshot import Snapshot
from replicator.policy import Policy
from replicator.repository.layout import RecordName
from replicator.repository.records import KINDS, Record
from replicator.status.catalogs import StoreView
from replicator.status.metrics import render
from replicator.status.model import ClusterStatus, Status, exit_code
from replicator.status.proofs import proof_problems, proofs

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OLD = Snapshot("20261001T000000Z", 7, 1, Lsn(2**24), Lsn(2**25))


def policy(**verify: str) -> Policy:
    """A policy of two stores that verifies so; without a word it doesn't."""
    value: dict[str, Any] = {
        "cluster": "frk",
        "source": {"conninfo": "host=x"},
        "store": [{"name": name, "url": f"file:///{name}"} for name in ("local", "offsite")],
        "encryption": {"recipients": []},
    }
    return Policy.model_validate({**value, **({"verify": verify} if verify else {})}, context={"path": Path("/x/a")})


def record(
    kind: str, hours: float, *stores: str, findings: tuple[dict[str, Any], ...] = (), system_id: int = 7
) -> Record:
    """A record so many hours old that proves these stores."""
    moment = NOW - timedelta(hours=hours)
    name = RecordName(system_id, moment.strftime("%Y%m%dT%H%M%S%fZ"), kind, "0" * 16)
    proven = {store: rfc3339(moment) for store in stores}
    return Record(name, {"ok": not findings, "proven": proven, "findings": list(findings), "stores": list(stores)})


def views(*records: Record) -> dict[str, StoreView]:
    """Two stores, each with an old snapshot; the first holds the records."""
    return {
        "local": StoreView("local", NOW, (OLD,), records=records),
        "offsite": StoreView("offsite", NOW, (OLD,)),
    }


def codes(given: Policy, seen: dict[str, StoreView]) -> list[str]:
    """Of the problems."""
    return [problem.code for problem in proof_problems(given, seen, NOW)]


def test_what_looks_at_all_stores_is_as_old_as_its_oldest_store() -> None:
    """A proof of one store says nothing of another; a drill from any store is a proof."""
    seen = views(record("objects", 1, "local"), record("objects", 30, "offsite"), record("drill", 5, "local"),
                 record("coverage", 1, "local"))  # fmt: skip
    found = proofs(policy(), seen, NOW)
    assert {kind: proof.time for kind, proof in found.items()} == {
        "objects": NOW - timedelta(hours=30),
        "drill": NOW - timedelta(hours=5),
    }
    assert all(proof.ok for proof in found.values())


def test_a_proof_that_is_too_old_is_overdue() -> None:
    """Where the policy says when to verify; the code means exit 4."""
    given = policy(schedule="0 4 * * *", max_age="1d")
    all_kinds = [record(kind, 2, "local", "offsite") for kind in KINDS]
    assert codes(given, views(*all_kinds)) == []
    assert codes(given, views(*all_kinds[1:], record("objects", 25, "local", "offsite"))) == ["proof_overdue"]
    assert codes(given, views()) == ["proof_overdue"] * 4
    assert codes(policy(max_age="1d"), views()) == []
    problem = {"code": "proof_overdue", "text": "", "hint": ""}
    assert exit_code({"clusters": {"frk": {"problems": [problem]}}}) == 4


def test_a_young_repository_has_nothing_to_prove() -> None:
    """Nor one whose stores have not answered yet."""
    given = policy(schedule="0 4 * * *", max_age="90d")
    assert codes(given, views()) == []
    assert codes(policy(schedule="0 4 * * *", max_age="1d"), {"local": StoreView("local")}) == []
    assert {kind: proof.ok for kind, proof in proofs(given, views(), NOW).items()} == dict.fromkeys(KINDS, False)


def test_the_newest_record_tells_what_is_wrong() -> None:
    """Until a newer one of its kind is well."""
    bad = ({"code": "object_damaged", "text": "x is damaged", "hint": "", "affects": "snapshot y"},)
    assert codes(policy(), views(record("objects", 2, findings=bad))) == ["verification_failed"]
    assert codes(policy(), views(record("objects", 2, findings=bad), record("objects", 1, "local"))) == []
    remark = ({"code": "object_repaired", "text": "x", "hint": "", "affects": None},)
    assert codes(policy(), views(record("objects", 2, findings=remark))) == []


def test_a_restore_of_a_former_cluster_proves_nothing_of_this_one() -> None:
    """After an upgrade a drill of the old system identifier is no proof; a look at all of a store still is. The new
    cluster has its own time to be proven in, and the newest record decides whichever cluster it is about.
    """
    given = policy(schedule="0 4 * * *", max_age="5d")
    seen = views(*(record(kind, 30, "local", "offsite", system_id=9) for kind in KINDS))
    assert proofs(given, seen, NOW)["drill"].time is None
    assert proofs(given, seen, NOW)["objects"].ok
    assert codes(given, seen) == ["proof_overdue"] * 2
    young = Snapshot("20261121T000000Z", 7, 1, Lsn(2**24), Lsn(2**25))
    former = Snapshot("20261001T000000Z", 9, 1, Lsn(2**24), Lsn(2**25))
    upgraded = {name: replace(view, snapshots=(former, young)) for name, view in seen.items()}
    assert proofs(given, upgraded, NOW)["drill"].time is None
    assert codes(given, upgraded) == []
    bad = ({"code": "object_damaged", "text": "x", "hint": "", "affects": "y"},)
    after = views(record("drill", 9, findings=bad, system_id=9), record("drill", 1, "local"))
    assert "verification_failed" not in codes(given, after)


def test_the_age_is_a_metric() -> None:
    """By cluster and kind, and absent where there is no proof."""
    status = ClusterStatus(proofs=proofs(policy(max_age="1d"), views(record("drill", 1, "local")), NOW))
    text = render(Status({"frk": status}), NOW).decode()
    assert 'replicator_proof_age_seconds{cluster="frk",kind="drill"} 3600.0' in text
    assert 'kind="objects"' not in text
    assert status.as_json()["proofs"]["objects"] == {"time": None, "ok": False}
