"""A host as an operator has it: policies, two stores, the daemon as a process, verbs as commands. Nothing is faked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from tests.clusters import OWNER, PASSWORD, TestCluster, own, run_as_owner
from tests.servers import S3Server, free_port

COMMAND = [sys.executable, "-m", "replicator"]


class Site:
    """One cluster's host. `base` must be reachable by the servers' user. `passphrase` opens the repository; without one
    an identity does, which takes no half a second of each process.
    """

    def __init__(
        self, base: Path, cluster: TestCluster, *, name: str = "frk", stream: str = "", passphrase: str = ""
    ) -> None:
        self.base, self.cluster, self.name = base, cluster, name
        self._passphrase, self._identity = passphrase, new_x25519()
        self.policies = base / "policies"
        self.port = free_port()
        self.daemon: subprocess.Popen[bytes] | None = None
        self.policies.mkdir(mode=0o700)
        self.write_policy(stream=stream)

    def write_policy(
        self,
        *,
        stream: str = "",
        source: str = "",
        stores: str = "",
        passphrase: str = "",
        encryption: str = "",
    ) -> None:
        """The policy and daemon.toml; keyword arguments replace or extend parts."""
        self._secret("password", PASSWORD)
        source = source or f'conninfo = "{self.cluster.conninfo("replicator")}"'
        stores = stores or "".join(
            f'[[store]]\nname = "{store}"\nurl = "file://{self.base}/{store}"\n' for store in ("local", "offsite")
        )
        encryption = encryption or self._encryption(passphrase or self._passphrase)
        (self.policies / f"{self.name}.toml").write_text(f"""
cluster = "{self.name}"
[source]
{source}
password = {{ file = "{self.policies}/{self.name}.password" }}
{stores}
[encryption]
{encryption}
[stream]
spool = "{self.base}/spool"
{stream}
[tolerance]
connect_timeout = "2s"
retry_budget = "3s"
""")
        (self.policies / "daemon.toml").write_text(f"""
[api]
listen = "127.0.0.1:{self.port}"
[state]
directory = "{self.base}/state"
""")
        for path in self.policies.glob("*.toml"):
            path.chmod(0o600)

    def directory_store(self, path: str = "local") -> str:
        """The [[store]] "local": a directory of this host."""
        return f'[[store]]\nname = "local"\nurl = "file://{self.base}/{path}"\n'

    def s3_store(self, server: S3Server, *, port: int = 0, place: str = "", more: str = "") -> str:
        """The [[store]] "offsite": a bucket, whose keys are files; `port` of what stands before the server."""
        keys = {"access_key": server.access_key, "secret_key": server.secret_key}
        lines = [f'{key} = {{ file = "{self._secret(key, text)}" }}' for key, text in keys.items()]
        lines = [f'endpoint = "http://127.0.0.1:{port or server.port}"', 'region = "us-east-1"', *lines, more]
        return "\n".join(["[[store]]", 'name = "offsite"', f'url = "s3://{place or server.bucket}"', *lines, ""])

    def _encryption(self, passphrase: str) -> str:
        """What opens the repository."""
        if passphrase:
            return f'passphrase = {{ file = "{self._secret("passphrase", passphrase)}" }}'
        identity = self._secret("identity", key_text(SEALING_SECRET, self._identity))
        recipient = key_text(SEALING, x25519_public(self._identity))
        return f'recipients = ["{recipient}"]\nidentity = {{ file = "{identity}" }}'

    def _secret(self, kind: str, text: str) -> Path:
        """A file beside the policy that only its owner reads."""
        path = self.policies / f"{self.name}.{kind}"
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def neighbour(self, cluster: TestCluster, name: str) -> Site:
        """Another cluster of the same host: its own policy beside this one, the same daemon and directories."""
        other = copy(self)
        other.cluster, other.name, other.daemon = cluster, name, None
        other.write_policy()
        return other

    def run(self, *arguments: str, code: int | None = 0, timeout: float = 200) -> Any:
        """Run a verb with --json; its value. Fails unless it ends with `code` (None: any)."""
        done = self.command(*arguments, "--json", timeout=timeout)
        assert code is None or done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        return json.loads(done.stdout)

    def command(self, *arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        """Run a verb as it is typed."""
        line = [*COMMAND, *arguments, "--policies", str(self.policies)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )

    def start_daemon(self, *, wait: bool = True, doom: tuple[str, int] | None = None) -> None:
        """Start the daemon; wait until it is ready. `doom`: it kills itself at a step reached for the nth time."""
        line = [*COMMAND, "daemon", "--policies", str(self.policies)]
        if doom is not None:
            line = [sys.executable, "-m", "tests.doomed", str(self.policies), doom[0], str(doom[1])]
        with (self.base / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            self.wait(lambda: self.answers("/readyz"))

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a verb and don't wait for it."""
        line = [*COMMAND, *arguments, "--policies", str(self.policies)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(line, stdout=quiet, stderr=quiet, stdin=quiet)

    def answers(self, path: str) -> bool:
        """Whether the daemon says 200."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            return False
        except OSError:
            return False
        return True

    def status(self) -> dict[str, Any]:
        """This cluster's part of the daemon's /status."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=60) as answer:
            return dict(json.load(answer)["clusters"][self.name])

    def kill_daemon(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(60)
        self.daemon = None
        return code

    def wait(self, true: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something; fail with the daemon's last words."""
        deadline, pause = time.monotonic() + seconds, 0.03
        while not true():
            if self.daemon is not None and self.daemon.poll() is not None:
                raise AssertionError(f"the daemon ended: {self.log()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain: {self.log()}")
            time.sleep(pause)
            pause = min(1.3 * pause, 0.3)  # most questions make the daemon list its stores

    def lines(self) -> list[dict[str, Any]]:
        """The daemon's log, of all its lives. The line that is being written is none yet."""
        written = (self.base / "daemon.log").read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in written if line.startswith("{")]

    def log(self) -> str:
        """The end of the daemon's log."""
        path = self.base / "daemon.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def shipped(self, lsn: str, stores: tuple[str, ...] = ("local", "offsite")) -> None:
        """Wait until these stores hold everything before `lsn`."""
        self.wait(lambda: all(number(self.status()["stores"][store]["durable_lsn"]) >= number(lsn) for store in stores))

    def restore(self, *target: str, name: str = "restored", start: bool = True) -> dict[str, Any]:
        """Restore into a new directory below `base`."""
        owner = ["--owner", OWNER] if OWNER else []
        started = ["--start"] if start else []
        line = ["restore", self.name, "--into", str(self.base / name), *target, *owner, *started]
        return dict(self.run(*line))

    def stop_restored(self, name: str = "restored") -> None:
        """Stop a restored server."""
        line = [self.cluster.binaries.program("pg_ctl"), "stop", "-s", "-w", "-m", "fast", "-D", self.base / name]
        run_as_owner(line, check=False)

    def close(self) -> None:
        """End the daemon."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill_daemon()


def number(lsn: str | None) -> int:
    """An LSN's text as a number; -1 when there is none."""
    high, _, low = (lsn or "").partition("/")
    return (int(high, 16) << 32) + int(low, 16) if low else -1


@contextmanager
def site_of(base: Path, cluster: TestCluster, **options: Any) -> Iterator[Site]:
    """A site with an initialised repository, without a daemon; ended at the end."""
    home = base / f"site-{os.urandom(4).hex()}"
    home.mkdir(mode=0o755)
    own(home)
    home.chmod(0o755)
    site = Site(home, cluster, **options)
    try:
        yield site
    finally:
        site.close()
        for directory in home.iterdir():
            if (directory / "postmaster.pid").exists():
                site.stop_restored(directory.name)
