"""The level `objects` against a bucket over HTTP, locked and with versions: found, named, and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest

from replicator.repository.layout import locked
from replicator.store import Prefixed
from replicator.store.locks import Lock
from replicator.store.s3_store import S3Store
from tests.repositories import resilient
from tests.servers import S3Server, moto_server
from tests.verify.holding import Holding, codes, make_holding, wrong

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server that knows locks and versions."""
    with moto_server() as found:
        yield found


@pytest.fixture
def client(server: S3Server) -> Any:
    """Who speaks S3 without us."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@pytest.fixture
def holding(server: S3Server, client: Any, tmp_path: Path) -> Holding:
    """A repository in a directory and in a locked bucket."""
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    driver = S3Store(
        "offsite", "locked", "a", endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key,
        lock=Lock(86400.0, lambda name: locked(name.partition("/")[2]), lambda: datetime.now(UTC)),
    )  # fmt: skip
    found = make_holding(tmp_path / "repository", names=("local",))
    bucket = Prefixed(resilient(driver), "frk/")
    for name in found.files("local"):
        bucket.put(name, found.path("local", name).read_bytes())
    stores = {**found.repository.stores, "offsite": bucket}
    return replace(found, repository=replace(found.repository, stores=stores))


def test_what_happens_in_a_bucket_is_found_and_mended(holding: Holding, client: Any, tmp_path: Path) -> None:
    """A thief overwrites one object and deletes another; readers may live on older versions, a verification tells."""
    assert holding.level(tmp_path, "objects").ok
    names = holding.names
    client.put_object(Bucket="locked", Key=f"a/frk/{names['pack1']}", Body=b"x" * 5000)
    client.delete_object(Bucket="locked", Key=f"a/frk/{names['wal3']}")
    found = wrong(holding.level(tmp_path, "objects"))
    assert sorted(found) == [
        ("object_damaged", "offsite", names["pack1"]),
        ("object_missing", "offsite", names["wal3"]),
    ]
    repaired = holding.level(tmp_path, "objects", repair=True)
    assert repaired.ok, wrong(repaired)
    assert codes(repaired) == {"object_repaired"}
    assert holding.level(tmp_path, "objects").findings == ()
