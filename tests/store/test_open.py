"""From a policy to a store; what a store looks at, and what it doesn't."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import HostLacks, UsageError
from replicator.policy import SecretRef, StorePolicy, TolerancePolicy
from replicator.store import Prefixed, ReadOnly, open_store
from replicator.store.directory import DirectoryStore
from tests.servers import moto_server


def resolve(ref: SecretRef, *, what: str) -> bytes:
    """A resolver that knows every environment variable by its name."""
    return f"value-of-{ref.env}".encode()


def policy(**keys: Any) -> StorePolicy:
    """A store's policy."""
    return StorePolicy.model_validate({"name": "local", **keys})


def test_directory(tmp_path: Path) -> None:
    """A file:// url gives a directory store of the policy's name."""
    store = open_store(policy(url=f"file://{tmp_path}/r"), TolerancePolicy(), resolve)
    store.prepare()
    store.put("a", b"x")
    assert (tmp_path / "r/a").read_bytes() == b"x"
    assert store.name == "local"
    assert store.properties.create_only
    assert store.statistics().retry.calls == 2


@pytest.mark.s3
def test_bucket() -> None:
    """An s3:// url gives a bucket's store below the prefix, with the resolved keys."""
    with moto_server() as server:
        store = open_store(
            policy(
                url=f"s3://{server.bucket}/some/prefix",
                endpoint=server.endpoint,
                access_key={"env": "A"},
                secret_key={"env": "S"},
            ),
            TolerancePolicy(),
            resolve,
        )
        store.prepare()
        store.put("a", b"x")
        whole = open_store(
            policy(
                url=f"s3://{server.bucket}",
                endpoint=server.endpoint,
                access_key={"env": "A"},
                secret_key={"env": "S"},
            ),
            TolerancePolicy(),
            resolve,
        )
        assert [info.name for info in whole.list("")] == ["some/prefix/a"]


def test_a_directory_needs_no_boto3(tmp_path: Path) -> None:
    """Opening a directory store imports no boto3: a restore_command runs for each segment."""
    script = (
        "import sys; from replicator.policy import *; from replicator.store import open_store;"
        f"s = open_store(StorePolicy(name='a', url='file://{tmp_path}'), TolerancePolicy(), None); list(s.list(''));"
        "assert not {'boto3', 'botocore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_given_keys_need_no_aws_configuration(tmp_path: Path) -> None:
    """With keys in the policy neither AWS_ variables nor ~/.aws are looked at."""
    script = (
        "from replicator.store.s3_store import S3Store\n"
        "s = S3Store('o', 'b', access_key='mine', secret_key='s', endpoint=None)\n"
        "c = s._client\n"
        "assert c.meta.endpoint_url.endswith('amazonaws.com'), c.meta.endpoint_url\n"
        "assert c._request_signer._credentials.access_key == 'mine'\n"
        "assert c._request_signer._credentials.token is None\n"
    )
    environment = {
        **os.environ,
        "AWS_PROFILE": "nonexistent",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "theirs",
        "AWS_SECRET_ACCESS_KEY": "theirs",
        "AWS_SESSION_TOKEN": "theirs",
    }
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment)


def test_read_only_has_no_writing(tmp_path: Path) -> None:
    """A read-only store has no method that writes."""
    inner = DirectoryStore("local", tmp_path)
    inner.put("frk/a", b"x")
    store = ReadOnly(inner, "frk/")
    assert store.get("a") == b"x"
    assert [info.name for info in store.list("")] == ["a"]
    assert not any(hasattr(store, name) for name in ("put", "writer", "delete", "upload", "prepare"))


def test_a_prefix_is_a_folder(tmp_path: Path) -> None:
    """A prefix without its slash would mix two clusters' names."""
    with pytest.raises(UsageError):
        Prefixed(DirectoryStore("local", tmp_path), "frk")


def test_a_missing_file_is_not_retried(tmp_path: Path) -> None:
    """A body that isn't there is this host's trouble at the first try."""
    store = open_store(policy(url=f"file://{tmp_path}"), TolerancePolicy(), resolve)
    with pytest.raises(HostLacks):
        store.put("a", tmp_path / "none")
    assert store.statistics().retry.retries == 0
