"""What `check --print` writes down: enough, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replicator.doctor import prints
from replicator.errors import UsageError
from replicator.policy import Policy, parse_policy
from tests.clusters import TestCluster
from tests.composed import replicator, write_policies

TEXT = """
cluster = "frk"
[source]
conninfo = "{conninfo}"
[[store]]
name = "offsite"
url = "s3://spt/backup"
object_lock = "{lock}"
[encryption]
passphrase = {{ env = "X" }}
{more}
"""


def policy(conninfo: str = "host=db1 user=replicator dbname=postgres", lock: str = "off", more: str = "") -> Policy:
    """A policy with an S3 store."""
    return parse_policy(TEXT.format(conninfo=conninfo, lock=lock, more=more), Path("/etc/replicator/frk.toml"))


def test_sql_for_reading_beside_the_server() -> None:
    """Only who reads the data directory may start and stop backups."""
    assert "pg_backup_start" not in prints.sql(policy())
    beside = policy().model_copy(update={"source": policy().source.model_copy(update={"data_directory": Path("/d")})})
    assert "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean)" in prints.sql(beside)


def test_hba_lines() -> None:
    """Both databases, this host's address as the server sees it, the hosts of replicas; TLS unless it is at home."""
    more = '[[replica]]\nname = "r"\nhost = "10.0.0.12"\ndata_directory = "/r"\nfollow = "primary"'
    told = [line.split() for line in prints.pg_hba(policy(more=more), lambda _: "10.0.0.5").splitlines()[1:]]
    assert told == [
        ["hostssl", name, "replicator", address, "scram-sha-256"]
        for address in ("10.0.0.5/32", "10.0.0.12/32")
        for name in ("replication", "postgres")
    ]
    here = prints.pg_hba(policy("host=127.0.0.1 user=r"), lambda _: "127.0.0.1").splitlines()[1].split()
    assert here[:4] == ["host", "replication", "r", "127.0.0.1/32"]
    assert prints.pg_hba(policy("user=r"), lambda _: None).splitlines()[1].split() == [
        "local",
        "replication",
        "r",
        "peer",
    ]
    assert "ADDRESS-OF-THIS-HOST" in prints.pg_hba(policy(), lambda _: None)


def allowed(found: Policy) -> dict[str, set[str]]:
    """Action → resources."""
    rights: dict[str, set[str]] = {}
    for statement in json.loads(prints.s3_policy(found))["Statement"]:
        for action in statement["Action"]:
            rights.setdefault(action, set()).update(statement["Resource"])
    return rights


def test_s3_rights() -> None:
    """Everything is created and read, only what gives way is deleted; locks and pruning add what they need."""
    home = "arn:aws:s3:::spt/backup/frk"
    rights = allowed(policy())
    assert rights["s3:PutObject"] == {f"{home}/*"}
    assert rights["s3:DeleteObject"] == {f"{home}/*/pieces/*", f"{home}/probe/*"}
    assert "s3:PutObjectRetention" not in rights
    assert allowed(policy(lock="14d"))["s3:PutObjectRetention"] == {f"{home}/*"}
    assert f"{home}/*" in allowed(policy(more="[retention]"))["s3:DeleteObject"]
    assert f"{home}/*" not in allowed(policy(more='[retention]\nprune = "elsewhere"'))["s3:DeleteObject"]


def test_the_role_that_is_printed_is_enough(server: TestCluster, tmp_path: Path) -> None:
    """The printed SQL makes a role with which `check` finds nothing wrong about privileges."""
    conninfo = server.conninfo("tercetak")
    found = write_policies(tmp_path, conninfo, password="x")
    done = replicator("check", "frk", "--print", "sql", "--policies", found)
    assert done.returncode == 0
    sql = "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\", "--")))
    try:
        server.sql(sql)
        rows = server.sql("SELECT rolreplication, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = 'tercetak'")
        assert rows == [(True, False, False)]
    finally:
        server.sql("DROP ROLE IF EXISTS tercetak")


def test_no_s3_store(tmp_path: Path) -> None:
    """There is no S3 policy for directories: said in a sentence, exit 2."""
    found = write_policies(tmp_path, "host=127.0.0.1")
    done = replicator("check", "frk", "--print", "s3-policy", "--policies", found)
    assert (done.returncode, done.stdout) == (2, "")
    assert "frk has no S3 store" in done.stderr
    with pytest.raises(UsageError):
        prints.s3_policy(parse_policy((found / "frk.toml").read_text(), found / "frk.toml"))
