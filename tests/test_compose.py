"""What compose builds from a policy: private state, pinned root, keys, stores with a wrapper, the cached documents."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from replicator.compose import Cluster, compose
from replicator.errors import HostLacks, KeysError, NotFound, StoreUnavailable, UntrustedRepository
from replicator.jobs import take_job
from replicator.store import Store
from tests.composed import composed, json_of, write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """An initialised cluster whose server is not there."""
    found = write_policies(tmp_path, NOWHERE)
    json_of("init", "frk", "--policies", found)
    return found


def test_state_is_private(policies: Path, tmp_path: Path) -> None:
    """The state directory is 0700 and what lies in it 0600; a place that can't be made is something the host lacks."""
    cluster = composed(policies)
    cluster.repository(secrets=False)
    directory = cluster.state_directory
    assert directory == tmp_path / "state/frk"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()} == {0o600}
    (tmp_path / "file").touch()
    daemon = cluster.daemon.model_copy(
        update={"state": cluster.daemon.state.model_copy(update={"directory": tmp_path / "file/state"})}
    )
    with pytest.raises(HostLacks):
        _ = compose(cluster.policy, daemon).state_directory


def test_root_is_pinned_at_first_sight(policies: Path) -> None:
    """The first root seen is remembered; another repository in its place is not trusted."""
    cluster = composed(policies)
    cluster.repository(secrets=False)
    pinned = cluster.pinned_root
    assert pinned is not None
    cluster.state.pin_path.write_text("ed25519:" + "A" * 43)
    with pytest.raises(UntrustedRepository):
        composed(policies).repository(secrets=False)
    cluster.pin_root(pinned)
    assert composed(policies).pinned_root == "ed25519:" + "A" * 43


def test_secrets_and_writing(policies: Path) -> None:
    """Without secrets nothing can be opened; with them it can; writing needs the writer key that `init` made."""
    assert not composed(policies).repository(secrets=False).keyring.can_open
    repository = composed(policies).repository(write=True)
    assert repository.keyring.can_open
    assert repository.keyring.can_write
    (policies / "writer.key").unlink()
    with pytest.raises(KeysError, match="no writer key") as raised:
        composed(policies).repository(secrets=False, write=True)
    assert "replicator init frk" in raised.value.hint


def test_encryption_fails_closed(policies: Path) -> None:
    """A policy that says another mode than the repository's is refused."""
    path = policies / "frk.toml"
    path.write_text(path.read_text().replace("[encryption]", '[encryption]\nmode = "none"'))
    with pytest.raises(KeysError, match="mode"):
        composed(policies).repository(secrets=False)


def test_documents_are_cached(policies: Path, tmp_path: Path) -> None:
    """While no store answers the copies on this host do, unless they are not wanted; an empty store is not away."""
    composed(policies).repository(secrets=False)
    (tmp_path / "local").rename(tmp_path / "away")
    assert composed(policies).repository(secrets=False, write=True).keyring.can_write
    with pytest.raises(StoreUnavailable):
        composed(policies).repository(secrets=False, cached=False)
    (tmp_path / "local").mkdir()
    with pytest.raises(NotFound):
        composed(policies).repository(secrets=False, cached=False)


def test_stores_are_wrapped_and_prefixed(policies: Path) -> None:
    """A wrapper sees every store at its root; the repository sees its own folder; `only` narrows."""
    seen: list[str] = []

    def wrap(store: Store) -> Store:
        seen.append(store.name)
        return store

    plain = composed(policies)
    cluster: Cluster = compose(plain.policy, plain.daemon, wrap_store=wrap)
    assert any(info.name == "replicator.json" for info in cluster.stores()["local"].list(""))
    assert seen == ["local"]
    assert list(cluster.repository(secrets=False, only=("local",)).stores) == ["local"]
    with pytest.raises(NotFound):
        cluster.repository(secrets=False, only=("elsewhere",))


def test_slot_is_remembered(policies: Path) -> None:
    """What `init` made may be made again; a record about another slot, or a broken one, allows nothing."""
    cluster = composed(policies)
    assert cluster.may_create_slot()
    (cluster.state_directory / "slot.json").write_text('{"slot": "other"}')
    assert not cluster.may_create_slot()
    (cluster.state_directory / "slot.json").write_text("{")
    assert not cluster.may_create_slot()


def test_a_take_waits_as_long_as_the_retry_budget(policies: Path) -> None:
    """A store that comes back within the policy's retry budget is not left out of a snapshot before."""
    path = policies / "frk.toml"
    path.write_text(path.read_text().replace('retry_budget = "1s"', 'retry_budget = "10m"'))
    job = take_job(composed(policies))
    assert min(job.store_deadline_s, job.wal_deadline_s) > 600
