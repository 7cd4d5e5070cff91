"""Snapshots of a real server: what exists afterwards is what the server sent, and only then it exists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from replicator.core.moment import to_microseconds
from replicator.core.progress import Progress, silent
from replicator.errors import Conflict, Interrupted, SourceUnavailable, StreamNotRunning
from replicator.repository.catalog import list_snapshots, read_catalog
from replicator.repository.layout import manifest_name
from replicator.repository.manifests import read_summary
from replicator.repository.objects import check_object
from replicator.repository.repository import Repository
from replicator.seal.document import open_document
from replicator.seal.keyring import Keyring
from replicator.snapshot.job import STEPS, TakeResult
from replicator.snapshot.presence import missing_packs
from replicator.snapshot.take import take
from replicator.snapshot.view import list_rows
from replicator.store.protocol import Store
from replicator.tolerance import SystemClock
from tests.clusters import TestCluster, make_cluster, own
from tests.snapshot.support import TreeReader, make_repository, shipping, take_job, verify_tree

pytestmark = pytest.mark.server


def taken(primary: TestCluster, repository: Repository, state: Path, *, full: bool = False) -> TakeResult:
    """One snapshot, quietly."""
    return take(take_job(primary, repository, state, full=full), silent, Event())


def test_a_full_snapshot_is_what_the_server_sent(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Each store alone gives back a tree that pg_verifybackup accepts, pg_control being its last entry."""
    with shipping(primary, repository):
        result = taken(primary, repository, tmp_path / "state")
    assert result.exit_code == 0
    assert result.findings == ()
    assert result.row.parent is None
    assert set(result.row.stores) == {"local", "offsite"}
    for name, store in stores.items():
        paths = verify_tree(repository, store, result, tmp_path / f"tree-{name}")
        assert paths[-1] == "global/pg_control"
        assert "backup_label" in paths
        assert "postmaster.pid" not in paths


def test_it_exists_only_with_its_packs_and_wal(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Where the manifest is, every pack is whole and coverage holds start to stop."""
    with shipping(primary, repository):
        row = taken(primary, repository, tmp_path / "state").row
    for store in stores.values():
        summary = read_summary(store, row.snapshot, repository.keyring)
        assert (summary.bytes, summary.added_bytes, summary.damaged) == (row.bytes, row.added_bytes, False)
        assert missing_packs(store, row.snapshot.system_id, summary.packs) == []
        for info in store.list(f"{row.snapshot.system_id}/packs/"):
            if "begin-" not in info.name:
                check_object(store, info.name, repository.keyring)
        catalog = read_catalog(store, row.snapshot.system_id, repository.keyring)
        assert catalog.coverage.holds(row.snapshot.timeline, row.snapshot.start, row.snapshot.stop)
        assert [window.snapshot for window in catalog.windows] == [row.snapshot]


def test_a_second_snapshot_refers_to_the_first(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Unchanged blocks are not stored again; changed ones are; the tree is right."""
    with shipping(primary, repository):
        first = taken(primary, repository, tmp_path / "state")
        primary.sql("UPDATE dosen SET nama = 'diganti' WHERE id = 77")
        second = taken(primary, repository, tmp_path / "state")
    assert second.row.parent == first.row.snapshot.label
    assert second.row.added_bytes < first.row.added_bytes / 10
    verify_tree(repository, stores["local"], second, tmp_path / "tree")
    rows = list_rows(repository).rows
    assert [row.snapshot.label for row in rows] == [first.row.snapshot.label, second.row.snapshot.label]
    assert rows[1] == second.row


def test_its_times_are_the_server_s(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """A target time means the server's clock: a host that is an hour behind says when the server began and stopped."""

    class Behind(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(hours=1)

    job = replace(take_job(primary, repository, tmp_path / "state"), clock=Behind())
    with shipping(primary, repository):
        before = to_microseconds(datetime.now(UTC))
        row = take(job, silent, Event()).row
        after = to_microseconds(datetime.now(UTC))
    summary = read_summary(repository.stores["local"], row.snapshot, repository.keyring)
    assert before <= summary.start_us <= summary.stop_us <= after


def test_the_mark_names_the_parent(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """Each take's mark is in every store and says what must be kept while it runs."""
    with shipping(primary, repository):
        first = taken(primary, repository, tmp_path / "state").row
        second = taken(primary, repository, tmp_path / "state").row
    for store in repository.stores.values():
        for row, parent in ((first, None), (second, first.snapshot.label)):
            prefix = f"{primary.system_id}/packs/{row.snapshot.label}/begin-"
            (name,) = (info.name for info in store.list(prefix))
            assert open_document(repository.keyring, "begin", name, store.get(name))["parent"] == parent


def test_without_the_cache_the_parent_is_read_from_a_store(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """A host that can open needs no local state to refer to the parent."""
    with shipping(primary, repository):
        first = taken(primary, repository, tmp_path / "state")
        second = taken(primary, repository, tmp_path / "empty")
    assert second.row.parent == first.row.snapshot.label
    assert second.row.added_bytes < first.row.added_bytes / 10
    verify_tree(repository, stores["offsite"], second, tmp_path / "tree")


def test_a_host_that_cannot_open_refers_through_its_cache(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """With only public halves the cache is the parent; without it the next snapshot is full, and whole all the same."""
    blind = Repository("frk", repository.keyring.without_secrets(), stores)
    with shipping(primary, repository):
        first = taken(primary, blind, tmp_path / "state")
        second = taken(primary, blind, tmp_path / "state")
        third = taken(primary, blind, tmp_path / "empty")
    assert not blind.keyring.can_open
    assert second.row.parent == first.row.snapshot.label
    assert third.row.parent is None
    verify_tree(repository, stores["local"], second, tmp_path / "tree-second")
    verify_tree(repository, stores["local"], third, tmp_path / "tree-third")


def test_only_an_unknown_parent_is_opened(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """No private key is asked for by a full snapshot, nor where the cache is the parent; elsewhere once it opens it."""
    asked: list[str] = []
    blind = Repository("frk", repository.keyring.without_secrets(), stores)

    def at(place: str) -> TakeResult:
        def unlock() -> Keyring:
            asked.append(place)
            return repository.keyring

        job = replace(take_job(primary, blind, tmp_path / place), unlock=unlock)
        return take(job, silent, Event())

    with shipping(primary, repository):
        first, second = at("state"), at("state")
        assert asked == []
        third = at("empty")
    assert second.row.parent == first.row.snapshot.label
    assert third.row.parent == second.row.snapshot.label
    assert set(asked) == {"empty"}
    verify_tree(repository, stores["local"], third, tmp_path / "tree")


def test_a_damaged_cache_is_no_cache(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Garbage in the state directory never reaches a snapshot."""
    with shipping(primary, repository):
        taken(primary, repository, tmp_path / "state")
        path = tmp_path / "state/snapshot/parent.sqlite"
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 3, len(data), 4096):
            data[place] ^= 0xFF
        path.write_bytes(data)
        second = taken(primary, repository, tmp_path / "state")
    verify_tree(repository, stores["local"], second, tmp_path / "tree")


def test_full_refers_to_nothing(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """With `full` every pack that the manifest names is its own."""
    with shipping(primary, repository):
        taken(primary, repository, tmp_path / "state")
        second = taken(primary, repository, tmp_path / "state", full=True)
    store = repository.stores["local"]
    packs = read_summary(store, second.row.snapshot, repository.keyring).packs
    assert second.row.parent is None
    assert {pack.label for pack in packs} == {second.row.snapshot.label}


def test_tablespaces_and_no_encryption(primary: TestCluster, stores: dict[str, Store], tmp_path: Path) -> None:
    """A tablespace's files lie under its oid, its place is in the facts; mode none works the same."""
    repository = make_repository(stores, tmp_path, mode="none")
    location = primary.home / "space"
    location.mkdir()
    location.chmod(0o700)
    own(location)
    primary.sql(f"CREATE TABLESPACE arsip LOCATION '{location}'")
    primary.sql("CREATE TABLE lama TABLESPACE arsip AS SELECT g FROM generate_series(1, 1000) g")
    with shipping(primary, repository):
        result = taken(primary, repository, tmp_path / "state")
    oid = primary.value("SELECT oid::int FROM pg_tablespace WHERE spcname = 'arsip'")
    reader = TreeReader(repository, stores["local"], result.row.snapshot)
    assert reader.reader.facts.tablespaces == ({"in_place": False, "location": str(location), "oid": oid},)
    paths = verify_tree(repository, stores["local"], result, tmp_path / "tree")
    assert any(path.startswith(f"pg_tblspc/{oid}/PG_") for path in paths)
    primary.sql("DROP TABLE lama")
    primary.sql("DROP TABLESPACE arsip")


def test_without_a_stream_it_fails_at_once(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """No active slot: StreamNotRunning (5) with the way out, and nothing was put."""
    with pytest.raises(StreamNotRunning) as failure:
        taken(primary, repository, tmp_path / "state")
    assert failure.value.exit_code == 5
    assert "replicator daemon frk" in failure.value.hint
    assert list(repository.stores["local"].list(f"{primary.system_id}/packs/")) == []


def test_when_wal_does_not_come_there_is_no_manifest(
    primary: TestCluster, stores: dict[str, Store], tmp_path: Path
) -> None:
    """A stream whose WAL reaches no store: StreamNotRunning after the deadline, and no snapshot exists."""
    repository = make_repository(stores, tmp_path)
    other = {name: _Elsewhere() for name in stores}
    with shipping(primary, Repository("frk", repository.keyring, other)):  # type: ignore[arg-type]
        job = take_job(primary, repository, tmp_path / "state", wal_deadline_s=0.3)
        with pytest.raises(StreamNotRunning):
            take(job, silent, Event())
    assert all(list_snapshots(store, primary.system_id) == () for store in stores.values())


class _Elsewhere:
    """A store that forgets."""

    def put(self, name: str, body: bytes) -> None:
        """Forget it."""


def test_two_at_once(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """While one take is alive a later one is refused with exit code 8, and the first goes on."""
    refused: list[Conflict] = []

    def second(step: str) -> None:
        if step == "backup":
            with pytest.raises(Conflict) as failure:
                taken(primary, repository, tmp_path / "second")
            refused.append(failure.value)

    with shipping(primary, repository):
        take(take_job(primary, repository, tmp_path / "first", steps=second), silent, Event())
    assert [error.exit_code for error in refused] == [8]
    assert len(list_rows(repository).rows) == 1


@pytest.mark.parametrize("at", STEPS[: STEPS.index("manifest")])
def test_stopped_at_a_step_then_again(primary: TestCluster, repository: Repository, tmp_path: Path, at: str) -> None:
    """A take stopped at any step leaves no snapshot and nothing in the way of the next."""
    stop = Event()

    def steps(step: str) -> None:
        if step == at:
            stop.set()
            raise Interrupted(f"stopped at {step}")

    with shipping(primary, repository):
        with pytest.raises(Interrupted):
            take(take_job(primary, repository, tmp_path / "state", steps=steps), silent, stop)
        assert list_rows(repository).rows == ()
        result = taken(primary, repository, tmp_path / "state")
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "state/snapshot").iterdir()) == ["parent.sqlite"]


def test_the_stop_event_alone_ends_it(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """Setting the event while files are read ends the take with Interrupted (130)."""
    stop = Event()
    job = take_job(primary, repository, tmp_path / "state", steps=lambda step: stop.set() if step == "file" else None)
    with shipping(primary, repository), pytest.raises(Interrupted) as failure:
        take(job, silent, stop)
    assert failure.value.exit_code == 130


def test_after_the_manifest_a_failure_changes_nothing(
    primary: TestCluster, repository: Repository, tmp_path: Path
) -> None:
    """Killed between manifest and cache, the snapshot exists and is the next one's parent."""

    def steps(step: str) -> None:
        if step == "manifest":
            raise Interrupted("killed")

    with shipping(primary, repository):
        with pytest.raises(Interrupted):
            take(take_job(primary, repository, tmp_path / "state", steps=steps), silent, Event())
        first = list_rows(repository).rows
        second = taken(primary, repository, tmp_path / "state")
    assert second.row.parent == first[0].snapshot.label


def test_progress_carries_the_stop(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """The stop LSN is reported before the wait for WAL, for the daemon to cut a piece."""
    heard: list[Progress] = []
    with shipping(primary, repository):
        row = take(take_job(primary, repository, tmp_path / "state"), heard.append, Event()).row
    facts = [progress.facts for progress in heard if progress.phase == "wal"]
    assert facts[0] == {"stop_lsn": str(row.snapshot.stop)}
    assert {"read", "wal", "manifest"} <= {progress.phase for progress in heard}


def test_a_wrong_page_checksum_completes_and_marks(base: Path, repository: Repository, tmp_path: Path) -> None:
    """XX001 at the end: the snapshot exists, is damaged, names the file, and exits with 4; it is no one's parent."""
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        cluster.sql("CREATE TABLE rusak AS SELECT g FROM generate_series(1, 10000) g")
        relation = cluster.value("SELECT pg_relation_filepath('rusak')")
        cluster.restart()
        with (cluster.directory / relation).open("r+b") as file:
            file.seek(8192 + 4000)
            file.write(b"bad bytes")
        with shipping(cluster, repository):
            result = taken(cluster, repository, tmp_path / "state")
            after = taken(cluster, repository, tmp_path / "state")
    assert result.exit_code == 4
    assert result.row.damaged
    assert relation in result.findings[0].text
    assert after.row.parent is None


def test_a_lost_source_leaves_nothing(base: Path, repository: Repository, tmp_path: Path) -> None:
    """A server that goes away while it is read: SourceUnavailable (5), and no snapshot."""
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        stopped = Event()

        def steps(step: str) -> None:
            if step == "file" and not stopped.is_set():
                stopped.set()
                cluster.crash()

        cluster.sql("CREATE TABLE besar AS SELECT md5(g::text) FROM generate_series(1, 300000) g")
        found = shipping(cluster, repository)
        found.__enter__()
        with pytest.raises(SourceUnavailable):
            take(take_job(cluster, repository, tmp_path / "state", steps=steps), silent, Event())
        assert list_rows(repository).rows == ()


def test_the_manifest_is_put_last(primary: TestCluster, repository: Repository, tmp_path: Path) -> None:
    """Until the step after sealing it no store knows the manifest's name."""
    seen: list[int] = []

    def steps(step: str) -> None:
        if step in {"read", "wal", "sealed"}:
            seen.append(len(list_rows(repository).rows))

    with shipping(primary, repository):
        row = take(take_job(primary, repository, tmp_path / "state", steps=steps), silent, Event()).row
    assert seen == [0, 0, 0]
    assert repository.stores["local"].stat(manifest_name(row.snapshot)).size > 0
