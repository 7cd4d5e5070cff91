"""What `check` says of stores: real S3 servers that honour more and less, and directories."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest

from replicator.core.finding import Finding
from replicator.doctor.places import check_places
from replicator.doctor.subject import Patient
from replicator.errors import StoreDenied, StoreMisconfigured, StoreUnavailable
from replicator.policy import StorePolicy
from replicator.store.locks import Lock
from replicator.store.probe import Observation
from replicator.store.s3 import make_client
from replicator.store.s3_probe import Prober
from replicator.store.s3_store import S3Store
from tests.clusters import OWNER, cluster_base
from tests.httpproxy import http_proxy_to
from tests.servers import S3Server, moto_server, rclone_server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """A server that honours nearly all."""
    with moto_server() as server:
        yield server


def client_of(server: S3Server) -> Any:
    """Whoever speaks S3 without us."""
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def prober(server: S3Server, *, bucket: str = "", locks: bool = False) -> Prober:
    """A probe below `a/frk/probe/`."""
    keys = (server.access_key, server.secret_key)
    client = make_client(server.endpoint, None, keys, None, (5.0, 30.0), 4)
    return Prober("offsite", client, bucket or server.bucket, "a/frk/probe/", locks)


def codes(found: Sequence[Observation]) -> list[str]:
    """Their codes."""
    return sorted(one.code for one in found)


def test_a_server_that_honours_nearly_all(moto: S3Server) -> None:
    """moto takes a wrong Content-MD5 and honours the rest; nothing of the probe stays."""
    assert codes(prober(moto).run()) == ["checksums"]
    assert client_of(moto).list_object_versions(Bucket=moto.bucket).get("Versions", []) == []


def test_a_lock_is_tried(moto: S3Server) -> None:
    """A lock is set for a moment and holds; then the probe's versions and delete markers go, too."""
    client = client_of(moto)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    assert codes(prober(moto, bucket="locked", locks=True).run()) == ["checksums"]
    left = client.list_object_versions(Bucket="locked")
    assert (left.get("Versions", []), left.get("DeleteMarkers", [])) == ([], [])


def test_a_bucket_that_can_not_lock(moto: S3Server) -> None:
    """A lock asked for where none can be set is refused before anything is put."""
    lock = Lock(86400.0, lambda _: True, lambda: datetime.now(UTC))
    store = S3Store(
        "offsite",
        moto.bucket,
        endpoint=moto.endpoint,
        access_key=moto.access_key,
        secret_key=moto.secret_key,
        lock=lock,
    )
    with pytest.raises(StoreMisconfigured, match="has no Object Lock"):
        store.probe("frk/probe/")


def test_a_server_that_overwrites(tmp_path: Path) -> None:
    """rclone ignores If-None-Match in silence: worth knowing, not wrong, because we look first."""
    with rclone_server(tmp_path) as server:
        found = prober(server).run()
        assert codes(found) == ["create_only"]
        assert not found[0].wrong
        assert found[0].hint
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Lying:
    """A client that changes some answers of a real one."""

    def __init__(self, real: Any, **changes: Any) -> None:
        self._real = real
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return self._changes.get(name, getattr(self._real, name))


def test_a_server_that_lies(moto: S3Server) -> None:
    """Ranges that are ignored, a listing that lags, and one out of order are wrong, each by its name."""
    real = client_of(moto)

    def whole(**arguments: Any) -> Any:
        return real.get_object(**{name: value for name, value in arguments.items() if name != "Range"})

    def late(**arguments: Any) -> Any:
        page = real.list_objects_v2(**arguments)
        return {**page, "Contents": page.get("Contents", [])[1:]}

    def turned(**arguments: Any) -> Any:
        page = real.list_objects_v2(**arguments)
        return {**page, "Contents": page.get("Contents", [])[::-1]}

    for changes, expected in (
        ({"get_object": whole}, {"ranges"}),
        ({"list_objects_v2": late}, {"list_after_write"}),
        ({"list_objects_v2": turned}, {"list_order"}),
    ):
        probe = replace(prober(moto), client=cast("Any", Lying(real, **changes)))
        assert {one.code for one in probe.run() if one.wrong} == expected


def test_no_right_to_delete(moto: S3Server) -> None:
    """Where nothing may be deleted one small object is put and no more, and it is said that pieces will stay."""
    real = client_of(moto)
    put: list[str] = []

    def refuse(**_: Any) -> Any:
        raise real.exceptions.ClientError(
            {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "DeleteObject"
        )

    def count(**arguments: Any) -> Any:
        put.append(arguments["Key"])
        return real.put_object(**arguments)

    probe = replace(prober(moto, locks=True), client=cast("Any", Lying(real, delete_object=refuse, put_object=count)))
    assert codes(probe.run()) == ["delete_refused"]
    assert len(put) == 1
    real.delete_object(Bucket=moto.bucket, Key=put[0])


def test_parts_that_can_not_be_joined_go(moto: S3Server) -> None:
    """A server that fails while an object is written in parts keeps none of them, nor the object."""
    real = client_of(moto)

    def fail(**_: Any) -> Any:
        raise real.exceptions.ClientError(
            {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}},
            "CompleteMultipartUpload",
        )

    probe = replace(prober(moto), client=cast("Any", Lying(real, complete_multipart_upload=fail)))
    assert "multipart" in codes(probe.run())
    assert real.list_multipart_uploads(Bucket=moto.bucket).get("Uploads", []) == []
    assert real.list_objects_v2(Bucket=moto.bucket).get("Contents", []) == []


def test_a_put_without_an_answer_goes(moto: S3Server) -> None:
    """A probe whose answer was lost is removed all the same."""
    real = client_of(moto)

    def lose(**arguments: Any) -> Any:
        real.put_object(**arguments)
        raise real.exceptions.ClientError(
            {"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "PutObject"
        )

    with pytest.raises(StoreUnavailable):
        replace(prober(moto), client=cast("Any", Lying(real, put_object=lose))).run()
    assert real.list_objects_v2(Bucket=moto.bucket).get("Contents", []) == []


@pytest.mark.skipif(OWNER is None, reason="needs another user")
def test_a_directory_that_this_user_may_not_enter() -> None:
    """A store that belongs to somebody else is a finding, never a traceback."""
    code = (
        "import sys; from types import SimpleNamespace as N; from replicator.policy import StorePolicy\n"
        "from replicator.doctor.places import check_places\n"
        "policy = N(stores=(StorePolicy(name='local', url='file://' + sys.argv[1]),))\n"
        "print([one.code for one in check_places(N(policy=policy, name='frk')) if one.code != 'little_room'])"
    )
    with cluster_base() as base:
        store = base / "store"
        (store / "frk").mkdir(parents=True)
        for closed in (store / "frk", store):
            closed.chmod(0o700)
            done = subprocess.run(
                [sys.executable, "-c", code, str(store)], user=OWNER, capture_output=True, text=True, cwd="/",
                check=False, env={"PYTHONPATH": str(Path(__file__).parents[2])},
            )  # fmt: skip
            assert (done.stdout, done.returncode) == ("['not_writable']\n", 0), done.stderr


def test_a_clock_that_is_off(moto: S3Server) -> None:
    """A store's clock that is off by a minute is worth knowing; by ten minutes it is wrong."""
    real = client_of(moto)
    for seconds, wrong in ((60, False), (-600, True)):

        def put(seconds: int = seconds, **arguments: Any) -> Any:
            done = real.put_object(**arguments)
            done["ResponseMetadata"]["HTTPHeaders"]["date"] = formatdate(time.time() + seconds, usegmt=True)
            return done

        probe = replace(prober(moto), client=cast("Any", Lying(real, put_object=put)))
        found = [one for one in probe.run() if one.code == "clock_skew"]
        assert [one.wrong for one in found] == [wrong]


def patient(*stores: StorePolicy, probe: Any = None) -> Patient:
    """As much of one as stores need."""
    policy = SimpleNamespace(cluster="frk", stores=stores)
    return cast("Patient", SimpleNamespace(policy=policy, name="frk", probe=probe))


def check(*stores: StorePolicy, probe: Any = None) -> list[Finding]:
    """What is found."""
    return list(check_places(patient(*stores, probe=probe)))


def test_observations_become_findings() -> None:
    """What is wrong affects the stores, what is not is a remark; a refusal is a finding of its own store."""
    store = StorePolicy(name="offsite", url="s3://bkt")
    asked: list[tuple[str, str]] = []

    def probe(name: str, folder: str) -> list[Observation]:
        asked.append((name, folder))
        return [Observation("ranges", "t", "H.", wrong=True), Observation("checksums", "t", "H.")]

    found = check(store, probe=probe)
    assert asked == [("offsite", "frk/probe/")]
    assert [(one.code, one.affects, one.store) for one in found] == [
        ("ranges", "stores", "offsite"),
        ("checksums", None, "offsite"),
    ]

    def refuse(*_: str) -> list[Observation]:
        raise StoreDenied("no", hint="H.")

    assert [one.code for one in check(store, probe=refuse)] == ["store_denied"]


def test_a_directory_is_well(tmp_path: Path) -> None:
    """An ordinary file system can do all, and nothing of the probe stays."""
    store = StorePolicy(name="local", url=f"file://{tmp_path}")
    assert check(store) == []  # no repository there: another subject says it
    (tmp_path / "frk").mkdir()
    assert [one for one in check(store) if one.code != "little_room"] == []
    assert list((tmp_path / "frk").iterdir()) == []


def test_a_file_system_that_takes_no_files() -> None:
    """A directory that can't be written is said to be so; no traceback."""
    policy = StorePolicy(name="p", url="file:///proc/self")
    linked = SimpleNamespace(policy=SimpleNamespace(stores=(policy,)), name="fd")
    found = next(one for one in check_places(cast("Patient", linked)) if one.code == "not_writable")
    assert (found.affects, found.store) == ("stores", "p")


def test_a_line_that_breaks(moto: S3Server) -> None:
    """A server that fails in the middle of a probe is the store's error, not a traceback."""
    with http_proxy_to(moto.port) as proxy:
        broken = replace(moto, endpoint=f"http://127.0.0.1:{proxy.port}")
        probe = prober(broken)
        proxy.say((500, "InternalError"))
        with pytest.raises(StoreUnavailable):
            probe.run()
