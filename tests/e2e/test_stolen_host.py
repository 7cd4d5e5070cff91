"""A stolen backup host whose credentials may put and not delete: what was written before stays, and is restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import psycopg
import pytest

from tests.clusters import cluster_base, have_binaries, make_cluster
from tests.e2e.site import Site, site_of
from tests.servers import S3Server, moto_server

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]

BUCKET = "locked"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server with locks and versions."""
    with moto_server() as found:
        yield found


@pytest.fixture(scope="module")
def thief(server: S3Server) -> Any:
    """The host's own credentials in other hands, and a bucket with Object Lock."""
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    return client


@pytest.fixture(scope="module")
def site(server: S3Server, thief: Any) -> Iterator[Site]:
    """A host with one locked store; two snapshots, the second on top of the first; its daemon has ended."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as found:
        found.write_policy(stores=found.s3_store(server, place=f"{BUCKET}/a", more='object_lock = "14d"'))
        cluster.write_wal(20_000)
        found.run("init", "frk", "--sheet", str(found.base / "sheet"))
        found.start_daemon()
        found.run("snapshot", "take", "frk")
        cluster.write_wal(100)
        before = _locks(thief)
        found.run("snapshot", "take", "frk")
        _check_extended(before, _locks(thief))
        cluster.write_wal(100)
        found.shipped(cluster.lsn(), ("offsite",))
        found.kill_daemon(15)
        yield found


def _locks(thief: Any) -> dict[str, Any]:
    """Of every object: the end of its lock, None without one. A piece may go meanwhile: its segment took its place."""
    found = {}
    for item in thief.list_objects_v2(Bucket=BUCKET)["Contents"]:
        try:
            head = thief.head_object(Bucket=BUCKET, Key=item["Key"])
        except thief.exceptions.ClientError:
            assert "/pieces/" in item["Key"], item
            continue
        found[item["Key"]] = head.get("ObjectLockRetainUntilDate")
    return found


def _check_extended(before: dict[str, Any], after: dict[str, Any]) -> None:
    """What the new snapshot stands on was locked again: the older packs, and every document."""
    packs = [key for key in before if "/packs/" in key and "begin-" not in key]
    documents = [key for key in before if key.count("/") < 5 and ("/keys/" in key or "/writers/" in key)]
    assert packs
    assert len(documents) >= 3
    for key in [*packs, *documents, "a/frk/replicator.json"]:
        assert after[key] > before[key], key


def test_what_was_written_before_stays(site: Site, thief: Any) -> None:
    """Each object is locked but pieces and notes, and no version of a locked one can be deleted, whatever is tried.
    After all of them were overwritten, by garbage or by a copy with one bit turned within, a restore from that store
    alone brings every row back.
    """
    for number, (key, until) in enumerate(_locks(thief).items()):
        assert (until is None) == ("/pieces/" in key or "/notes/" in key), key
        if until is None:
            continue
        found = thief.get_object(Bucket=BUCKET, Key=key)
        with pytest.raises(thief.exceptions.ClientError, match="AccessDenied"):
            thief.delete_object(Bucket=BUCKET, Key=key, VersionId=found["VersionId"], BypassGovernanceRetention=True)
        data = bytearray(found["Body"].read())
        data[len(data) // 2] ^= 1
        forged = b"somebody else's" if number % 2 and "/packs/" not in key else bytes(data)
        thief.put_object(Bucket=BUCKET, Key=key, Body=forged)
    done = site.restore("--latest", "--store", "offsite")
    try:
        assert _rows(done["port"]) == _rows(site.cluster.port)
    finally:
        site.stop_restored()


def _rows(port: int) -> Any:
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        return connection.execute("SELECT count(*), sum(hashtext(isi)) FROM kegiatan").fetchone()
