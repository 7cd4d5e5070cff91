"""What a new user gets wrong: one clear sentence, a hint, the documented exit code, no traceback, nothing touched."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import OWNER, cluster_base, make_cluster
from tests.e2e.site import Site, site_of
from tests.servers import free_port


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A host whose cluster has a snapshot and some WAL; its daemon has ended."""
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster, passphrase="rahasia") as site,
    ):
        cluster.write_wal(100)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        site.shipped(cluster.write_wal(100))
        assert site.kill_daemon(15) == 0
        yield site


@pytest.fixture(autouse=True)
def policy_restored(site: Site) -> Iterator[None]:
    """Each test may spoil the policy."""
    yield
    site.write_policy()


def refused(site: Site, *arguments: str, code: int) -> dict[str, Any]:
    """The error of a verb that must fail, checked in both forms: JSON, and a sentence with a hint on standard error."""
    error = dict(site.run(*arguments, code=code)["error"])
    assert error["exit_code"] == code
    assert error["message"]
    assert "\n" not in error["message"]
    assert error["hint"].endswith((".", ")", "?")), error
    plain = site.command(*arguments)
    assert plain.returncode == code
    assert plain.stdout == ""
    assert error["message"] in plain.stderr
    assert "Traceback" not in plain.stderr
    return error


def restore(*target: str, into: str) -> list[str]:
    """A restore's arguments."""
    return ["restore", "frk", "--into", into, *target, *(["--owner", OWNER] if OWNER else [])]


def test_wrong_policy(site: Site) -> None:
    """A misspelt key is named with the nearest one; several problems come at once."""
    path = site.policies / "frk.toml"
    path.write_text(path.read_text().replace("conninfo", "coninfo").replace("spool =", "spol ="))
    error = site.run("status", "frk", code=2)["error"]
    assert len(error["problems"]) >= 2
    assert any("conninfo" in problem for problem in error["problems"])


def test_unknown_cluster(site: Site) -> None:
    """A cluster without a policy names those that have one."""
    assert "frk" in refused(site, "status", "frx", code=2)["hint"]


def test_wrong_password(site: Site) -> None:
    """The server's refusal is the source's, and the password is not repeated."""
    (site.policies / "frk.password").write_text("salah sekali")
    for verb in (("snapshot", "take", "frk"), ("check", "frk")):
        done = site.command(*verb)
        assert done.returncode == 5, (verb, done.stdout, done.stderr)
        assert "salah sekali" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_unreachable_source(site: Site) -> None:
    """A port where nobody listens."""
    site.write_policy(source=f'conninfo = "host=127.0.0.1 port={free_port()} user=replicator dbname=postgres"')
    assert site.command("snapshot", "take", "frk").returncode == 5


def test_unreachable_store(site: Site, tmp_path: Path) -> None:
    """An S3 server that is not there: named, exit 6, soon."""
    site.write_policy(
        stores=f'[[store]]\nname = "offsite"\nurl = "s3://spt"\nendpoint = "http://127.0.0.1:{free_port()}"\n'
        'region = "us-east-1"\naccess_key = { env = "HOME" }\nsecret_key = { env = "HOME" }\n'
    )
    error = refused(site, *restore("--latest", into=str(tmp_path / "x")), code=6)
    assert "offsite" in error["message"]
    assert not (tmp_path / "x").exists()


def test_missing_store_directory(site: Site, tmp_path: Path) -> None:
    """A directory that is not mounted is no empty store."""
    site.write_policy(stores=f'[[store]]\nname = "local"\nurl = "file://{tmp_path}/nowhere"\n')
    refused(site, *restore("--latest", into=str(tmp_path / "x")), code=6)


@pytest.mark.parametrize(
    "target",
    [("--to-time", "2001-01-01T00:00:00Z"), ("--to-time", "2099-01-01T00:00:00Z"), ("--to-lsn", "0/28"),
     ("--to-lsn", "FF/0"), ("--to-xid", "4000000000"), ("--to-name", "tidak-ada")],
)  # fmt: skip
def test_target_outside_the_windows(site: Site, tmp_path: Path, target: tuple[str, str]) -> None:
    """Refused with the exact reachable windows, and nothing is made."""
    error = refused(site, *restore(*target, into=str(tmp_path / "x")), code=3)
    assert error["windows"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "target", [(), ("--latest", "--immediate"), ("--to-time", "2026-01-01T00:00:00"), ("--to-lsn", "x")]
)
def test_no_target_two_targets_no_offset(site: Site, tmp_path: Path, target: tuple[str, ...]) -> None:
    """Usage errors end with 2."""
    assert site.command(*restore(*target, into=str(tmp_path / "x"))).returncode == 2
    assert not (tmp_path / "x").exists()


def test_non_empty_directory(site: Site, tmp_path: Path) -> None:
    """What is there stays there."""
    (tmp_path / "mine").write_text("x")
    refused(site, *restore("--latest", into=str(tmp_path)), code=8)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_wrong_passphrase(site: Site, tmp_path: Path) -> None:
    """Keys are 7, and the passphrase is not repeated."""
    site.write_policy(passphrase="bukan ini")
    error = refused(site, *restore("--latest", into=str(tmp_path / "x")), code=7)
    assert "bukan ini" not in str(error)
    assert not (tmp_path / "x").exists()


def test_no_binaries(site: Site, tmp_path: Path) -> None:
    """A folder without PostgreSQL's programs is what this host lacks."""
    source = f'conninfo = "{site.cluster.conninfo("replicator")}"\nbinaries = "{tmp_path}"'
    site.write_policy(source=source)
    error = refused(site, *restore("--latest", "--start", into=str(tmp_path / "x")), code=9)
    assert str(tmp_path) in error["message"] + error["hint"]


def test_unknown_label_and_store(site: Site, tmp_path: Path) -> None:
    """A snapshot or a store that isn't there."""
    refused(site, "snapshot", "show", "frk", "20010101T000000Z", code=3)
    refused(site, *restore("--latest", "--snapshot", "20010101T000000Z", into=str(tmp_path / "x")), code=3)
    assert site.command("wal", "coverage", "frk", "--store", "nowhere").returncode in (2, 3)


def test_snapshot_without_a_stream(site: Site) -> None:
    """Without the daemon a take fails at once and says how to start it."""
    assert "daemon" in refused(site, "snapshot", "take", "frk", code=5)["hint"]


def test_init_again_and_elsewhere(site: Site, tmp_path: Path) -> None:
    """Init is repeatable; another repository is a conflict."""
    assert site.run("init", "frk", "--sheet", str(site.base / "sheet"))["created"] is False
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    site.write_policy(stores=f'[[store]]\nname = "local"\nurl = "file://{foreign}"\n')
    assert site.command("init", "frk").returncode == 8  # this host pinned the root it saw first


def test_restore_with_the_sheet_alone(site: Site, tmp_path: Path) -> None:
    """The sheet and a store are enough: no policy, no passphrase."""
    site.policies.rename(site.base / "away")
    try:
        plan = site.run(
            *restore("--latest", into=str(tmp_path / "x")), "--sheet", str(site.base / "sheet"),
            "--store", f"file://{site.base}/offsite", "--dry-run",
        )  # fmt: skip
    finally:
        (site.base / "away").rename(site.policies)
    assert plan["missing"] == []
    assert plan["windows"]


def test_status_without_the_daemon(site: Site) -> None:
    """It reads the stores and says so."""
    value = site.run("status", "frk", code=None)
    assert value["daemon"]["running"] is False
    assert value["clusters"]["frk"]["snapshots"]["count"] == 1
    assert "daemon" in site.command("status", "frk").stdout
