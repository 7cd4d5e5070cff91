"""Which of several hosts is asked first."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import HostLacks
from replicator.postgres.conninfo import targets_of
from replicator.postgres.hosts import Hosts, in_order
from replicator.upkeep.state import HostState

LABELS = ("db1:1", "db2:2", "db3:3")
CONNINFO = "host=db1,db2,db3 port=1,2,3 user=replicator"


def order(first: str | None) -> list[str]:
    """The labels as they are tried."""
    targets = targets_of(CONNINFO, None, application_name="replicator")
    return [target.label for target in in_order(targets, first)]


def test_the_order() -> None:
    """The first to ask, those after it, those before it; without one, or an unknown one, conninfo's order."""
    assert order(None) == order("db9:9") == list(LABELS)
    assert order("db2:2") == ["db2:2", "db3:3", "db1:1"]


def test_who_streamed_last_comes_first_in_other_processes_too(tmp_path: Path) -> None:
    """The hint outlives the process; another conninfo makes nothing of it."""
    hosts = Hosts(LABELS, HostState(tmp_path))
    assert hosts.first is None
    hosts.streams("db2:2")
    assert hosts.first == "db2:2"
    assert Hosts(LABELS, HostState(tmp_path)).first == "db2:2"
    assert order(Hosts(("a", "b"), HostState(tmp_path)).first)[0] == "db2:2"
    assert in_order(targets_of("host=a,b", None, application_name="x"), "db2:2")[0].label == "a"


def test_the_next_after_a_foreign_one() -> None:
    """Round and round; a single host has no next, nor has one that conninfo does not name."""
    hosts = Hosts(LABELS)
    assert hosts.pass_over("db3:3")
    assert hosts.first == "db1:1"
    assert hosts.pass_over("db1:1")
    assert hosts.first == "db2:2"
    assert not hosts.pass_over("db9:9")
    assert not Hosts(("db1:1",)).pass_over("db1:1")
    assert not Hosts(LABELS).pass_over(None)


class Full:
    """A memory without room."""

    source_host = None

    def record_source_host(self, label: str) -> None:
        """Fails."""
        raise HostLacks(f"no room for {label}")


def test_a_hint_that_can_not_be_kept() -> None:
    """It serves this process all the same."""
    hosts = Hosts(LABELS, Full())
    hosts.streams("db3:3")
    assert hosts.first == "db3:3"


def test_a_single_host_remembers_nothing(tmp_path: Path) -> None:
    """There is nothing to choose."""
    hosts = Hosts(("db1:1",), HostState(tmp_path))
    hosts.streams("db1:1")
    assert hosts.first is None
    assert list(tmp_path.iterdir()) == []
