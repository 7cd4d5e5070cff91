"""The status: its keys, what is a problem, the exit code it means, and its metrics."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.windows import Gap
from replicator.errors import StoreDenied
from replicator.policy import Policy, load_policy
from replicator.status import metrics
from replicator.status.catalogs import StoreView
from replicator.status.gather import Failure, Known, cluster_status
from replicator.status.model import (
    ClusterStatus,
    Problem,
    SnapshotsStatus,
    SourceStatus,
    Status,
    StoreStatus,
    StreamStatus,
    TaskStatus,
    exit_code,
)
from replicator.status.windows import gap_json
from replicator.stream import Problem as StreamProblem
from replicator.stream import StoreStreamStatistics, StreamStatistics
from replicator.stream.governor import Level, Outlook
from tests.composed import write_policies

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_SNAPSHOT = Snapshot("20261122T020000Z", 7, 1, Lsn(0x2000028), Lsn(0x2000100))
_VIEW = StoreView("local", NOW, (_SNAPSHOT,), end=Lsn(0x3000000))
_STREAM = StreamStatistics(
    state="streaming",
    host="db1",
    timeline=1,
    system_id=7,
    received_lsn=Lsn(0x3000010),
    flushed_lsn=Lsn(0x3000010),
    acknowledged_lsn=Lsn(0x3000010),
    only_in_spool_bytes=16,
    spool_bytes=1000,
    back_pressure=False,
    wal_status="reserved",
    safe_wal_bytes=None,
    server_lsn=Lsn(0x3000010),
    stores={"local": StoreStreamStatistics("ok", "closed", Lsn(0x3000000), 16, 0.5, 2)},
)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """A policy with one store and a nightly snapshot."""
    extra = '[snapshot]\nschedule = "0 2 * * *"'
    return load_policy(write_policies(tmp_path, "host=db1 user=replicator", extra=extra) / "frk.toml")


@pytest.fixture
def known(policy: Policy) -> Known:
    """A cluster that is well."""
    return Known(policy, NOW, {"local": _VIEW}, _STREAM, {"local": "closed"}, {"local": 2})


def codes(known: Known) -> list[str]:
    """The codes of the problems that status shows."""
    return [problem.code for problem in cluster_status(known).problems]


def test_keys_of_the_json(known: Known) -> None:
    """Every key is there, with the documented notation; nothing is wrong."""
    status = Status({"frk": cluster_status(known)}, NOW).as_json()
    assert json.loads(json.dumps(status)) == status
    assert status == {
        "ok": True,
        "daemon": {"running": True, "since": "2026-11-22T12:00:00Z"},
        "clusters": {
            "frk": {
                "ok": True,
                "source": {
                    "state": "streaming",
                    "host": "db1",
                    "timeline": 1,
                    "lsn": "0/3000010",
                    "wal_status": "reserved",
                    "safe_wal_bytes": None,
                },
                "stream": {
                    "received_lsn": "0/3000010",
                    "flushed_lsn": "0/3000010",
                    "acknowledged_lsn": "0/3000010",
                    "only_in_spool_bytes": 16,
                    "spool_bytes": 1000,
                    "back_pressure": False,
                },
                "stores": {
                    "local": {
                        "state": "ok",
                        "breaker": "closed",
                        "durable_lsn": "0/3000000",
                        "lag_bytes": 16,
                        "lag_s": 0.5,
                        "windows": [],
                        "gaps": [],
                    }
                },
                "snapshots": {"count": 1, "last": "20261122T020000Z", "next": "2026-11-23T02:00:00Z"},
                "proofs": {},
                "replicas": {},
                "tasks": [],
                "problems": [],
            }
        },
    }
    assert exit_code(status) == 0


def test_what_is_not_known_is_null(policy: Policy) -> None:
    """Before anything is known every value is null, and the cluster is not said to be well."""
    status = cluster_status(Known(policy, NOW, {"local": StoreView("local")})).as_json()
    assert status["ok"] is False
    assert set(status["source"].values()) == {None}
    assert set(status["stream"].values()) == {None}
    assert set(status["stores"]["local"].values()) == {None}
    assert status["snapshots"] == {"count": None, "last": None, "next": "2026-11-23T02:00:00Z"}


def test_without_a_daemon(known: Known) -> None:
    """Without a daemon the stores are told, and that nothing streams is a problem (5)."""
    status = Status({"frk": cluster_status(replace(known, stream=None, daemon=False))})
    assert status.as_json()["daemon"] == {"running": False, "since": None}
    cluster = status.as_json()["clusters"]["frk"]
    assert cluster["stores"]["local"]["state"] == "reachable"
    assert cluster["stores"]["local"]["durable_lsn"] == "0/3000000"
    assert [problem["code"] for problem in cluster["problems"]] == ["daemon_not_running"]
    assert exit_code(status.as_json()) == 5


def test_problems(known: Known) -> None:
    """Each thing that is wrong is a problem with its code, once."""
    gap = gap_json(Gap(1, Lsn(0x1000000), Lsn(0x2000000), open=True))
    closed = gap_json(Gap(1, Lsn(0), Lsn(0x1000000), open=False))
    denied = StoreDenied("store local: denied", hint="Look.")
    assert codes(known) == []
    assert codes(replace(known, views={"local": replace(_VIEW, gaps=(closed,))})) == []
    assert codes(replace(known, views={"local": replace(_VIEW, gaps=(gap,))})) == ["open_gap"]
    assert codes(replace(known, views={"local": replace(_VIEW, snapshots=())})) == ["no_snapshot"]
    bare = replace(_VIEW, store="second", snapshots=())
    assert codes(replace(known, views={"local": _VIEW, "second": bare})) == ["no_snapshot"]
    assert codes(replace(known, views={"local": _VIEW, "second": StoreView("second")})) == []
    assert codes(replace(known, views={"local": replace(_VIEW, conflicts=("0" * 24,))})) == ["wal_conflict"]
    assert codes(replace(known, views={"local": replace(_VIEW, error=denied)})) == ["store_denied"]
    assert codes(replace(known, stream=replace(_STREAM, state="away"))) == ["not_streaming"]
    assert codes(replace(known, failures=(Failure("frk, open", denied),))) == ["store_denied"]
    assert codes(replace(known, task_problems=(Problem("task_failed", "x"),))) == ["task_failed"]
    told = (StreamProblem(8, "two"), StreamProblem(8, "two"), StreamProblem(0, "kept"))
    assert codes(replace(known, stream=replace(_STREAM, problems=told))) == ["conflict", "remark"]


def test_store_that_is_away_is_said_once(known: Known) -> None:
    """Where the shipper says that a store is away, the reader of its catalog adds nothing."""
    store = replace(_STREAM.stores["local"], state="away")
    stream = replace(_STREAM, stores={"local": store}, problems=(StreamProblem(6, "store local: away"),))
    views = {"local": replace(_VIEW, error=StoreDenied("store local: gone"))}
    assert codes(replace(known, stream=stream, views=views)) == ["store_unavailable"]


def test_remark_is_no_harm() -> None:
    """A remark alone leaves the cluster well."""
    assert ClusterStatus(problems=(Problem("remark", "kept"),)).ok
    assert not ClusterStatus(problems=(Problem("open_gap", "x"),)).ok


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], 0),
        (["remark"], 0),
        (["store_denied"], 6),
        (["store_denied", "source_refused"], 5),
        (["binaries_missing", "store_denied"], 6),
        (["binaries_missing"], 9),
        (["source_refused", "untrusted_repository"], 7),
        (["open_gap", "untrusted_repository"], 4),
        (["open_gap", "wal_conflict"], 8),
        (["task_failed"], 1),
        (["from_a_newer_daemon"], 1),
        (["snapshot_not_found"], 3),
    ],
)
def test_exit_codes(found: list[str], expected: int) -> None:
    """The first that applies of 8, 4, 7, 5, 6, 9; another one when none of these does."""
    cluster: dict[str, Any] = {"problems": [{"code": code} for code in found]}
    assert exit_code({"clusters": {"frk": cluster}}) == expected


def test_metrics() -> None:
    """Names, labels and values as documented; a value that is not known is absent, not 0."""
    well = ClusterStatus(
        source=SourceStatus("streaming", "db1", 1, Lsn(5), "reserved", 7),
        stream=StreamStatus(Lsn(0x3000010), Lsn(0x3000010), Lsn(0x3000000), 16, 1000, False),
        stores={"local": StoreStatus("ok", "open", Lsn(9), 16, 0.5, (), ({"open": True}, {"open": False}))},
        snapshots=SnapshotsStatus(1, "20261122T020000Z", None),
        tasks=(TaskStatus("snapshot", NOW),),
        retries={"local": 3},
    )
    text = metrics.render(Status({"frk": well, "fed": ClusterStatus()}, NOW), NOW).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    frk, store, endpoint = ("cluster", "frk"), ("store", "local"), ("endpoint", "local")
    expected = {
        ("replicator_up", frk): 1,
        ("replicator_up", ("cluster", "fed")): 0,
        ("replicator_stream_lag_bytes", frk, store): 16,
        ("replicator_acknowledged_lsn", frk): 0x3000000,
        ("replicator_spool_bytes", frk): 1000,
        ("replicator_only_in_spool_bytes", frk): 16,
        ("replicator_gaps", frk, store): 1,
        ("replicator_breaker_open", frk, endpoint): 1,
        ("replicator_retries_total", frk, endpoint): 3,
        ("replicator_snapshot_age_seconds", frk): 36000,
        ("replicator_slot_safe_bytes", frk): 7,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("replicator_spool_bytes", ("cluster", "fed")) not in found
    assert all(str(name[0]).startswith("replicator_") for name in found)
    for name in ("replicator_proof_age_seconds", "replicator_replica_lag_bytes"):
        assert f"# TYPE {name} gauge" in text


def test_a_gap_that_no_store_has_heard_of(known: Known) -> None:
    """A gap that the stream met is shown while the stores are away; once one has heard of it, its word counts."""
    gap = Gap(1, Lsn(0x2000000), Lsn(0x2800000), open=True)
    met = replace(known, stream=replace(_STREAM, gaps=(gap,)))
    assert codes(met) == ["open_gap"]
    assert exit_code(Status({"frk": cluster_status(met)}, NOW).as_json()) == 4
    for heard, expected in ((gap, ["open_gap"]), (replace(gap, open=False), [])):
        view = replace(_VIEW, gaps=(gap_json(heard),))
        assert codes(replace(met, views={"local": view})) == expected


def test_room_of_the_slot_in_metrics(known: Known) -> None:
    """What the governor knows, in bytes and seconds; else what the server says; infinity while it does not shrink."""

    def room(stream: StreamStatistics) -> dict[str, float]:
        status = Status({"frk": cluster_status(replace(known, stream=stream))}, NOW)
        families = text_string_to_metric_families(metrics.render(status, NOW).decode())
        return {sample.name: sample.value for found in families for sample in found.samples if "slot" in sample.name}

    assert room(_STREAM) == {}
    assert room(replace(_STREAM, safe_wal_bytes=5)) == {"replicator_slot_safe_bytes": 5}
    outlook = Outlook(Level.WARN, 600, 400, math.inf, "policy")
    expected = {"replicator_slot_safe_bytes": 400, "replicator_slot_safe_seconds": math.inf}
    assert room(replace(_STREAM, outlook=outlook)) == expected
