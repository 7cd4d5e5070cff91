"""`replicator daemon` on the command line: what keeps it from starting is one sentence with its exit code."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.composed import replicator, write_policies

NOWHERE = "host=127.0.0.1 port=1 user=replicator"


def test_unknown_cluster(tmp_path: Path) -> None:
    """A cluster that no policy names is a usage error."""
    done = replicator("daemon", "frx", "--policies", write_policies(tmp_path, NOWHERE))
    assert done.returncode == 2
    assert "'frk'" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_is_taken(tmp_path: Path) -> None:
    """A port in use is said before anything starts (9)."""
    policies = write_policies(tmp_path, NOWHERE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = policies / "daemon.toml"
        state = f'[state]\ndirectory = "{tmp_path / "state"}"\n'
        daemon.write_text(f'[api]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n{state}')
        done = replicator("daemon", "--policies", policies)
    assert done.returncode == 9
    assert "can not listen" in done.stderr


def test_token_that_can_not_be_had(tmp_path: Path) -> None:
    """A token whose variable is not set keeps the daemon from answering everybody: it does not start (9)."""
    policies = write_policies(tmp_path, NOWHERE)
    daemon = policies / "daemon.toml"
    daemon.write_text(daemon.read_text().replace("[api]", '[api]\ntoken = { env = "NOT_SET_ANYWHERE" }'))
    done = replicator("daemon", "--policies", policies)
    assert done.returncode == 9
    assert "NOT_SET_ANYWHERE" in done.stderr
