"""Snapshots while stores fail: a store that can't keep up is left out, said, and never holds half a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from replicator.core.progress import silent
from replicator.errors import StoreUnavailable
from replicator.repository.catalog import list_snapshots
from replicator.repository.layout import manifest_name, pack_name
from replicator.repository.manifests import read_summary
from replicator.repository.repository import Repository
from replicator.snapshot.job import TakeResult
from replicator.snapshot.take import take
from replicator.snapshot.view import list_rows, show
from replicator.store import Prefixed, ResilientStore
from replicator.store.protocol import Store
from replicator.store.s3_store import S3Store
from replicator.tolerance import SystemClock
from tests.clusters import TestCluster
from tests.servers import S3Server, moto_server
from tests.snapshot.conftest import directory_store
from tests.snapshot.faults import FaultyStore
from tests.snapshot.support import Shipping, TreeReader, make_repository, shipping, take_job

pytestmark = pytest.mark.server


@pytest.fixture
def streaming(primary: TestCluster, repository: Repository) -> Iterator[Shipping]:
    """A stream into both stores, whatever a test's take sees of them."""
    with shipping(primary, repository) as found:
        yield found


def taken(
    primary: TestCluster, repository: Repository, state: Path, faults: dict[str, FaultyStore], *, deadline_s: float = 20
) -> TakeResult:
    """A snapshot that sees some stores through faults."""
    seen = Repository("frk", repository.keyring, {**repository.stores, **faults})
    return take(take_job(primary, seen, state, store_deadline_s=deadline_s, wal_deadline_s=60), silent, Event())


@pytest.mark.parametrize(
    "fault",
    [
        {"fail_write_at": 2},
        {"fail_commit": True},
        {"fail_put": "/begin-"},
        {"fail_put": "/snapshots/"},
        {"fail_list": "/snapshots/"},
        {"fail_list": "/pieces/"},
    ],
    ids=str,
)
def test_a_failing_store_is_left_out(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path, fault: dict[str, object]
) -> None:
    """Wherever a store fails: the other one has the snapshot, it has none, the finding names it, the exit code is 6."""
    broken = FaultyStore(repository.stores["offsite"], **fault)  # type: ignore[arg-type]
    result = taken(primary, repository, tmp_path / "state", {"offsite": broken})
    assert result.exit_code == 6
    assert result.row.stores == ("local",)
    assert [(finding.code, finding.store) for finding in result.findings] == [("store_lacks_snapshot", "offsite")]
    assert list_snapshots(repository.stores["local"], primary.system_id) == (result.row.snapshot,)
    assert list_snapshots(repository.stores["offsite"], primary.system_id) == ()


def test_a_hanging_store_costs_its_deadline(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """A store that hangs in a write is left out after its deadline."""
    broken = FaultyStore(repository.stores["offsite"], hang_write_at=1)
    result = taken(primary, repository, tmp_path / "state", {"offsite": broken}, deadline_s=4)
    broken.release.set()
    assert result.row.stores == ("local",)
    assert result.elapsed_s < 60


def test_no_store_left(primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path) -> None:
    """When every store fails: StoreUnavailable (6), and no snapshot."""
    broken = {name: FaultyStore(store, fail_commit=True) for name, store in repository.stores.items()}
    with pytest.raises(StoreUnavailable) as failure:
        taken(primary, repository, tmp_path / "state", broken)
    assert failure.value.exit_code == 6
    assert list_rows(repository).rows == ()


def test_a_parent_must_be_in_every_store(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """A snapshot that one store lacks is no parent; the newest that all hold is."""
    first = taken(primary, repository, tmp_path / "state", {})
    broken = FaultyStore(repository.stores["offsite"], fail_commit=True)
    second = taken(primary, repository, tmp_path / "state", {"offsite": broken})
    third = taken(primary, repository, tmp_path / "state", {})
    assert second.row.parent == third.row.parent == first.row.snapshot.label
    assert third.row.stores == ("local", "offsite")


def test_a_parent_whose_packs_are_gone_is_none(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """A pack missing in one store: the next snapshot refers to nothing there, and says which store lacks it: 4."""
    first = taken(primary, repository, tmp_path / "state", {}).row
    store = repository.stores["offsite"]
    pack = read_summary(store, first.snapshot, repository.keyring).packs[0]
    store.delete(pack_name(primary.system_id, pack))
    assert show(repository, first.snapshot.label)["presence"] == {
        "local": {"manifest": True, "missing_packs": 0},
        "offsite": {"manifest": True, "missing_packs": 1},
    }
    second = taken(primary, repository, tmp_path / "state", {})
    assert second.row.parent is None
    assert second.exit_code == 4
    (finding,) = second.findings
    assert (finding.code, finding.store, finding.affects) == ("parent_unusable", "offsite", first.snapshot.label)
    assert "lacks 1 of" in finding.text


def test_a_damaged_parent_is_said(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path, stores: dict[str, Store]
) -> None:
    """A manifest with a flipped byte is no parent: a full snapshot, a finding, exit code 4."""
    first = taken(primary, repository, tmp_path / "state", {}).row
    for name in stores:
        path = tmp_path / name / "frk" / manifest_name(first.snapshot)
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
    second = taken(primary, repository, tmp_path / "state", {})
    assert second.row.parent is None
    assert second.exit_code == 4
    assert [finding.code for finding in second.findings] == ["parent_unusable"]


def test_a_parent_damaged_in_one_store(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """Maps that one store can't give are read from another: still a child, a finding, exit code 4."""
    first = taken(primary, repository, tmp_path / "state", {}).row
    for path in (tmp_path / "local/frk" / str(primary.system_id) / "packs").glob("*/*-000000"):
        data = bytearray(path.read_bytes())
        for place in range(500, len(data) - 20_000, 1000):
            data[place] ^= 1
        path.write_bytes(data)
    second = taken(primary, repository, tmp_path / "empty", {})
    assert second.row.parent == first.snapshot.label
    assert [(finding.code, finding.store) for finding in second.findings] == [("parent_unusable", "local")]
    TreeReader(repository, repository.stores["offsite"], second.row.snapshot).write(tmp_path / "tree")


def test_a_store_without_the_repository(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """A store newly added to the policy gets nothing before `init`, and the finding says so."""
    empty = directory_store("baru", tmp_path / "baru")
    seen = Repository("frk", repository.keyring, {**repository.stores, "baru": empty})
    result = take(take_job(primary, seen, tmp_path / "state"), silent, Event())
    assert result.exit_code == 6
    assert "replicator init frk" in result.findings[0].hint
    assert list(empty.list("")) == []


def test_listing_with_a_silent_store(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """`list` tells what the others hold and who was silent; all silent is an error."""
    row = taken(primary, repository, tmp_path / "state", {}).row
    silent_one = FaultyStore(repository.stores["local"], fail_list="")
    listing = list_rows(Repository("frk", repository.keyring, {**repository.stores, "local": silent_one}))
    assert [found.snapshot for found in listing.rows] == [row.snapshot]
    assert listing.rows[0].stores == ("offsite",)
    assert set(listing.silent) == {"local"}
    with pytest.raises(StoreUnavailable):
        list_rows(Repository("frk", repository.keyring, {"local": silent_one}))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A moto server."""
    with moto_server() as server:
        yield server


@pytest.mark.s3
def test_through_s3(primary: TestCluster, s3: S3Server, tmp_path: Path) -> None:
    """A directory and an S3 store hold the same snapshot, and each gives the same tree back."""
    driver = S3Store(
        "offsite", s3.bucket, "spt", endpoint=s3.endpoint, region="us-east-1", access_key=s3.access_key,
        secret_key=s3.secret_key,
    )  # fmt: skip
    remote = ResilientStore(driver, clock=SystemClock(), budget_s=10, breaker_failures=5, breaker_reset_s=5)
    stores: dict[str, Store] = {
        "local": directory_store("local", tmp_path / "local"),
        "offsite": Prefixed(remote, "frk/"),
    }
    repository = make_repository(stores, tmp_path)
    with shipping(primary, repository):
        first = take(take_job(primary, repository, tmp_path / "state"), silent, Event())
        second = take(take_job(primary, repository, tmp_path / "other"), silent, Event())
    assert first.exit_code == second.exit_code == 0
    assert second.row.parent == first.row.snapshot.label
    trees = {}
    for name, store in stores.items():
        TreeReader(repository, store, second.row.snapshot).write(tmp_path / f"tree-{name}")
        files = [path for path in sorted((tmp_path / f"tree-{name}").rglob("*")) if path.is_file()]
        trees[name] = [path.read_bytes() for path in files]
    assert trees["local"] == trees["offsite"]
