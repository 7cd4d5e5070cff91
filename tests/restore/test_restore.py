"""Restores of real clusters, proven by rows in the started server: every target, a failover, two segment sizes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.core.progress import Progress
from replicator.errors import (
    AlreadyExists,
    CannotOpen,
    Conflict,
    HostLacks,
    IntegrityError,
    Interrupted,
    ReplicatorError,
    StoreUnavailable,
    TargetUnreachable,
    UsageError,
)
from replicator.postgres.localserver import free_port
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.restore.coverage import coverage
from replicator.restore.job import RestoreJob
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.run import make_plan, restore
from replicator.restore.walfile import write_wal_file
from replicator.restore.walget import wal_get_planned
from replicator.seal.header import Compression
from tests.clusters import OWNER, binaries, cluster_base, have_binaries, run_as_owner
from tests.repositories import make_repository
from tests.restore.story import Story, ask, rows, run, settings_of, stop, told
from tests.stream.streams import Tap

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


@pytest.fixture(scope="module", params=[1, 16], ids=["1MB", "16MB"])
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """Two snapshots and a failover, with segments of either size."""
    with cluster_base() as base, told(base, request.param, failover=True) as found:
        yield found


@pytest.fixture(scope="module")
def short() -> Iterator[Story]:
    """One timeline, segments of 1 MB: for what needs no failover."""
    with cluster_base() as base, told(base, 1, failover=False) as found:
        yield found


@pytest.fixture
def into(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A place for one data directory that the servers' user can reach."""
    with cluster_base() as base:
        yield base / "data"


@pytest.mark.parametrize(
    ("kind", "mark", "inclusive", "less"),
    [
        ("time", "one", True, 0),
        ("xid", "xid", True, 0),
        ("xid", "xid", False, 1),
        ("name", "sebelum_hapus", True, 0),
        ("name", "sebelum_hapus", False, 0),
        ("lsn", "lsn", False, 0),
        ("time", "two", True, 0),
        ("time", "new", True, 0),
    ],
)
def test_each_target_is_reached_to_the_row(
    story: Story, into: Path, kind: str, mark: str, inclusive: bool, less: int
) -> None:
    """The started server holds every row up to the target and none after it."""
    result, highest = run(story.job(story.target(kind, mark, inclusive=inclusive), into))
    assert highest == story.rows[mark] - less
    assert result.started is not None
    assert result.started.reached_lsn is not None
    assert result.started.reached_time is not None


def test_latest_is_the_last_shipped_byte(story: Story, into: Path) -> None:
    """Across the failover, from pieces, everything that was shipped is there; nothing is left of the recovery."""
    result = restore(story.job(story.target("latest"), into))
    try:
        assert rows(result) == story.last
        assert result.plan.timelines[-1] == 2
        conf = settings_of((into / "postgresql.auto.conf").read_text())
        assert conf["archive_mode"] == "off"
        assert conf["primary_conninfo"] == ""
        assert "restore_command" not in conf
        assert not RecoveryDirectory.beside(into).path.exists()
        assert ask(result, "SHOW archive_mode") == "off"
        assert ask(result, "SELECT timeline_id FROM pg_control_checkpoint()") == "3"
        assert ask(result, "SELECT sum(length(teks)) > 0 FROM isi") == "t"
    finally:
        stop(result)


def test_the_old_timeline_can_be_asked_for(story: Story, into: Path) -> None:
    """--timeline 1 ends with the failover, and the new timeline gets a number nobody has used."""
    result = restore(story.job(story.target("latest", timeline=1), into))
    try:
        assert rows(result) == story.rows["old"]
        assert ask(result, "SELECT timeline_id FROM pg_control_checkpoint()") == "3"
    finally:
        stop(result)


def test_immediate_and_an_older_snapshot(short: Story, into: Path) -> None:
    """--immediate ends where the snapshot is consistent; --snapshot decides which one."""
    _, highest = run(short.job(short.target("immediate"), into, snapshot=short.labels[0]))
    assert highest == short.rows["first"]


def test_each_store_alone_restores(short: Story, into: Path) -> None:
    """A store is a complete copy."""
    only = short.repository.only(("offsite",))
    result, highest = run(short.job(short.target("latest"), into, repository=only))
    assert (result.plan.store, highest) == ("offsite", short.last)


def test_a_pause_shows_the_cluster_at_the_target(short: Story, into: Path) -> None:
    """--action pause: readable, still in recovery, and the operator's resume ends it."""
    result = restore(short.job(short.target("time", "one"), into, action="pause"))
    try:
        assert rows(result) == short.rows["one"]
        assert ask(result, "SELECT pg_is_in_recovery()") == "t"
        ask(result, "SELECT pg_wal_replay_resume()")
        program = binaries().program("pg_ctl")
        run_as_owner([program, "promote", "-w", "-s", "-D", into], check=False)  # the resume may have ended it already
        until = time.monotonic() + 60
        while ask(result, "SELECT pg_is_in_recovery()") != "f":
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        stop(result)


def test_latest_can_pause_and_shut_down(short: Story, into: Path) -> None:
    """Recovery without a target would promote: the last record is the target then."""
    result = restore(short.job(short.target("latest"), into, action="shutdown"))
    assert result.started is not None
    assert result.started.pid is None
    assert result.as_json()["started"] is True
    assert settings_of((into / "postgresql.auto.conf").read_text())["recovery_target_action"] == "shutdown"


def test_a_tree_that_is_not_started(short: Story, into: Path) -> None:
    """pg_verifybackup accepts the tree; PostgreSQL alone recovers it, with nothing but the recovery directory, and
    removes that at the end.
    """
    result = restore(short.job(short.target("time", "one"), into, start=False))
    assert result.as_json()["started"] is False
    assert (result.as_json()["port"], result.as_json()["reached_lsn"]) == (None, None)
    done = run_as_owner([binaries().program("pg_verifybackup"), "-n", into])
    assert "backup successfully verified" in done
    recovery = RecoveryDirectory.beside(into)
    assert recovery.path.stat().st_mode & 0o777 == 0o700
    assert (recovery.path / "access").stat().st_mode & 0o777 == 0o600
    assert started_plainly(into) == short.rows["one"]
    assert not recovery.path.exists()


def started_plainly(into: Path) -> int | None:
    """The highest row after recovery in a server started by hand, and stopped again; None when it does not start."""
    port = free_port()
    command = [binaries().program("pg_ctl"), "-D", into, "-w", "-s", "-l", into.parent / "log"]
    run_as_owner([*command, "-o", f"-p {port} -k {into.parent}", "start"], check=False)
    try:
        psql = [binaries().program("psql"), "-XAtq", "-h", into.parent, "-p", port, "-U", "postgres"]
        until = time.monotonic() + 120  # pg_ctl returns while a server without hot_standby still recovers
        while not (found := run_as_owner([*psql, "-c", "SELECT max(id) FROM kegiatan"], check=False).strip()):
            if "no server running" in run_as_owner([*command[:3], "status"], check=False):
                return None  # it may die a moment after pg_ctl saw it
            assert time.monotonic() < until
            time.sleep(0.05)
        return int(found)
    finally:
        run_as_owner([*command, "-m", "immediate", "stop"], check=False)


def test_a_server_that_fell_in_the_middle_of_recovery_goes_on(short: Story, into: Path) -> None:
    """A segment that can't be had stops the server, never ends its recovery; started again later it reads what was
    handed over before from its own directory, and reaches the end.
    """
    job = short.job(short.target("latest"), into, snapshot=short.labels[0], start=False, command=("/bin/false",))
    restore(job)
    recovery = RecoveryDirectory.beside(into)
    name = (recovery.path / "wanted").read_text().split()[2]
    (recovery.ready / name).rename(into.parent / name)
    for _ in range(2):
        assert started_plainly(into) is None
        assert (into / "recovery.signal").exists()
    (into.parent / name).rename(recovery.ready / name)
    assert started_plainly(into) == short.last


@pytest.mark.parametrize("lost", ["", "guard", "history", "ready", "wanted"])
def test_a_recovery_directory_that_was_lost_stops_the_server(short: Story, into: Path, lost: str) -> None:
    """Whatever of it is gone, the server says so and does not promote too early."""
    restore(short.job(short.target("latest"), into, start=False, command=("/bin/false",)))
    place = RecoveryDirectory.beside(into).path / lost
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    assert started_plainly(into) is None
    assert (into / "recovery.signal").exists()


def test_a_small_window_is_kept_full_ahead_of_replay(short: Story, into: Path) -> None:
    """With room for one segment only, the prefetcher goes on while the server replays."""
    result, highest = run(short.job(short.target("latest"), into, snapshot=short.labels[0], window=1))
    assert highest == short.last
    assert result.plan.needed > 3


def test_more_wal_than_is_prefetched_needs_replicator_for_the_owner(short: Story, into: Path) -> None:
    """Without --start the server's user must be able to run us; otherwise that is said before anything can start."""
    job = short.job(short.target("latest"), into, snapshot=short.labels[0], window=1, start=False)
    with pytest.raises(HostLacks) as refused:
        restore(replace(job, command=("/nonexistent/python",)))
    assert "--start" in refused.value.hint
    assert not (into / "global/pg_control").exists()
    assert not RecoveryDirectory.beside(into).path.exists()


def test_the_recovery_directory_serves_a_file_by_itself(short: Story, into: Path, tmp_path: Path) -> None:
    """`wal get --recovery` needs no policy; the last file is padded with zeros to its full size."""
    restore(short.job(short.target("latest"), into, start=False))
    recovery = RecoveryDirectory.beside(into)
    names = (recovery.path / "wanted").read_text().split()
    wal_get_planned(recovery.path, names[-1], tmp_path / "got")
    data = (tmp_path / "got").read_bytes()
    assert data == (recovery.ready / names[-1]).read_bytes()
    assert len(data) == short.segment_size
    assert not any(data[len(data) // 2 :])
    with pytest.raises(ReplicatorError):
        wal_get_planned(recovery.path, "0000000900000000000000FF", tmp_path / "none")


def test_a_dry_run_touches_nothing(short: Story, into: Path) -> None:
    """The plan's JSON has the documented keys, and no directory appears."""
    found = make_plan(short.job(short.target("time", "two"), into))
    keys = [
        "target",
        "snapshot",
        "store",
        "timelines",
        "segments",
        "pieces",
        "bytes",
        "missing",
        "expected_s",
        "windows",
    ]
    value = json.loads(json.dumps(found.as_json()))
    assert list(value) == keys
    assert list(value["windows"][0]) == ["timeline", "from_lsn", "to_lsn", "from_time", "to_time", "snapshot"]
    assert not into.exists()


def test_an_unreachable_target_tells_the_windows(short: Story, into: Path) -> None:
    """Too early, too late, unknown: 3, with windows whose ends are exact."""
    end = coverage(short.repository).stores["local"].windows[0].window.end
    for target in (
        short.target("time", "before"),
        replace(short.target("lsn", "lsn"), lsn=Lsn(end + 1)),
        replace(short.target("xid", "xid"), xid=999_999),
        replace(short.target("name", "sebelum_hapus"), name="tidak ada"),
    ):
        with pytest.raises(TargetUnreachable) as refused:
            restore(short.job(target, into))
        assert refused.value.windows[0]["to_lsn"] == str(end)
        assert not into.exists()


def test_a_host_that_can_not_open_plans_but_does_not_restore(short: Story, into: Path) -> None:
    """It says "at most" from the clear tables; a restore is refused with 7 before the directory is touched."""
    blind = replace(short.repository, keyring=short.repository.keyring.without_secrets())
    job = short.job(short.target("time", "two"), into, repository=blind)
    job = replace(job, request=replace(job.request, can_open=False))
    found = make_plan(job)
    assert not found.windows[0].exact
    with pytest.raises(CannotOpen):
        restore(job)
    assert not into.exists()


def test_what_is_in_the_way_is_refused_first(short: Story, into: Path) -> None:
    """A directory with something in it, a taken port, --port without --start, no such user."""
    into.mkdir()
    (into / "x").touch()
    with pytest.raises(AlreadyExists):
        restore(short.job(short.target("latest"), into))
    (into / "x").unlink()
    with pytest.raises(UsageError):
        restore(short.job(short.target("latest"), into, start=False, port=5555))
    with pytest.raises(HostLacks):
        restore(short.job(short.target("latest"), into, owner="nobody-of-that-name"))
    if OWNER is not None:
        with pytest.raises(UsageError):
            restore(short.job(short.target("latest"), into, owner=None))
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("step", ["fetched", "prefetched", "durable"])
def test_an_abort_leaves_a_directory_that_can_not_start(short: Story, into: Path, step: str) -> None:
    """Cut off after any step before the last, PostgreSQL refuses the directory; emptied, the restore runs again."""

    def cut(name: str) -> None:
        if name == step:
            raise Interrupted("cut off")

    with pytest.raises(Interrupted):
        restore(short.job(short.target("latest"), into, step=cut))
    assert not (into / "global/pg_control").exists()
    done = subprocess.run(
        [binaries().program("pg_controldata"), "-D", into], capture_output=True, check=False, timeout=120
    )
    assert done.returncode != 0
    with pytest.raises(AlreadyExists):
        restore(short.job(short.target("latest"), into))


def killed(job: RestoreJob, step: str) -> None:
    """Restore in a process of its own that kills itself at a step."""
    child = os.fork()
    if not child:
        try:
            restore(replace(job, step=lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == step else None))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_restore_killed_at_any_step_is_completed_by_delta(short: Story, into: Path) -> None:
    """kill -9 at every step, of a restore and of each --delta after it: without pg_control until the end, refused
    without --delta, and the last one has every row.
    """
    job = short.job(short.target("latest"), into)
    for step in ("created", "created", "cleared", "fetched", "prefetched", "durable", "created", "published"):
        killed(replace(job, delta=into.exists()), step)
        assert (into / "global/pg_control").exists() is (step == "published")
        with pytest.raises(AlreadyExists) as refused:
            restore(job)
        assert "--delta" in refused.value.hint
    result, highest = run(replace(job, delta=True))
    assert highest == short.last
    assert any("differed" in note for note in result.notes)


def test_delta_brings_a_used_directory_back(short: Story, into: Path) -> None:
    """A restored cluster that went on living is brought back to an earlier moment; while it runs it is refused."""
    job = short.job(short.target("latest"), into)
    result = restore(job)
    try:
        ask(result, "INSERT INTO kegiatan SELECT generate_series(100000, 120000)")
        with pytest.raises(Conflict):
            restore(replace(job, delta=True))
        assert ask(result, "SELECT max(id) FROM kegiatan") == "120000"
    finally:
        stop(result)
    _, highest = run(short.job(short.target("time", "one"), into, delta=True))
    assert highest == short.rows["one"]


def tapped_at(story: Story, step: str) -> tuple[Repository, Callable[[str], None]]:
    """The story's repository, and a callable for a restore's steps: at `step` the store `local` falls silent."""
    taps: list[Tap] = []

    def wrap(driver: object) -> Tap:
        taps.append(Tap(driver))
        return taps[-1]

    def close(name: str) -> None:
        taps[0].closed = taps[0].closed or name == step

    return make_repository(story.base, names=("local", "offsite"), wrap=wrap), close


@pytest.mark.parametrize("step", ["created", "fetched", "published"])
def test_another_store_takes_over(short: Story, into: Path, step: str) -> None:
    """The plan's store falls silent while files, or WAL, are fetched, or the server recovers: the other has it all."""
    tapped, close = tapped_at(short, step)
    job = short.job(short.target("latest"), into, repository=tapped, step=close, window=1, snapshot=short.labels[0])
    result, highest = run(job)
    assert (result.plan.store, highest) == ("local", short.last)
    assert any("from store offsite" in note for note in result.notes)


@pytest.mark.parametrize("step", ["created", "published"])
def test_a_store_that_fails_midway_is_named(short: Story, into: Path, step: str) -> None:
    """6. While fetching: the directory can't start. While recovering: the server stops, and was not promoted."""
    tapped, close = tapped_at(short, step)
    with pytest.raises(StoreUnavailable):
        restore(short.job(short.target("latest"), into, repository=tapped.only(("local",)), step=close))
    assert (into / "global/pg_control").exists() is (step == "published")
    if step == "published":
        assert (into / "recovery.signal").exists()
        assert not list((into / "pg_wal").glob("*.history"))
        assert not (into / "postmaster.pid").exists()


def test_a_silent_store_is_not_an_absent_target(short: Story, into: Path) -> None:
    """While a store does not answer nothing is called unreachable: 6, not 3."""

    half = half_silent(short)
    with pytest.raises(StoreUnavailable):
        make_plan(short.job(replace(short.target("xid", "xid"), xid=999_999), into, repository=half))
    assert make_plan(short.job(short.target("latest"), into, repository=half)).store == "local"


def half_silent(story: Story) -> Repository:
    """The story's repository with one store that is closed, opened through the other."""
    half = make_repository(story.base, names=("local",))
    both = make_repository(story.base, names=("local", "offsite"))
    tap = Tap(both.stores["offsite"])
    tap.closed = True
    return replace(half, stores={"local": half.stores["local"], "offsite": tap})


def test_damaged_wal_is_named_and_never_called_absent(short: Story, into: Path) -> None:
    """A flipped byte in a segment that recovery needs, in its frames or in its table: 4 for a target that needs it,
    and it is told when --latest ends before it. Nothing is promoted.
    """
    repository = short.repository.only(("local",))
    plan = make_plan(short.job(short.target("latest"), into, repository=repository))
    source = plan.files[0].sources[0].name
    path = short.base / "stores/local/frk" / source
    good = path.read_bytes()
    path.chmod(0o600)
    try:
        flip(path, good, len(good) - 20)
        for kind, mark in (("lsn", "end"), ("time", "two")):
            short.marks["end"] = plan.until
            with pytest.raises(IntegrityError) as found:
                restore(short.job(short.target(kind, mark), into, repository=repository, start=False))
            assert source in found.value.message
        told = make_plan(short.job(short.target("latest"), into, repository=repository))
        assert any(source in warning for warning in told.warnings)
        assert told.until < plan.until
        flip(path, good, 300)
        with pytest.raises(IntegrityError) as found:
            restore(short.job(short.target("latest"), into, repository=repository, start=False))
        assert source in found.value.message
    finally:
        path.write_bytes(good)


def flip(path: Path, good: bytes, at: int) -> None:
    """Write the file with one bit turned."""
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


def test_pieces_that_gave_way_are_looked_up_again(short: Story, into: Path, tmp_path: Path) -> None:
    """While a stream runs, small pieces are replaced by a larger one: a plan made before is still carried out."""
    repository = short.repository.only(("local",))
    store = repository.store("local")
    last = make_plan(short.job(short.target("latest"), into, repository=repository)).files[-1]
    write_wal_file(store, repository.keyring, last, tmp_path / "last")
    data = (tmp_path / "last").read_bytes()
    part = WalPart(
        short.system_id, Segment.holding(1, last.start, last.size), last.start, Lsn(last.end), 1, 1, complete=False
    )

    def merge(name: str) -> None:
        if name != "fetched":
            return
        body = bytearray()

        def write(chunk: bytes) -> None:
            body.extend(chunk)

        whole = seal_part(
            repository.keyring, Compression.ZSTD, 1, part, lambda at, length: data[at : at + length], write
        )
        if whole not in [source.name for source in last.sources]:
            store.put(whole, bytes(body))
            for source in last.sources:
                store.delete(source.name)

    _, highest = run(short.job(short.target("latest"), into, repository=repository, step=merge))
    assert highest == short.last


def test_a_damaged_manifest_is_passed_over_and_named(short: Story, into: Path) -> None:
    """Another snapshot restores, and the plan says which was left out; asked for alone, the damage is the answer: 4."""
    repository = short.repository.only(("local",))
    path = next((short.base / f"stores/local/frk/{short.system_id}/snapshots/{short.labels[1]}").iterdir())
    good = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    try:
        found = make_plan(short.job(short.target("latest"), into, repository=repository))
        assert found.snapshot.label == short.labels[0]
        assert any(short.labels[1] in warning for warning in found.warnings)
        with pytest.raises(IntegrityError):
            make_plan(short.job(short.target("latest"), into, repository=repository, snapshot=short.labels[1]))
    finally:
        path.write_bytes(good)


@pytest.mark.skipif(OWNER is None, reason="only root restores for another user")
def test_a_place_the_owner_can_not_reach_is_refused(short: Story, into: Path) -> None:
    """9 before anything is fetched: PostgreSQL would not start there."""
    closed = into.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(HostLacks) as refused:
        restore(short.job(short.target("latest"), closed / "data"))
    assert str(closed) in refused.value.message
    assert list(closed.iterdir()) == []


def test_an_interrupt_during_recovery_stops_the_server(short: Story, into: Path) -> None:
    """The stop flag, set while the server recovers, ends it: 130 and no process left."""
    halt = Event()

    def on(progress: Progress) -> None:
        if progress.phase == "recovery":
            halt.set()

    with pytest.raises(Interrupted):
        restore(short.job(short.target("latest"), into, report=on, stop=halt))
    assert not (into / "postmaster.pid").exists()
