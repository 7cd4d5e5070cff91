"""Replicas made by the verb beside a real primary: they follow, are listed, and are taken away whole."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from replicator.errors import AlreadyExists, Interrupted
from replicator.jobs import replica_job
from replicator.replicas.create import create as make
from replicator.replicas.place import MARK, ReplicaMark
from tests.clusters import OWNER, PASSWORD, TestCluster, cluster_base, have_binaries, make_cluster, run_as_owner
from tests.composed import composed
from tests.e2e.site import Site, site_of
from tests.servers import free_port, moto_server

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]

OWNER_OPTION = ["--owner", OWNER] if OWNER else []
SLOT = "replicator_frk_frk_replica_1"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A host with a snapshot, some WAL after it in whole segments and pieces, and a running daemon. One store is a
    directory that the servers' user can't read, the other one is S3.
    """
    with (
        moto_server() as server,
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster) as found,
    ):
        found.write_policy(stores=found.directory_store() + found.s3_store(server))
        add_replica(found, "frk-replica-1")
        cluster.write_wal(5_000)
        found.run("init", "frk", "--sheet", str(found.base / "sheet"))
        found.start_daemon()
        found.run("snapshot", "take", "frk")
        cluster.write_wal(20_000)
        found.shipped(cluster.lsn())
        yield found


def add_replica(site: Site, name: str, *, follow: str = "primary", more: str = "") -> int:
    """A [[replica]] in the policy; its port."""
    port = free_port()
    path = site.policies / "frk.toml"
    path.write_text(
        f'{path.read_text()}\n[[replica]]\nname = "{name}"\ndata_directory = "{site.base / name}"\n'
        f'port = {port}\nfollow = "{follow}"\n{more}'
    )
    return port


def create(site: Site, name: str = "frk-replica-1", *more: str, code: int = 0) -> Any:
    """`replica create`."""
    return site.run("replica", "create", "frk", name, *OWNER_OPTION, *more, code=code)


def value(port: int, sql: str) -> Any:
    """One value of a server on this host."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        row = connection.execute(sql.encode()).fetchone()
    return row[0] if row is not None else None


def eventually(true: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def slots(cluster: TestCluster) -> list[str]:
    """The primary's slots."""
    return [row[0] for row in cluster.sql("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1")]


def test_a_replica_from_end_to_end(site: Site) -> None:
    """`create` returns when the standby follows; it streams through its own slot, keeps no secret in its settings, is
    asked by `list` and the daemon, gets WAL from the repository too, and `remove` leaves nothing.
    """
    primary = site.cluster
    made = create(site)
    data = site.base / "frk-replica-1"
    try:
        assert (made["state"], made["slot"], made["data_directory"]) == ("streaming", SLOT, str(data))
        assert made["notes"] == (
            [f"{OWNER} can not read store local: the replica gets no WAL from there"] if OWNER else []
        )
        port = made["port"]
        assert value(port, "SELECT pg_is_in_recovery()") is True
        eventually(lambda: bool(value(port, "SELECT count(*) = 25000 FROM kegiatan")))
        primary.write_wal(10)
        eventually(lambda: bool(value(port, "SELECT count(*) = 25010 FROM kegiatan")))
        assert value(primary.port, f"SELECT active FROM pg_replication_slots WHERE slot_name = '{SLOT}'") is True
        _check_files(data)
        (listed,) = site.run("replica", "list", "frk")
        assert (listed["name"], listed["role"], listed["state"], listed["port"]) == (
            "frk-replica-1",
            "standby",
            "streaming",
            port,
        )
        assert listed["lag_bytes"] < 2**20
        site.wait(lambda: site.status()["replicas"]["frk-replica-1"]["state"] == "streaming")
        again = create(site, code=8)["error"]
        assert again["type"] == "AlreadyExists"
        _check_second_source(site, made)
        _check_snapshot(site, data)
    finally:
        removed = site.run("replica", "remove", "frk", "frk-replica-1", "--yes")
    assert removed["removed"] is True
    assert SLOT not in slots(primary)
    assert [path.name for path in site.base.iterdir() if path.name.startswith("frk-replica-1")] == []
    assert site.run("replica", "list", "frk")[0]["state"] == "absent"
    assert site.run("replica", "remove", "frk", "frk-replica-1", "--yes", code=3)["error"]["type"] == "NotFound"


def _check_files(data: Path) -> None:
    """No secret in the settings, and the files that hold some are the server's user's alone."""
    conf = (data / "postgresql.auto.conf").read_text()
    assert PASSWORD not in conf
    assert (data / "standby.signal").exists()
    private = data.with_name(data.name + ".replica")
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for name in ("passfile", "access", "guard"):
        assert stat.S_IMODE((private / name).stat().st_mode) == 0o600
    assert PASSWORD.encode() in (private / "passfile").read_bytes()
    assert list((private / "ready").iterdir()) == []


def _check_second_source(site: Site, made: dict[str, Any]) -> None:
    """A standby whose primary is away reads what was shipped from the repository."""
    data, primary = Path(made["data_directory"]), site.cluster
    pg_ctl = primary.binaries.program("pg_ctl")
    run_as_owner([pg_ctl, "stop", "-s", "-w", "-m", "fast", "-D", data])
    primary.write_wal(10_000)
    primary.switch_wal()
    end = primary.write_wal(10)
    site.shipped(end)
    segment = str(value(primary.port, f"SELECT pg_walfile_name('{end}')"))
    primary.stop()
    try:
        run_as_owner([pg_ctl, "start", "-s", "-w", "-t", "60", "-l", data.with_name(data.name + ".log"), "-D", data])
        eventually(lambda: bool(value(made["port"], "SELECT count(*) >= 35010 FROM kegiatan")))
        # The last segment is there in pieces only, and never served.
        assert value(made["port"], "SELECT count(*) FROM kegiatan") == 35010
        assert segment not in {path.name for path in (data / "pg_wal").iterdir()}
        (listed,) = site.run("replica", "list", "frk")
        assert (listed["state"], listed["lag_bytes"]) == ("catching up", None)
    finally:
        primary.start()
    eventually(lambda: bool(value(made["port"], "SELECT count(*) = 35020 FROM kegiatan")))


def _check_snapshot(site: Site, data: Path) -> None:
    """A policy may have snapshots read from it: what is restored of them is a cluster of its own."""
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'replicator_frk'"
    eventually(lambda: value(site.cluster.port, active) is True)  # the primary was away
    path = site.policies / "frk.toml"
    text = path.read_text()
    path.write_text(f'{text}\n[snapshot]\nread_from = "{data.name}"\n')
    try:
        site.cluster.sql("CHECKPOINT")
        taken = site.run("snapshot", "take", "frk")
        assert taken["findings"] == []
    finally:
        path.write_text(text)
    into = site.base / "dari-replika"
    site.run("restore", "frk", "--into", str(into), "--snapshot", taken["label"], "--to-lsn", taken["stop_lsn"])
    conf = (into / "postgresql.auto.conf").read_text()
    assert "BACKUP FROM: standby" in (into / "backup_label").read_text()
    assert not (into / "standby.signal").exists()
    assert "replica: begin" not in conf


def test_what_is_refused_before_anything_is_made(site: Site) -> None:
    """An unknown replica, the relay, another host and a directory that is not empty are refused in a sentence."""
    before = slots(site.cluster)
    assert create(site, "lain", code=3)["error"]["hint"] == "The policy's replicas are frk-replica-1."
    path = site.policies / "frk.toml"
    text = path.read_text()
    try:
        add_replica(site, "jauh", more='host = "203.0.113.7"\n')
        assert "is not this host" in create(site, "jauh", code=2)["error"]["message"]
        path.write_text(f"{text}\n[relay]\n")
        add_replica(site, "relai", follow="relay")
        error = create(site, "relai", code=2)["error"]
        assert error["hint"] == 'Write follow = "primary" in its [[replica]].'
        path.write_text(text)
        add_replica(site, "penuh")
        (site.base / "penuh").mkdir()
        (site.base / "penuh" / "data").write_text("penting")
        assert create(site, "penuh", code=8)["error"]["type"] == "AlreadyExists"
        assert (site.base / "penuh" / "data").read_text() == "penting"
        if os.geteuid() == 0:
            error = site.run("replica", "create", "frk", "frk-replica-1", code=2)["error"]
            assert "--owner" in error["message"]
    finally:
        path.write_text(text)
    assert slots(site.cluster) == before


def test_a_slot_of_somebody_else_stays(site: Site) -> None:
    """A slot of the replica's name that somebody else made is refused, and not dropped."""
    site.cluster.sql(f"SELECT pg_create_physical_replication_slot('{SLOT}')")
    try:
        error = create(site, code=8)["error"]
        assert SLOT in error["message"]
        assert SLOT in slots(site.cluster)
    finally:
        site.cluster.sql(f"SELECT pg_drop_replication_slot('{SLOT}')")


def test_a_promoted_replica_is_never_removed(site: Site) -> None:
    """What is no standby any more is somebody's primary: `remove` refuses, and touches nothing."""
    job = replica_job(composed(site.policies), "frk-replica-1")
    mark = ReplicaMark.new("frk", "frk-replica-1", job.policy.data_directory, SLOT, OWNER, ())
    job.place.begin(mark)
    data = job.policy.data_directory
    try:
        (data / "global").mkdir(parents=True)
        (data / "global" / "pg_control").write_bytes(b"\x01" * 64)
        (data / MARK).write_bytes(mark.to_bytes())
        error = site.run("replica", "remove", "frk", "frk-replica-1", "--yes", code=8)["error"]
        assert "was promoted" in error["message"]
        assert (data / "global" / "pg_control").exists()
    finally:
        (data / "standby.signal").touch()
        site.run("replica", "remove", "frk", "frk-replica-1", "--yes")
    assert not data.exists()


class Broken(Exception):
    """What a step raises."""


@pytest.mark.parametrize("at", ["slot", "fetched", "durable"])
def test_a_failure_leaves_nothing(site: Site, at: str) -> None:
    """Whatever breaks before the data directory can start: no slot, no directory, no mark; it can be made again."""
    made: list[str] = []

    def step(name: str) -> None:
        made.append(name)
        if name == at:
            raise Broken

    job = replica_job(composed(site.policies), "frk-replica-1", owner=OWNER, step=step)
    with pytest.raises(Broken):
        make(job)
    assert made[0] == "slot"
    assert SLOT not in slots(site.cluster)
    assert not job.record.exists()
    assert [path.name for path in site.base.iterdir() if path.name.startswith("frk-replica-1")] == []


def test_an_interrupt_leaves_nothing(site: Site) -> None:
    """Who interrupts the verb while it fetches gets his slot back, although every connection heeds the same flag."""
    job = replica_job(composed(site.policies), "frk-replica-1", owner=OWNER)
    stopping = replace(job, step=lambda name: job.stop.set() if name == "created" else None)
    with pytest.raises(Interrupted):
        make(stopping)
    assert SLOT not in slots(site.cluster)
    assert not job.record.exists()
    assert not job.policy.data_directory.exists()


def test_a_kill_is_cleaned_up_later(site: Site) -> None:
    """After a kill in the middle `create` refuses and names `remove`, which takes slot and half a directory away."""

    def die(name: str) -> None:
        if name == "fetched":
            os._exit(9)

    child = os.fork()
    if child == 0:
        make(replica_job(composed(site.policies), "frk-replica-1", owner=OWNER, step=die))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert SLOT in slots(site.cluster)
    assert "replica remove" in create(site, code=8)["error"]["hint"]
    site.run("replica", "remove", "frk", "frk-replica-1", "--yes")
    assert SLOT not in slots(site.cluster)
    assert [path.name for path in site.base.iterdir() if path.name.startswith("frk-replica-1")] == []


@pytest.mark.parametrize("what", [".replica", ".log"])
def test_what_lies_beside_it_is_in_the_way_and_stays(site: Site, what: str) -> None:
    """Where a replica would put its own files, nothing of anybody else is overwritten or taken away."""
    data = replica_job(composed(site.policies), "frk-replica-1").policy.data_directory
    beside = data.with_name(data.name + what)
    if what == ".log":
        beside.write_text("penting")
    else:
        beside.mkdir()
    try:
        error = create(site, code=8)["error"]
        assert str(beside) in error["message"]
        assert beside.exists()
        assert SLOT not in slots(site.cluster)
    finally:
        if what == ".log":
            beside.unlink(missing_ok=True)
        else:
            beside.rmdir()


def test_a_directory_that_was_filled_meanwhile_stays(site: Site) -> None:
    """Whoever puts something there between the look and the making keeps it; slot and mark go."""
    job = replica_job(composed(site.policies), "frk-replica-1", owner=OWNER)
    data = job.policy.data_directory

    def fill(name: str) -> None:
        if name == "slot":
            data.mkdir()
            (data / "data").write_text("penting")

    try:
        with pytest.raises(AlreadyExists):
            make(replace(job, step=fill))
        assert (data / "data").read_text() == "penting"
        assert SLOT not in slots(site.cluster)
        assert not job.record.exists()
    finally:
        (data / "data").unlink(missing_ok=True)
        data.rmdir()


def test_an_interrupted_removal_is_completed(site: Site) -> None:
    """A kill while the data directory goes, whatever of it went first, leaves what `remove` still knows as its own."""
    job = replica_job(composed(site.policies), "frk-replica-1")
    data = job.policy.data_directory
    mark = ReplicaMark.new("frk", "frk-replica-1", data, SLOT, OWNER, ())
    job.place.begin(mark)
    (data / "global").mkdir(parents=True)
    (data / "global" / "pg_control").write_bytes(b"\x01" * 64)
    (data / MARK).write_bytes(mark.to_bytes())
    (data / "standby.signal").touch()
    child = os.fork()
    if child == 0:

        def die(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.remove" and Path(str(arguments[0])).name in (MARK, "standby.signal"):
                os._exit(9)

        sys.addaudithook(die)
        job.place.remove(mark)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    for name in (MARK, "standby.signal"):
        (data / name).unlink(missing_ok=True)  # the system may have removed them in any order
    site.run("replica", "remove", "frk", "frk-replica-1", "--yes")
    assert not data.exists()
    assert not job.record.exists()
