"""Asking replicas: real servers, one of which may have gone deaf."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from replicator.core.lsn import Lsn
from replicator.errors import SourceRefused, SourceUnavailable
from replicator.policy import ReplicaPolicy
from replicator.postgres.conninfo import beside
from replicator.postgres.query import SqlConnection
from replicator.postgres.standby import facts_of_slot
from replicator.replicas.health import PROMOTED, STREAMING, judge
from replicator.replicas.watch import ReplicaWatch, ask
from replicator.tolerance import SystemClock
from tests.clusters import PASSWORD, REPLICATION_USER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.proxy import proxy_to

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[TestCluster, TestCluster]]:
    """A primary and a standby that streams through a slot."""
    with cluster_base() as base, make_cluster(base) as primary:
        primary.sql("SELECT pg_create_physical_replication_slot('siaga')")
        with primary.standby(slot="siaga") as standby:
            yield primary, standby


def replica(name: str, port: int) -> ReplicaPolicy:
    """A replica of the policy at a port of this host."""
    return ReplicaPolicy(name=name, data_directory=Path("/r") / name, port=port, follow="primary")


def connect_by(replicas: list[ReplicaPolicy], password: str = PASSWORD) -> Callable[[str], SqlConnection]:
    """As compose connects, by name; nobody waits long for "deaf"."""
    ports = {one.name: one.port for one in replicas}

    def connect(name: str) -> SqlConnection:
        conninfo = beside(f"host=x user={REPLICATION_USER} dbname=postgres", "127.0.0.1", ports[name])
        patience = 3.0 if name == "deaf" else 60.0
        return SqlConnection(conninfo, password.encode(), connect_timeout=patience, statement_timeout=patience)

    return connect


def test_a_standby_says_how_it_is(pair: tuple[TestCluster, TestCluster]) -> None:
    """A standby's own answer and its primary's view agree on what it is; a primary is told from a standby."""
    primary, standby = pair
    primary.write_wal(10)
    one = replica("a", standby.port)
    deadline = time.monotonic() + 60
    end = Lsn.parse(primary.lsn())
    while True:
        seen = ask(one, connect_by([one]))
        assert seen.facts is not None
        if seen.facts.replay_lsn is not None and seen.facts.replay_lsn >= end:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert judge("frk", one, seen, end).state == STREAMING
    other = replica("p", primary.port)
    assert judge("frk", other, ask(other, connect_by([other])), end).state == PROMOTED
    with connect_by([other])("p") as sql:
        known = facts_of_slot(sql, "siaga")
        while known is not None and not known.streaming and time.monotonic() < deadline:
            time.sleep(0.05)  # who has sent all says so a moment later
            known = facts_of_slot(sql, "siaga")
        assert known is not None
        assert (known.in_recovery, known.streaming) == (True, True)
        assert facts_of_slot(sql, "lain") is None


def test_a_refusal_is_not_absence(pair: tuple[TestCluster, TestCluster]) -> None:
    """A wrong password and a port without a server are seen as what they are."""
    _, standby = pair
    one = replica("a", standby.port)
    assert isinstance(ask(one, connect_by([one], "salah")).error, SourceRefused)
    gone = replica("b", 1)
    error = ask(gone, connect_by([gone])).error
    assert isinstance(error, SourceUnavailable)
    assert not isinstance(error, SourceRefused)


def test_a_deaf_replica_holds_up_no_other(pair: tuple[TestCluster, TestCluster]) -> None:
    """While one replica does not answer at all the other is seen, and both workers end soon when they are asked to."""
    _, standby = pair
    with proxy_to(standby.port) as proxy:
        proxy.deafen()
        replicas = [replica("deaf", proxy.port), replica("well", standby.port)]
        watch = ReplicaWatch(replicas, connect_by(replicas), SystemClock())
        stop = Event()
        workers = [Thread(target=watch.run, args=(one, stop)) for one in watch.replicas]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 60
        while len(watch.latest()) < 2 and time.monotonic() < deadline:
            if "well" in watch.latest():
                assert watch.latest()["well"].facts is not None
            time.sleep(0.02)
        seen = watch.latest()
        stop.set()
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()
    assert seen["well"].facts is not None
    assert isinstance(seen["deaf"].error, SourceUnavailable)
