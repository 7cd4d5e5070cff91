"""The lock that lets one piece of work run at a time on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import Conflict, HostLacks
from replicator.tolerance import only_one


def test_a_second_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    """Taken means refused at once, with the work's name; let go of means free, also after a failure."""
    path = tmp_path / "work.lock"
    with only_one(path, "work of frk runs"):
        with (
            pytest.raises(Conflict, match="another work of frk runs on this host") as refused,
            only_one(path, "work of frk runs"),
        ):
            raise AssertionError
        assert refused.value.hint
        with only_one(tmp_path / "other.lock", "other work runs"):
            pass
    with pytest.raises(KeyError), only_one(path, "work of frk runs"):
        raise KeyError
    with only_one(path, "work of frk runs"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_place_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A directory that can't be written is the host's trouble, not another's work."""
    with (
        pytest.raises(HostLacks, match="can not be opened") as refused,
        only_one(tmp_path / "gone" / "work.lock", "work runs"),
    ):
        raise AssertionError
    assert "one user" in refused.value.hint
