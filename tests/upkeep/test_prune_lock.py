"""Prunes of a bucket with Object Lock, and snapshots removed by hand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from replicator.core.retention import Rule
from replicator.errors import Conflict, SnapshotNotFound
from replicator.repository.layout import locked
from replicator.store.locks import Lock, free
from replicator.store.s3_store import S3Store
from replicator.tolerance import SystemClock
from replicator.upkeep.prune import PruneJob
from replicator.upkeep.prune_remove import pin, remove
from tests.servers import S3Server, moto_server
from tests.upkeep.pruning import DAY, Years


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """One server for the module."""
    with moto_server() as found:
        yield found


@pytest.mark.s3
def test_what_is_locked_stays_until_the_lock_ends(server: S3Server) -> None:
    """A locked object is left in place and its lock's end told; what was never locked goes with all its versions."""
    import boto3

    client: Any = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )  # fmt: skip
    bucket = f"lock-{uuid.uuid4().hex[:8]}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    lock = Lock(3600.0, locked, lambda: datetime.now(UTC))
    store = S3Store("offsite", bucket, endpoint=server.endpoint, region="us-east-1", access_key=server.access_key,
                    secret_key=server.secret_key, lock=lock)  # fmt: skip
    wal = "7/wal/00000001/00000000/000000010000000000000001-0011223344556677"
    piece = "7/pieces/00000001/000000010000000000000001/0-1-0011223344556677"
    store.put(wal, b"x")
    store.put(piece, b"x")
    until = free(store, wal)
    assert until is not None
    assert timedelta(minutes=50) < until - datetime.now(UTC) < timedelta(minutes=70)
    assert store.get(wal) == b"x"
    store.delete(piece)
    assert free(store, piece) is None
    assert free(store, "7/pieces/00000001/nothing") is None
    left = client.list_object_versions(Bucket=bucket)
    assert [version["Key"] for version in left["Versions"]] == [wal]
    assert "DeleteMarkers" not in left


class Locked:
    """A store whose snapshots are locked."""

    def __init__(self, inner: Any, until: datetime) -> None:
        self._inner, self._until = inner, until

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def free(self, name: str) -> datetime | None:
        """Leave what is locked."""
        if "/snapshots/" in name or "/packs/" in name:
            return self._until
        self._inner.delete(name)
        return None


def test_locked_snapshot_keeps_what_it_needs(tmp_path: Path) -> None:
    """A snapshot whose manifest is locked stays whole: its WAL does not go before it."""
    until = datetime.now(UTC) + timedelta(days=3)
    years = Years(tmp_path, ("local",), days=5)
    years.lived("local")
    years.wrap = lambda store: Locked(store, until)
    first, second = (result.stores["local"] for result in years.until_done(Rule(DAY)))
    assert (first.counts.locked, first.counts.locked_until) == (3, until)
    assert first.gone == ()
    assert first.kept[years.label(0)] == ("locked",)
    assert second.as_json()["locked_until"] is not None
    assert len(years.labels("local")) == 5
    years.check_promises()
    years.wrap = lambda store: store
    years.until_done(Rule(DAY))
    assert len(years.labels("local")) == 2
    assert len(years.packs("local")) == 3


def job(years: Years) -> PruneJob:
    """A removal by hand."""
    (years.base / "host").mkdir(exist_ok=True)
    return PruneJob(years.repository, SystemClock(), years.base / "host", None)


def test_removed_by_hand(tmp_path: Path) -> None:
    """The manifest goes from every store at once, and its packs with the prunes that follow."""
    years = Years(tmp_path, ("local", "offsite"), days=3)
    years.lived("local", "offsite")
    changed = remove(job(years), years.label(1))
    assert (changed.stores, changed.exit_code) == (("local", "offsite"), 0)
    assert years.labels("offsite") == {years.label(0), years.label(2)}
    years.until_done(None)
    assert len(years.packs("local")) == 3  # the middle one's is the newest one's, too
    remove(job(years), years.label(0))
    years.until_done(None)
    assert len(years.packs("local")) == 2
    years.mirror()
    assert years.labels("local") == {years.label(2)}
    years.check_promises()


def test_what_may_not_be_removed(tmp_path: Path) -> None:
    """A store's last good snapshot, a pinned one, one in use, and one that is not there."""
    years = Years(tmp_path, ("local", "offsite"), days=2)
    years.lived("local", "offsite")
    with pytest.raises(SnapshotNotFound):
        remove(job(years), "20200101T000000Z")
    with pytest.raises(SnapshotNotFound):
        pin(years.repository, "20200101T000000Z", pinned=True, now=datetime.now(UTC))
    pin(years.repository, years.label(0), pinned=True, now=datetime.now(UTC))
    with pytest.raises(Conflict, match="pinned"):
        remove(job(years), years.label(0))
    pin(years.repository, years.label(0), pinned=False, now=datetime.now(UTC) + timedelta(seconds=1))
    years.note("restoring", years.label(0), {"target": "x"}, "offsite")
    with pytest.raises(Conflict, match="in use"):
        remove(job(years), years.label(0))
    assert years.label(0) in years.labels("local")
    years.age_notes(25)
    remove(job(years), years.label(0))
    with pytest.raises(Conflict, match="last good"):
        remove(job(years), years.label(1))
    assert years.labels("local") == {years.label(1)}
