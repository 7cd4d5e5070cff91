"""Object Lock and versions over the S3 protocol: what a lock holds, what it never holds, and reading past a thief."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest

from replicator.errors import IntegrityError, StoreDenied, StoreMisconfigured
from replicator.repository.earlier import read_sound
from replicator.repository.layout import locked
from replicator.store import Prefixed, ResilientStore
from replicator.store.directory import DirectoryStore
from replicator.store.locks import Lock, earlier, extend_lock, locks
from replicator.store.protocol import ReadableStore
from replicator.store.s3_store import S3Store
from replicator.tolerance import SystemClock
from tests.servers import S3Server, moto_server, rclone_server

_buckets = count(1)
DAYS = 14 * 86400.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server that knows locks and versions."""
    with moto_server() as found:
        yield found


@pytest.fixture(scope="module")
def client(server: S3Server) -> Any:
    """The bucket's owner, or a thief: whoever speaks S3 without us."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@pytest.fixture
def bucket(client: Any) -> str:
    """A bucket with Object Lock and no default retention."""
    name = f"locked-{next(_buckets)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def s3_store(server: S3Server, bucket: str, *, seconds: float | None = DAYS) -> S3Store:
    """A driver; with a lock unless `seconds` is None."""
    lock = Lock(seconds, lambda name: locked(name.partition("/")[2]), lambda: datetime.now(UTC)) if seconds else None
    return S3Store(
        "offsite", bucket, "a", endpoint=server.endpoint, access_key=server.access_key,
        secret_key=server.secret_key, lock=lock,
    )  # fmt: skip


def rooted(driver: S3Store | DirectoryStore) -> Prefixed:
    """The cluster's part of a store, as everything above uses it."""
    resilient = ResilientStore(driver, clock=SystemClock(), budget_s=1, breaker_failures=5, breaker_reset_s=1)
    return Prefixed(resilient, "frk/")


def retention(client: Any, bucket: str, name: str) -> datetime | None:
    """The end of an object's lock in compliance mode; None when it has none."""
    head = client.head_object(Bucket=bucket, Key=f"a/frk/{name}")
    if "ObjectLockMode" not in head:
        return None
    assert head["ObjectLockMode"] == "COMPLIANCE"
    until: datetime = head["ObjectLockRetainUntilDate"]
    return until


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("replicator.json", True),
        ("keys/0011223344556677/public", True),
        ("writers/0011223344556677", True),
        ("removed/writers/0011223344556677", True),
        ("7/wal/00000001/00000000/000000010000000000000001-0011223344556677", True),
        ("7/packs/20261122T120000Z/00112233-000000", True),
        ("7/snapshots/20261122T120000Z/00000001-0000000000000028-0000000000000100", True),
        ("7/history/00000002.history", True),
        ("7/records/20261122T120000000000Z-drill-0011223344556677", True),
        ("7/pieces/00000001/000000010000000000000001/0-1-0011223344556677", False),
        ("7/notes/20261122T120000000000Z-gap-x-0011223344556677", False),
        ("probe/x", False),
        ("wal/x", False),
    ],
)
def test_what_is_locked(name: str, holds: bool) -> None:
    """All that a restore needs or a proof says is locked; what gives way or only remarks is not."""
    assert locked(name) is holds


def test_lock_is_set_with_the_object(server: S3Server, client: Any, bucket: str, tmp_path: Path) -> None:
    """Whole objects, files and uploads in parts are created under the lock; a piece is not, and can be deleted."""
    store = rooted(s3_store(server, bucket))
    store.put("7/wal/a", b"x")
    path = tmp_path / "pack"
    path.write_bytes(b"x" * 100)
    store.put("7/packs/b", path)
    with store.writer("7/packs/c") as writer:
        writer.write(b"y" * (9 << 20))
        writer.commit()
    store.put("7/pieces/d", b"x")
    soon = datetime.now(UTC) + timedelta(seconds=DAYS - 60)
    for name in ("7/wal/a", "7/packs/b", "7/packs/c"):
        until = retention(client, bucket, name)
        assert until is not None
        assert soon < until < soon + timedelta(seconds=120)
        version = client.head_object(Bucket=bucket, Key=f"a/frk/{name}")["VersionId"]
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            client.delete_object(Bucket=bucket, Key=f"a/frk/{name}", VersionId=version, BypassGovernanceRetention=True)
    assert retention(client, bucket, "7/pieces/d") is None
    store.delete("7/pieces/d")
    assert [info.name for info in store.list("7/pieces/")] == []


def test_lock_is_extended(server: S3Server, client: Any, bucket: str) -> None:
    """An older object gets the whole lock time again; a longer lock stays; what needs none gets none."""
    short, long = rooted(s3_store(server, bucket, seconds=86400.0)), rooted(s3_store(server, bucket))
    assert locks(short)
    short.put("7/packs/a", b"x")
    short.put("7/pieces/p", b"x")
    before = retention(client, bucket, "7/packs/a")
    extend_lock(long, "7/packs/a")
    after = retention(client, bucket, "7/packs/a")
    assert before is not None
    assert after is not None
    assert after - before > timedelta(days=12)
    extend_lock(long, "7/pieces/p")
    assert retention(client, bucket, "7/pieces/p") is None


def test_the_lock_of_what_was_overwritten_is_extended(server: S3Server, client: Any, bucket: str) -> None:
    """Whoever puts over an object does not draw the lock to himself: the first content, which is read, is kept on."""
    short, long = rooted(s3_store(server, bucket, seconds=86400.0)), rooted(s3_store(server, bucket))
    short.put("7/packs/a", b"signed")
    where = {"Bucket": bucket, "Key": "a/frk/7/packs/a"}
    first = client.head_object(**where)["VersionId"]
    before = retention(client, bucket, "7/packs/a")
    client.put_object(**where, Body=b"forged")
    extend_lock(long, "7/packs/a")
    assert before is not None
    after = client.head_object(**where, VersionId=first)["ObjectLockRetainUntilDate"]
    assert after - before > timedelta(days=12)


def test_an_object_from_before_the_lock_is_locked_later(server: S3Server, client: Any, bucket: str) -> None:
    """Turning the lock on later reaches what was put before, once a snapshot refers to it."""
    rooted(s3_store(server, bucket, seconds=None)).put("7/packs/a", b"x")
    assert retention(client, bucket, "7/packs/a") is None
    extend_lock(rooted(s3_store(server, bucket)), "7/packs/a")
    assert retention(client, bucket, "7/packs/a") is not None


def test_bucket_with_default_retention_is_refused(server: S3Server, client: Any, bucket: str) -> None:
    """A bucket that locks everything by itself is refused with the reason, whether a lock is asked for or not."""
    client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}},
        },
    )
    for seconds in (DAYS, None):
        with pytest.raises(StoreMisconfigured, match="for 3 days by itself, so pieces could not be deleted"):
            s3_store(server, bucket, seconds=seconds).prepare()


def test_bucket_without_lock(server: S3Server) -> None:
    """A lock that the bucket can't set is refused when the store is made; without a lock the bucket is well."""
    s3_store(server, server.bucket, seconds=None).prepare()
    with pytest.raises(StoreMisconfigured, match="has no Object Lock"):
        s3_store(server, server.bucket).prepare()


def test_bucket_is_well(server: S3Server, bucket: str) -> None:
    """A bucket with Object Lock and no default retention is taken, with a lock and without."""
    s3_store(server, bucket).prepare()
    s3_store(server, bucket, seconds=None).prepare()


def test_server_without_locks(tmp_path: Path) -> None:
    """A server that doesn't know locks is taken without one, and refused with one."""
    with rclone_server(tmp_path) as server:
        s3_store(server, server.bucket, seconds=None).prepare()
        with pytest.raises((StoreMisconfigured, StoreDenied)):
            s3_store(server, server.bucket).prepare()


def check(store: ReadableStore) -> bytes:
    """Reads an object that is signed, so to say."""
    data = store.get("7/wal/a")
    if not data.startswith(b"signed"):
        raise IntegrityError("its signature is wrong")
    return data


def test_what_was_overwritten_is_read(server: S3Server, client: Any, bucket: str) -> None:
    """After overwriting puts, some of them by somebody who came often, the first content is read; ranges too."""
    store = rooted(s3_store(server, bucket))
    store.put("7/wal/a", b"signed: the truth")
    for number in range(3):
        client.put_object(Bucket=bucket, Key="a/frk/7/wal/a", Body=b"forged %d" % number)
    client.put_object(Bucket=bucket, Key="a/frk/7/wal/ab", Body=b"signed: another's")
    assert store.get("7/wal/a") == b"forged 2"
    assert read_sound(store, "7/wal/a", check) == b"signed: the truth"
    first = next(earlier(store, "7/wal/a"))
    assert first.get("7/wal/a", 8, 3) == b"the"
    assert first.get_tail("7/wal/a", 5) == (b"truth", 17)
    assert first.stat("7/wal/a").size == 17
    assert first.get("7/wal/ab") == b"signed: another's"


def test_what_is_not_kept_stays_broken(server: S3Server, tmp_path: Path) -> None:
    """Where no earlier content is kept the integrity error stays what it is, for every kind of store."""
    directory = DirectoryStore("local", tmp_path / "store")
    directory.prepare()
    with rclone_server(tmp_path / "rclone") as other:
        for driver in (
            directory,
            s3_store(server, server.bucket, seconds=None),
            s3_store(other, other.bucket, seconds=None),
        ):
            store = rooted(driver)
            store.put("7/wal/a", b"forged")
            with pytest.raises(IntegrityError, match="its signature is wrong"):
                read_sound(store, "7/wal/a", check)
            assert not locks(store)
            extend_lock(store, "7/wal/a")
