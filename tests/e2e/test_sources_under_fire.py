"""Sources under fire, one fault at a time, while rows are committed: named, followed, healed by itself; and after each
fault a restore from one store alone has every acknowledged row, without a gap and up to the primary's end.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster
from tests.e2e.site import number, site_of
from tests.e2e.source_fire import (
    MB,
    MEMORY,
    SILENCE_S,
    SLOT,
    STORES,
    Fire,
    add_patience,
    burning,
    line_to,
    through,
)
from tests.proxy import proxy_to
from tests.servers import moto_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]


@pytest.fixture(scope="module")
def fire() -> Iterator[Fire]:
    """Where most faults happen. WAL is kept by the slot, and for a while without it."""
    conf = {"wal_keep_size": "256MB", "wal_sender_timeout": "4s", "max_wal_size": "512MB"}
    with (
        cluster_base() as base,
        make_cluster(base, conf=conf) as cluster,
        line_to(cluster) as line,
        site_of(base, cluster) as site,
    ):
        site.write_policy(source=through(line))
        add_patience(site)
        with burning(Fire(site, line)) as burns:
            yield burns


@pytest.fixture(autouse=True)
def mended(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed leaves nothing broken to the next."""
    yield
    if "fire" in request.fixturenames:
        fire: Fire = request.getfixturevalue("fire")
        fire.line.resume()
        if not fire.cluster.running:
            fire.cluster.start()
        fire.load.go_on()


def test_a_restart_and_a_crash_of_the_primary(fire: Fire) -> None:
    """After a fast shutdown and after a crash the stream goes on by itself."""
    fire.well()
    fire.cluster.restart()
    fire.wait(lambda: fire.state() == "streaming")
    fire.cluster.crash()
    fire.wait(lambda: fire.state() == "away")
    fire.wait(lambda: bool(fire.problems()))
    fire.cluster.start()
    fire.nothing_lost()


def test_a_network_that_falls_silent(fire: Fire) -> None:
    """Bytes stop without an end of the connection: noticed within the limit, named; and once a new connection works,
    the slot that the old one still holds is waited for.
    """
    fire.well()
    fire.heard()
    fire.line.deafen()
    began = time.monotonic()
    fire.wait(lambda: fire.state() == "away", SILENCE_S + 20)
    assert time.monotonic() - began > SILENCE_S - 1
    fire.said("silent for", "no answer within")
    fire.line.reroute()
    fire.nothing_lost()


def test_connections_that_are_cut(fire: Fire) -> None:
    """A backend that an operator terminates is replaced by another; connections that are reset, and refused for a
    while, are made again, again and again.
    """
    fire.well()
    before, _ = fire.walsender()
    fire.cluster.sql("SELECT pg_terminate_backend(%s)", (before,))
    fire.wait(lambda: fire.walsender()[0] not in (0, before))
    for _ in range(2):
        fire.line.refuse()
        fire.wait(lambda: fire.state() == "away")
        fire.line.resume()
        fire.wait(lambda: fire.state() == "streaming")
    fire.nothing_lost()


def test_a_slot_that_an_operator_drops(fire: Fire) -> None:
    """The slot that `init` made is made again; the WAL is still there, so nothing is lost and no gap is told."""
    fire.well()
    fire.line.refuse()
    fire.cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = %s", (SLOT,))
    free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
    fire.wait(lambda: bool(fire.cluster.value(free, (SLOT,))))
    fire.cluster.drop_slots(SLOT)
    fire.line.resume()
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    fire.wait(lambda: fire.cluster.sql(active, (SLOT,)) == [(True,)])
    fire.wait(lambda: fire.state() == "streaming")
    fire.nothing_lost()


def test_a_slot_that_another_client_holds(fire: Fire) -> None:
    """Named as such, and taken back as soon as it is free, whatever the other acknowledged meanwhile."""
    fire.well()
    fire.line.refuse()
    beside = fire.site.base / "beside"
    beside.mkdir()
    program = str(fire.cluster.binaries.program("pg_receivewal"))
    line = [program, "-D", str(beside), "-d", fire.cluster.conninfo(), "-S", SLOT, "--no-loop", "--synchronous"]
    active = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    fire.wait(lambda: fire.cluster.value(active, (SLOT,)) is None)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        try:
            fire.wait(lambda: fire.cluster.value(active, (SLOT,)) is not None)
            fire.line.resume()
            fire.wait(lambda: fire.state() == "slot_busy")
            fire.said("Another connection holds the slot")
        finally:
            other.terminate()
            other.wait(60)
            shutil.rmtree(beside)
    fire.nothing_lost()


def test_an_idle_hour(fire: Fire) -> None:
    """A server that does nothing and asks for a sign of life again and again: the same walsender, no object put or
    removed, the acknowledged position stays where it is.
    """
    fire.well()
    fire.load.pause()
    fire.cluster.sql("CHECKPOINT")
    fire.cluster.sql("ALTER SYSTEM SET wal_sender_timeout = '3s'")  # asked every 1.5 s
    fire.cluster.sql("ALTER SYSTEM SET autovacuum = 'off'")
    fire.cluster.reload()
    try:
        assert_nothing_happens(fire, 5.0)
    finally:
        fire.cluster.sql("ALTER SYSTEM RESET ALL")
        fire.cluster.reload()
        fire.load.go_on()
    fire.nothing_lost()


def view(fire: Fire) -> tuple[tuple[int, str], str, list[str]]:
    """The walsender, the server's end, and every object. The end is asked for last: what is written later is in no
    view with this end.
    """
    objects = [str(path) for store in STORES for path in sorted((fire.site.base / store).rglob("*")) if path.is_file()]
    walsender = fire.walsender()
    return walsender, fire.cluster.lsn(), objects


def assert_nothing_happens(fire: Fire, seconds: float) -> None:
    """For so long the view stays the same. Records that the server writes by itself, at most every 15 s, begin it anew;
    the walsender is the same all the time.
    """
    fire.well()
    process, _ = fire.walsender()
    before, since = calm(fire), time.monotonic()
    deadline = since + 120
    while time.monotonic() - since < seconds:
        time.sleep(0.2)
        now = view(fire)
        assert now[0][0] == process
        assert fire.state() == "streaming"
        assert time.monotonic() < deadline, "the server is never idle"
        if now[1] != before[1]:
            before, since = calm(fire), time.monotonic()
        else:
            assert now == before


def calm(fire: Fire) -> tuple[tuple[int, str], str, list[str]]:
    """The view once everything that the server wrote is in the stores, and the server knows."""
    fire.well()
    deadline = time.monotonic() + 60
    while (found := view(fire))[0][1] != found[1] or view(fire) != found:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_twenty_switches_and_half_a_gigabyte(fire: Fire) -> None:
    """Segments that are nearly empty, faster than they can be sealed; then 500 MB of WAL as fast as the server writes:
    the daemon stays under 200 MB, and catches up.
    """
    fire.well()
    for _ in range(20):
        fire.cluster.write_wal(1, table="lain")
        fire.cluster.switch_wal()
    begin, peak = number(fire.cluster.lsn()), 0
    writer = threading.Thread(target=burst, args=(fire.cluster,))
    writer.start()
    while writer.is_alive():
        peak = max(peak, fire.memory())
        writer.join(0.1)
    end = number(fire.cluster.lsn())
    assert end - begin >= 500 * MB
    durable = 0
    deadline = time.monotonic() + 200
    while durable < end:
        assert time.monotonic() < deadline, fire.site.log()
        peak = max(peak, fire.memory())
        status = fire.site.status()
        durable = min(number(status["stores"][store]["durable_lsn"]) for store in STORES)
        time.sleep(0.1)
    assert peak < MEMORY, f"{peak >> 20} MB"
    fire.nothing_lost()
    fire.cluster.sql("DROP TABLE bukti")
    fire.site.run("snapshot", "take", "frk")


def burst(cluster: TestCluster) -> None:
    """Rows of 1.9 kB."""
    cluster.sql(
        "CREATE TABLE bukti AS SELECT g AS id, repeat(md5(g::text), 60) AS isi FROM generate_series(1, 275000) g"
    )


def test_a_fast_shutdown_while_a_store_hangs() -> None:
    """Where every store must have a byte before the primary hears of it, a store that hangs does not keep the primary
    from shutting down; nothing is acknowledged that this store lacks, and afterwards nothing is lost.
    """
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        line_to(cluster) as line,
        moto_server() as server,
        proxy_to(server.port) as hanging,
        site_of(base, cluster) as site,
    ):
        stores = site.directory_store() + site.s3_store(server, port=hanging.port, place=f"{server.bucket}/a")
        site.write_policy(source=through(line), stores=stores, stream='acknowledge = "stores"')
        add_patience(site)
        with burning(Fire(site, line)) as fire:
            fire.well()
            hanging.deafen()
            written = len(fire.load.acknowledged)
            fire.wait(lambda: len(fire.load.acknowledged) > written + 20)
            fire.load.pause()
            end = cluster.lsn()
            process, told = fire.walsender()
            assert process
            assert number(told) < number(end)
            began = time.monotonic()
            cluster.stop()
            took = time.monotonic() - began
            assert not cluster.running
            assert took < 40, f"{took:.1f} s"
            # The shutdown's own record has arrived.
            fire.wait(lambda: number(site.status()["stream"]["received_lsn"]) > number(end))
            acknowledged = site.status()["stream"]["acknowledged_lsn"]
            assert number(acknowledged) < number(end), "acknowledged what a store lacks"
            hanging.resume()
            cluster.start()
            fire.load.go_on()
            fire.nothing_lost()


def test_a_failover_between_two_hosts() -> None:
    """The daemon follows to the second host in conninfo when its standby is promoted, and stays with it, with its
    snapshots, when the former primary comes back as a primary of the old timeline. Where that one is all that answers
    it is named, and the other waited for; a daemon that knows nothing finds the right one, too.
    """
    conf = {"wal_keep_size": "256MB"}
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1, conf=conf) as first,
        site_of(base, first) as site,
        line_to(first) as line,
        first.standby() as second,
        line_to(second) as other_line,
    ):
        site.write_policy(source=through(line, other_line, also="target_session_attrs=primary"))
        add_patience(site)
        with burning(Fire(site, line)) as fire:
            fire.well()
            fail_over(fire, first, second)
            fire.wait(lambda: site.status()["source"]["timeline"] == 2)
            fire.well()
            first.start()  # a primary again, on timeline 1: nobody told it
            first.write_wal(100, table="sesat")
            pid, _ = fire.walsender()
            second.sql("SELECT pg_terminate_backend(%s)", (pid,))
            fire.wait(lambda: fire.walsender()[0] not in (0, pid))
            assert site.run("snapshot", "take", "frk")["timeline"] == 2
            other_line.refuse()
            fire.wait(lambda: fire.state() == "foreign")
            fire.said("former primary")
            other_line.resume()
            fire.wait(lambda: fire.walsender()[0] != 0)
            site.kill_daemon(15)
            (site.base / "state/frk/source-host").unlink()
            site.start_daemon()
            fire.said("was passed over")
            fire.nothing_lost()


def fail_over(fire: Fire, first: TestCluster, second: TestCluster) -> None:
    """The primary dies once its standby has everything; the standby takes over."""
    fire.load.pause()
    end = number(first.lsn())
    fire.wait(lambda: number(second.value("SELECT pg_last_wal_replay_lsn()::text")) >= end)
    first.crash()
    second.promote()
    fire.load.cluster = second
    fire.load.go_on()
