"""What verbs share: their policies, and being asked to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from replicator.cli.common import Context, cluster_policies, cluster_policy, confirm, stopping
from replicator.errors import Interrupted, PolicyError, UnknownCluster, UsageError

TEXT = """\
cluster = "frk"
[source]
conninfo = "host=db1"
[[store]]
name = "local"
url = "file:///r"
[encryption]
mode = "none"
"""


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A directory with one policy."""
    tmp_path.chmod(0o755)
    (tmp_path / "frk.toml").write_text(TEXT)
    (tmp_path / "frk.toml").chmod(0o644)
    return Context(policies=tmp_path)


def test_a_clusters_policy_is_found(ctx: Context) -> None:
    """By its name, in the directory that the options give."""
    assert cluster_policy(ctx, "frk").cluster == "frk"
    assert list(cluster_policies(ctx)[1]) == list(cluster_policies(ctx, ["frk"])[1]) == ["frk"]


def test_an_unknown_cluster_names_the_nearest(ctx: Context) -> None:
    """Exit 2, and the name that was meant."""
    for ask in (lambda: cluster_policy(ctx, "fkr"), lambda: cluster_policies(ctx, ["fkr"])):
        with pytest.raises(UnknownCluster) as unknown:
            ask()
        assert unknown.value.exit_code == 2
        assert "'frk'" in unknown.value.hint


def test_no_directory_is_a_usage_error(tmp_path: Path) -> None:
    """A directory that isn't there is named."""
    with pytest.raises(PolicyError, match="is not a directory"):
        cluster_policy(Context(policies=tmp_path / "no"), "frk")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(number: signal.Signals) -> None:
    """The verb may clean up once; who signals twice doesn't wait. The former handlers come back."""
    former = signal.getsignal(number)
    with stopping() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == former


def test_without_a_terminal_a_confirmation_needs_yes() -> None:
    """Nothing waits for an answer that nobody can give."""
    confirm("sure?", yes=True)
    with pytest.raises(UsageError) as refused:
        confirm("sure?", yes=False)
    assert refused.value.hint == "Add --yes."
