"""Programs, control data and servers of this host."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import BinariesMissing, DeadlineExceeded, HostLacks, UsageError
from replicator.postgres.binaries import as_user, find_binaries, run
from replicator.postgres.controldata import parse_controldata, read_controldata
from replicator.postgres.localserver import LocalServer, Recovery, free_port
from tests.clusters import MAJOR, OWNER, TestCluster, binaries, make_cluster, own, run_as_owner

pytestmark = pytest.mark.server


def server_of(cluster: TestCluster) -> LocalServer:
    """The product's server over a test cluster's directory."""
    return LocalServer(
        cluster.directory, cluster.binaries, OWNER, cluster.port, cluster.socket_directory, log=cluster.log
    )


@pytest.fixture
def stopped(base: Path) -> Iterator[TestCluster]:
    """A cluster that does not run."""
    with make_cluster(base, wal_segsize_mb=1, start=False) as cluster:
        yield cluster


@pytest.fixture
def recovered(base: Path) -> Iterator[TestCluster]:
    """A copy of a cluster that recovers from an archive to the restore point "titik"; not started."""
    with make_cluster(base, wal_segsize_mb=1) as source:
        archive = source.home / "arsip"
        archive.mkdir()
        own(archive)
        source.configure({"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"})
        source.restart()
        with make_cluster(base, wal_segsize_mb=1, start=False) as copy:
            run_as_owner(["rm", "-r", copy.directory])
            run_as_owner(
                [
                    copy.binaries.program("pg_basebackup"),
                    "-D",
                    copy.directory,
                    "-d",
                    source.conninfo(),
                    "-c",
                    "fast",
                    "-X",
                    "none",
                ]
            )
            source.write_wal(100)
            source.sql("SELECT pg_create_restore_point('titik')")
            source.write_wal(100)
            source.switch_wal()
            source.stop()
            copy.configure({"archive_mode": "off", "restore_command": f"cp {archive}/%f %p"})
            copy.configure({"recovery_target_name": "titik"})
            (copy.directory / "recovery.signal").touch()
            own(copy.directory / "recovery.signal")
            yield copy


def test_programs_are_found_where_they_are_named(tmp_path: Path) -> None:
    """<base>/<major>/bin, <base>/bin and <base> itself; what is there with another version is named."""
    real = binaries()
    (tmp_path / str(MAJOR)).mkdir()
    (tmp_path / str(MAJOR) / "bin").symlink_to(real.directory)
    assert find_binaries(MAJOR, tmp_path).directory == tmp_path / str(MAJOR) / "bin"
    assert find_binaries(MAJOR, tmp_path / str(MAJOR)).major == MAJOR
    assert find_binaries(MAJOR, real.directory).version == real.version
    with pytest.raises(BinariesMissing) as caught:
        find_binaries(99, real.directory)
    assert real.version in caught.value.message
    assert caught.value.hint
    with pytest.raises(BinariesMissing):
        find_binaries(MAJOR, tmp_path / "nowhere")
    with pytest.raises(BinariesMissing):
        real.program("pg_nonsense")


def test_programs_run_under_a_deadline_and_as_a_user() -> None:
    """No wait without an end; an unknown user is a clear error."""
    with pytest.raises(DeadlineExceeded):
        run(["sleep", "20"], timeout=0.2)
    with pytest.raises(HostLacks):
        run(["/nonexistent/program"], timeout=60)
    with pytest.raises(HostLacks):
        as_user("no-such-user-here")
    assert run(["id", "-un"], timeout=60, owner=OWNER).stdout.strip() == (
        OWNER or run(["id", "-un"], timeout=60).stdout.strip()
    )


def test_our_environment_does_not_reach_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PGDATA of the operator's shell changes nothing."""
    monkeypatch.setenv("PGDATA", "/somewhere")
    shown = run(["env"], timeout=60).stdout
    assert "PGDATA" not in shown
    assert "LC_ALL=C" in shown


def test_control_data(stopped: TestCluster) -> None:
    """The facts of a directory; a directory that is none is an error."""
    found = read_controldata(stopped.binaries, stopped.directory)
    assert found.system_id == stopped.system_id
    assert (found.state, found.timeline, found.segment_size, found.checksums) == ("shut down", 1, 2**20, True)
    assert found.settings["max_connections"] == 100
    assert found.redo == found.checkpoint
    with pytest.raises(HostLacks):
        read_controldata(stopped.binaries, stopped.home)
    with pytest.raises(HostLacks):
        parse_controldata("nothing")


def test_a_servers_life(stopped: TestCluster) -> None:
    """Started on its port, questioned, stopped; starting is repeatable."""
    server = server_of(stopped)
    assert not server.running()
    assert server.pid is None
    assert server.start({"max_connections": "17"}) == stopped.port
    assert server.running()
    assert server.pid is not None
    os.kill(server.pid, 0)
    assert server.query("SHOW max_connections") == "17"
    assert server.query("SELECT no_such_function()") is None
    assert server.wait_recovered(60) is Recovery.ENDED
    server.stop()
    server.stop()
    assert not server.running()


def test_recovery_has_not_ended_before_the_server_opens(stopped: TestCluster) -> None:
    """Where no role may ask, the postmaster's own word counts: pg_control tells of the end a moment before."""
    (stopped.directory / "pg_hba.conf").write_text("local all all reject\nhost all all all reject\n")
    server = server_of(stopped)
    server.start({"listen_addresses": ""})
    pid = stopped.directory / "postmaster.pid"
    lines = pid.read_text().split("\n")
    assert server.recovery() is Recovery.ENDED
    pid.write_text("\n".join([*lines[:7], "starting", *lines[8:]]))
    assert server.recovery() is Recovery.RUNNING
    pid.write_text("\n".join(lines))


def test_root_must_name_an_owner(stopped: TestCluster) -> None:
    """PostgreSQL refuses root, so do we, earlier."""
    if OWNER is None:
        pytest.skip("needs root")
    with pytest.raises(UsageError):
        LocalServer(stopped.directory, stopped.binaries)


def test_a_server_that_does_not_start_shows_its_log(stopped: TestCluster) -> None:
    """The log's last lines are in the error's context."""
    stopped.binaries.program("psql")  # asked while it starts; without it the refusal would be another
    with pytest.raises(HostLacks) as caught:
        server_of(stopped).start({"wal_level": "nonsense"}, timeout=60)
    assert "wal_level" in caught.value.context["log"]


@pytest.mark.parametrize(
    ("action", "state"), [("promote", Recovery.ENDED), ("pause", Recovery.PAUSED), ("shutdown", Recovery.SHUT_DOWN)]
)
def test_recovery_ends_pauses_or_shuts_down(recovered: TestCluster, action: str, state: Recovery) -> None:
    """Each recovery_target_action is seen for what it is."""
    recovered.configure({"recovery_target_action": action})
    server = server_of(recovered)
    server.start(timeout=120)
    assert server.wait_recovered(60) is state
    if state is not Recovery.SHUT_DOWN:
        assert server.query("SELECT count(*) FROM kegiatan") == "100"


def test_a_target_that_is_never_reached_is_an_error_with_the_log(recovered: TestCluster) -> None:
    """PostgreSQL gives up; so does the wait, with its words."""
    recovered.configure({"recovery_target_name": "tidak_ada"})
    server = server_of(recovered)

    def attempt() -> None:
        server.start(timeout=120)  # it may already fail here, when recovery is quick
        server.wait_recovered(60)

    with pytest.raises(HostLacks) as caught:
        attempt()
    assert "recovery ended before configured recovery target was reached" in caught.value.context["log"]


def test_free_ports_are_free() -> None:
    """Ports above the privileged ones."""
    assert free_port() > 1023
