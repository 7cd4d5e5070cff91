"""Policies on disk and clusters composed from them, for tests of what stands above compose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replicator.compose import Cluster, compose
from replicator.policy import load_cluster
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, parse_key, x25519_public
from tests.servers import free_port

PASSPHRASE = "sandi yang panjang"


def write_policies(
    directory: Path,
    conninfo: str,
    *,
    cluster: str = "frk",
    password: str = "",
    stores: Sequence[str] = ("local",),
    extra: str = "",
    source: str = "",
    stream: str = "",
    passphrase: bool = True,
) -> Path:
    """A directory of policies with one cluster; everything else lies beside it. `extra` is more TOML at the end.
    Without a passphrase an identity opens the repository: quicker, where it does not matter which.
    """
    policies = directory / "policies"
    policies.mkdir(mode=0o700, exist_ok=True)
    lines = [f'cluster = "{cluster}"', "[source]", f'conninfo = "{conninfo}"', source]
    if password:
        _private(directory / "password", password)
        lines.append(f'password = {{ file = "{directory / "password"}" }}')
    for store in stores:
        lines += ["[[store]]", f'name = "{store}"', f'url = "file://{directory / store}"']
    lines += ["[encryption]", *(_passphrase(directory) if passphrase else _identity(directory))]
    lines += ["[stream]", f'spool = "{directory / "spool"}"', 'spool_limit = "64MB"', stream]
    lines += ["[tolerance]", 'connect_timeout = "15s"', 'retry_budget = "1s"', extra]
    _private(policies / f"{cluster}.toml", "\n".join(lines) + "\n")
    daemon = policies / "daemon.toml"
    if not daemon.exists():
        _private(daemon, f'[api]\nlisten = "127.0.0.1:{free_port()}"\n[state]\ndirectory = "{directory / "state"}"\n')
    return policies


def _passphrase(directory: Path) -> Sequence[str]:
    """What opens the repository, as lines of [encryption]."""
    secret = directory / "passphrase"
    _private(secret, PASSPHRASE)
    return (f'passphrase = {{ file = "{secret}" }}',)


def _identity(directory: Path) -> Sequence[str]:
    """The same; an identity that is there stays."""
    secret = directory / "identity"
    if not secret.exists():
        _private(secret, key_text(SEALING_SECRET, new_x25519()))
    public = key_text(SEALING, x25519_public(parse_key(SEALING_SECRET, secret.read_text())))
    return (f'recipients = ["{public}"]', f'identity = {{ file = "{secret}" }}')


def composed(policies: Path, cluster: str = "frk") -> Cluster:
    """The cluster of such a policy."""
    daemon, policy = load_cluster(policies, cluster)
    return compose(policy, daemon, budget_s=0.5)


def replicator(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator does."""
    command = [sys.executable, "-m", "replicator", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment())


def json_of(*arguments: object, code: int = 0) -> Any:
    """Run a verb with --json: its answer; the exit code must be `code`."""
    done = replicator(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def environment() -> dict[str, str]:
    """The tests' own environment without what could lead a verb astray."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PG", "REPLICATOR", "AWS"))}


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")
