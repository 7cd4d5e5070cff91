"""Policies are found, guarded against writers, and loaded whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.errors import PolicyError, UnknownCluster
from replicator.policy import (
    find_policies_directory,
    load_cluster,
    load_daemon_policy,
    load_files,
    load_policies,
    load_policy,
)

Policies = Callable[..., Path]
SHIPPED = Path(__file__).resolve().parents[2] / "policies"


def test_the_shipped_policies_load() -> None:
    """What we ship as an example is well, cluster by cluster."""
    daemon, policies = load_files(sorted(SHIPPED.glob("*.toml")))
    assert sorted(policies) == ["fed", "frk"]
    assert daemon is not None
    assert all(len(policy.stores) == 2 for policy in policies.values())


def test_a_directory_gives_every_cluster_and_the_daemons_defaults(policies: Policies, minimal: str) -> None:
    """daemon.toml may be absent; a file's name means nothing, its cluster does."""
    directory = policies(one=minimal, two=minimal.replace('"frk"', '"fed"'))
    daemon, found = load_policies(directory)
    assert list(found) == ["frk", "fed"]
    assert (daemon.api.listen, daemon.log.format, daemon.path) == ("127.0.0.1:8009", "json", None)
    assert found["fed"].path == directory / "two.toml"


def test_daemon_toml_is_read_beside_them(policies: Policies, minimal: str) -> None:
    """Its keys change the defaults, and its host and port are at hand."""
    text = '[api]\nlisten = "[::]:9000"\ntoken = { env = "T" }\n[log]\nformat = "text"\n[state]\ndirectory = "/s"\n'
    daemon, _ = load_policies(policies(frk=minimal, daemon=text))
    assert (daemon.api.host, daemon.api.port) == ("::", 9000)
    assert (daemon.log.format, daemon.log.level, daemon.state.directory) == ("text", "info", Path("/s"))


def test_problems_of_all_files_come_at_once(policies: Policies, minimal: str) -> None:
    """Nobody mends one file only to hear of the next."""
    directory = policies(a="cluster = ", b=minimal.replace("[source]", "[sorce]"), daemon='[log]\nformat = "xml"\n')
    with pytest.raises(PolicyError) as refused:
        load_policies(directory)
    text = "\n".join(refused.value.problems)
    assert refused.value.message == "4 problems in the policies"
    assert f"{directory}/a.toml:1: is not TOML" in text
    assert "did you mean 'source'?" in text
    assert "source: is missing" in text
    assert 'daemon.toml:2: log.format: must be "json" or "text"' in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b'a = "x\n', "is not TOML"),
        (b"#" * (2**20 + 1), "larger than"),
        (b"", "is missing"),
    ],
)
def test_a_file_that_is_no_policy_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    """Wrong bytes, a syntax error, a huge file and an empty one are problems, not tracebacks."""
    path = tmp_path / "frk.toml"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    assert any(str(path) in problem and said in problem for problem in refused.value.problems)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    """A file that isn't there is a usage error."""
    with pytest.raises(PolicyError, match="no such file"):
        load_policy(tmp_path / "frk.toml")
    with pytest.raises(PolicyError, match="no such file"):
        load_daemon_policy(tmp_path / "daemon.toml")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(policies: Policies, minimal: str, mode: int) -> None:
    """Who can write a policy can send the backups elsewhere."""
    directory = policies(frk=minimal)
    (directory / "frk.toml").chmod(mode)
    with pytest.raises(PolicyError, match=r"others than its owner may write it\. Run chmod go-w"):
        load_policies(directory)


def test_a_directory_that_others_may_write_is_refused(policies: Policies, minimal: str) -> None:
    """They could put a policy there."""
    directory = policies(frk=minimal)
    directory.chmod(0o777)
    with pytest.raises(PolicyError, match="chmod go-w"):
        load_policies(directory)
    with pytest.raises(PolicyError, match="chmod go-w"):
        load_cluster(directory, "frk")


def test_a_file_of_another_user_is_refused(policies: Policies, minimal: str) -> None:
    """Only root and we ourselves are trusted with policies."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    directory = policies(frk=minimal)
    os.chown(directory / "frk.toml", 12345, -1)
    with pytest.raises(PolicyError, match="belongs to user 12345"):
        load_policies(directory)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((), "'frk' is also the cluster of"),
        (('"frk"', '"fed"', "[source]", '[source]\nslot = "replicator_frk"'), "is also the slot of"),
    ],
)
def test_two_files_must_not_share(policies: Policies, minimal: str, change: tuple[str, ...], said: str) -> None:
    """One cluster has one policy, and one server's slot one reader."""
    other = minimal
    for old, new in zip(change[::2], change[1::2], strict=True):
        other = other.replace(old, new)
    with pytest.raises(PolicyError, match=said):
        load_policies(policies(a=minimal, b=other))


def test_one_port_is_listened_on_once(policies: Policies, minimal: str) -> None:
    """Relays and the daemon's own port are different ones."""
    relay = '[relay]\nlisten = "127.0.0.1:7000"\n'
    other = minimal.replace('"frk"', '"fed"')
    with pytest.raises(PolicyError) as refused:
        load_policies(policies(a=minimal + relay, b=other + relay, daemon='[api]\nlisten = "127.0.0.1:7000"\n'))
    assert sum("is also the address of" in problem for problem in refused.value.problems) == 1
    assert sum("is also daemon.toml's" in problem for problem in refused.value.problems) == 2


def test_one_cluster_loads_beside_a_broken_one(policies: Policies, minimal: str) -> None:
    """A restore of FRK doesn't wait for FED's file to be mended."""
    directory = policies(frk=minimal, fed='cluster = "fed"\nbogus = 1\n', worse="=")
    daemon, policy = load_cluster(directory, "frk")
    assert (policy.cluster, daemon.path) == ("frk", None)
    with pytest.raises(PolicyError, match="problems"):
        load_cluster(directory, "fed")


def test_an_unknown_cluster_names_the_nearest(policies: Policies, minimal: str) -> None:
    """A typing error costs one look."""
    directory = policies(frk=minimal)
    with pytest.raises(UnknownCluster) as unknown:
        load_cluster(directory, "frkk")
    assert unknown.value.hint == "Did you mean 'frk'?"
    with pytest.raises(UnknownCluster) as unknown:
        load_cluster(directory, "zzz")
    assert "frk" in unknown.value.hint


def test_an_unknown_cluster_beside_a_file_that_is_no_toml_names_that(policies: Policies, minimal: str) -> None:
    """The cluster asked for may be in the file that can't be read."""
    with pytest.raises(PolicyError, match="is not TOML"):
        load_cluster(policies(frk=minimal, fed="="), "fed")


def test_the_same_cluster_twice_is_refused_for_one_cluster_too(policies: Policies, minimal: str) -> None:
    """Which of two policies holds is not a guess."""
    with pytest.raises(PolicyError, match="also the cluster of"):
        load_cluster(policies(a=minimal, b=minimal), "frk")


def test_the_directory_is_looked_for_in_order(policies: Policies, minimal: str, tmp_path: Path) -> None:
    """The option first, then the variable, then the first usual place that has a policy."""
    directory, empty = policies(frk=minimal), tmp_path / "empty"
    empty.mkdir()
    environ = {"REPLICATOR_POLICIES": str(empty)}
    assert find_policies_directory(directory, environ=environ) == directory
    assert find_policies_directory(environ=environ) == empty
    assert find_policies_directory(environ={}, places=[tmp_path / "absent", empty, directory]) == directory


def test_a_named_directory_is_never_passed_over(tmp_path: Path) -> None:
    """What was asked for and isn't there is an error, not a reason to look elsewhere."""
    for explicit, environ in ((tmp_path / "no", {}), (None, {"REPLICATOR_POLICIES": str(tmp_path / "no")})):
        with pytest.raises(PolicyError, match="is not a directory"):
            find_policies_directory(explicit, environ=environ)
    with pytest.raises(PolicyError, match="no policies in"):
        find_policies_directory(environ={}, places=[tmp_path])
    with pytest.raises(PolicyError, match="no policies in"):
        load_policies(tmp_path)


def test_hidden_files_are_not_policies(policies: Policies, minimal: str) -> None:
    """An editor's leftovers are passed over."""
    directory = policies(frk=minimal)
    (directory / ".frk.toml").write_text("=")
    assert list(load_policies(directory)[1]) == ["frk"]
