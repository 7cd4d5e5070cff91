"""Who the source is: an upgraded cluster, a restored one, a clone, a fork. Each is followed or refused."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster, own, run_as_owner
from tests.e2e.site import Site, number, site_of
from tests.servers import free_port

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture
def base() -> Iterator[Path]:
    """A place for clusters."""
    with cluster_base() as path:
        yield path


@pytest.fixture
def primary(base: Path) -> Iterator[TestCluster]:
    """A cluster with a table."""
    with make_cluster(base, wal_segsize_mb=1, conf={"wal_keep_size": "64MB"}) as cluster:
        cluster.sql("CREATE TABLE kegiatan (id bigserial, isi text)")
        yield cluster


def started(site: Site) -> None:
    """The repository is made, the daemon streams."""
    site.run("init", "frk", "--sheet", str(site.base / "sheet"))
    site.start_daemon()


def pg_upgrade(old: TestCluster) -> TestCluster:
    """What an administrator does in the night: a new cluster of another system identifier on the old one's port."""
    home = old.home.parent / "upgraded"
    home.mkdir(mode=0o755)
    own(home)
    new = TestCluster(home)
    program = old.binaries.program
    made = [program("initdb"), "-D", new.directory, "-U", "postgres", "-A", "trust", "-N", "-k"]
    run_as_owner([*made, "-E", "UTF8", "--locale=C.UTF-8", "--wal-segsize=1"])
    line = f"cd {home} && exec {program('pg_upgrade')} -U postgres -N -s {home} -p {free_port()} -P {free_port()}"
    line += f" -b {old.binaries.directory} -B {old.binaries.directory} -d {old.directory} -D {new.directory}"
    run_as_owner(["/bin/sh", "-c", line])
    for name in ("postgresql.conf", "pg_hba.conf"):
        (new.directory / name).write_text((old.directory / name).read_text())
    new.port = old.port
    return new


def rows(place: dict[str, Any]) -> int:
    """How many rows a restored cluster has."""
    with psycopg.connect(f"host=127.0.0.1 port={place['port']} user=postgres dbname=postgres") as connection:
        row = connection.execute("SELECT count(*) FROM kegiatan").fetchone()
        assert row is not None
        return int(row[0])


def restored_rows(site: Site, *target: str, name: str) -> int:
    """Restore, count, stop."""
    found = rows(site.restore(*target, name=name))
    site.stop_restored(name)
    return found


def codes(site: Site) -> set[str]:
    """The problems' codes."""
    return {problem["code"] for problem in site.status()["problems"]}


def refused(site: Site) -> bool:
    """Whether the source is refused as another's."""
    return site.status()["source"]["state"] in ("foreign", "conflict")


def refused_at(site: Site, cluster: TestCluster) -> bool:
    """Whether this cluster, and not the one before it, is refused."""
    source = site.status()["source"]
    return source["state"] in ("foreign", "conflict") and source["host"] == f"127.0.0.1:{cluster.port}"


def texts(site: Site) -> str:
    """All problems and hints as one text."""
    return " ".join(f"{problem['text']} {problem['hint']}" for problem in site.status()["problems"])


def test_pg_upgrade(base: Path, primary: TestCluster) -> None:
    """A new system identifier is refused (8) until an operator accepts it. Then it is streamed and a snapshot taken at
    once, while a store that was away still gets the former cluster's last WAL; both can be restored. The former cluster
    is refused when it comes back.
    """
    with site_of(base, primary) as site:
        started(site)
        primary.write_wal(100)
        label = site.run("snapshot", "take", "frk")["label"]
        (site.base / "offsite").rename(site.base / "away")
        site.shipped(primary.write_wal(100), ("local",))
        former = primary.system_id
        primary.stop()
        with pg_upgrade(primary) as upgraded:
            new = upgraded.start().system_id
            assert new != former
            upgraded.write_wal(10)
            site.wait(lambda: refused(site))
            assert not site.answers("/readyz")
            site.wait(lambda: f"replicator init frk --accept-system {new}" in texts(site))
            site.wait(lambda: site.command("status", "frk").returncode == 8)
            assert not (site.base / "local" / "frk" / str(new)).exists()
            site.run("init", "frk", "--accept-system", "7000000000000000000", code=8)
            failure = site.run("init", "frk", "--accept-system", str(new), code=6)
            assert "offsite" in failure["error"]["message"]
            site.wait(lambda: site.status()["source"]["state"] == "streaming")
            site.wait(lambda: str(former) in texts(site))  # what the store that is away still lacks
            site.wait(lambda: site.status()["snapshots"]["count"] == 2)
            end = upgraded.write_wal(50)
            site.shipped(end, ("local",))
            assert (site.base / "spool" / "frk" / str(former)).exists()
            (site.base / "away").rename(site.base / "offsite")
            again = site.run("init", "frk", "--accept-system", str(new))
            assert again["stores"] == {"local": "unchanged", "offsite": "accepted"}
            site.wait(lambda: not (site.base / "spool" / "frk" / str(former)).exists())
            site.shipped(end)
            assert restored_rows(site, "--latest", "--store", "local", name="new") == 260
            target = ("--latest", "--snapshot", label, "--store", "offsite")
            assert restored_rows(site, *target, name="former") == 200
            upgraded.stop()
            primary.start()
            site.wait(lambda: refused(site))
            site.wait(lambda: f"the repository follows cluster {new}" in texts(site))


def moved_to(site: Site, cluster: TestCluster) -> None:
    """The policy says another address, and SIGHUP makes it count."""
    before = (site.base / "daemon.log").read_text().count('"policies_reloaded"')
    site.write_policy(source=f'conninfo = "{cluster.conninfo("replicator")}"')
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGHUP)
    site.wait(lambda: (site.base / "daemon.log").read_text().count('"policies_reloaded"') > before)


def restored_server(site: Site, *target: str, name: str) -> TestCluster:
    """A restored cluster, promoted and running: with the repository's user and settings of its own."""
    found = site.restore(*target, name=name)
    server = TestCluster(site.base / f"{name}-home")
    server.directory, server.port = site.base / name, found["port"]
    return server


def test_a_restored_cluster_becomes_the_source(base: Path, primary: TestCluster) -> None:
    """A cluster restored from the repository is followed on its new timeline, even from before our end on: the rest of
    the old timeline is kept, reported, and can be restored. So is a second fork of the first timeline. The former
    primary, and another fork that took the same number, are refused and change nothing.
    """
    with site_of(base, primary) as site:
        started(site)
        primary.write_wal(100)
        site.run("snapshot", "take", "frk")
        early = primary.write_wal(100)
        primary.write_wal(300)
        primary.switch_wal()
        site.shipped(primary.write_wal(50))
        with primary.standby() as fork:
            second = restored_server(site, "--to-lsn", early, "--exclusive", name="second")
            moved_to(site, second)
            site.wait(lambda: site.status()["source"]["timeline"] == 2)
            site.shipped(second.write_wal(7))
            site.wait(lambda: "timeline 1 is held up to" in texts(site))
            site.wait(lambda: site.command("status", "frk").returncode == 0)
            third = restored_server(site, "--latest", "--timeline", "1", name="third")
            assert third.value("SELECT count(*) FROM kegiatan") == 550
            moved_to(site, third)
            site.wait(lambda: site.status()["source"]["timeline"] == 3)
            site.shipped(third.write_wal(9))
            assert restored_rows(site, "--latest", "--timeline", "2", "--store", "offsite", name="two") == 207
            held = site.run("wal", "coverage", "frk")
            fork.promote()  # to timeline 2 as well, elsewhere
            fork.write_wal(1000)
            for wrong in (fork, primary):
                moved_to(site, wrong)
                site.wait(partial(refused_at, site, wrong))
                site.wait(lambda: site.command("status", "frk").returncode == 8)
            assert ranges(site.run("wal", "coverage", "frk")) == ranges(held)
            moved_to(site, third)
            site.shipped(third.write_wal(1))
            assert restored_rows(site, "--latest", name="again") == 560
            site.wait(lambda: site.command("status", "frk").returncode == 0)


def ranges(coverage: dict[str, Any]) -> dict[str, Any]:
    """What each store covers of which timeline."""
    return {store: [(at["timeline"], at["from_lsn"]) for at in held["ranges"]] for store, held in coverage.items()}


def test_a_clone_with_the_same_identifier(base: Path, primary: TestCluster) -> None:
    """A copy that was started by itself and wrote its own WAL is refused (8), while it is behind us and when it is past
    our end, also when the spool was lost: nothing of it replaces what the stores hold. The right one is followed again.
    """
    primary.write_wal(100)
    primary.stop()
    home = base / "clone"
    home.mkdir(mode=0o755)
    shutil.copytree(primary.directory, home / "data", symlinks=True)
    own(home)
    primary.start()
    with TestCluster(home) as clone, site_of(base, primary) as site:
        started(site)
        site.run("snapshot", "take", "frk")
        end = primary.write_wal(400)
        site.shipped(end)
        clone.start()
        moved_to(site, clone)
        site.wait(lambda: refused(site))
        site.wait(lambda: site.command("status", "frk").returncode == 8)
        while number(clone.lsn()) <= number(end):
            clone.write_wal(200)
        for spool in ("kept", "lost"):
            site.kill_daemon(signal.SIGTERM)
            if spool == "lost":
                shutil.rmtree(site.base / "spool")
            held = {path for path in site.base.glob("*/frk/*/*/0*/**/*") if path.is_file()}
            site.start_daemon(wait=False)
            site.wait(lambda: site.answers("/livez") and site.status()["source"]["state"] == "conflict")
            site.wait(lambda: site.command("status", "frk").returncode == 8)
            assert held
            assert held == {path for path in site.base.glob("*/frk/*/*/0*/**/*") if path.is_file()}
        moved_to(site, primary)
        site.shipped(primary.write_wal(1))
        for store in ("local", "offsite"):
            assert restored_rows(site, "--latest", "--store", store, name=f"from-{store}") == 501
