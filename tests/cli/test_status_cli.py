"""`replicator status` on the command line, without a daemon and without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.composed import json_of, replicator, write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A cluster with two stores, initialised; its server is not there."""
    found = write_policies(tmp_path, NOWHERE, stores=("local", "second"))
    json_of("init", "frk", "--policies", found)
    return found


def test_reads_the_stores_and_says_so(policies: Path) -> None:
    """Without a daemon the stores are read; text and JSON say that none answers; no snapshot comes first (4)."""
    found = json_of("status", "--policies", policies, code=4)
    assert found["daemon"] == {"running": False, "since": None}
    assert found["ok"] is False
    cluster = found["clusters"]["frk"]
    assert {name: store["state"] for name, store in cluster["stores"].items()} == {
        "local": "reachable",
        "second": "reachable",
    }
    assert {problem["code"] for problem in cluster["problems"]} == {"daemon_not_running", "no_snapshot"}
    done = replicator("status", "frk", "--policies", policies)
    assert done.returncode == 4
    assert done.stdout.startswith("cluster\tstore\tstate")
    assert "no daemon answers" in done.stderr


def test_one_store_is_away(policies: Path, tmp_path: Path) -> None:
    """A store that is not there is named, and the other is read all the same."""
    (tmp_path / "second").rename(tmp_path / "gone")
    cluster = json_of("status", "frk", "--policies", policies, code=4)["clusters"]["frk"]
    assert cluster["stores"]["local"]["state"] == "reachable"
    assert cluster["stores"]["second"]["state"] == "unreachable"
    assert cluster["stores"]["second"]["windows"] is None
    assert "store_misconfigured" in {problem["code"] for problem in cluster["problems"]}


def test_not_initialised(tmp_path: Path) -> None:
    """A cluster without a repository is told so, with the verb that makes one."""
    found = write_policies(tmp_path, NOWHERE)
    (tmp_path / "local").mkdir()
    cluster = json_of("status", "frk", "--policies", found, code=5)["clusters"]["frk"]
    assert [problem["code"] for problem in cluster["problems"]] == ["daemon_not_running", "not_found"]
    assert "replicator init frk" in cluster["problems"][1]["hint"]


def test_unknown_cluster(policies: Path) -> None:
    """A cluster that no policy names is a usage error, as JSON too."""
    assert json_of("status", "fed", "--policies", policies, code=2)["error"]["type"] == "UnknownCluster"
