"""A PostgreSQL server on this host: started, watched until its recovery ends, stopped.

Owns pg_ctl and the server's log file. It configures nothing: the data directory comes with its settings.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from threading import Event

from replicator.errors import DeadlineExceeded, HostLacks, Interrupted, UsageError
from replicator.postgres.binaries import Binaries, run
from replicator.postgres.controldata import read_controldata

_LOG_LINES = 15
_RECOVERING = "in archive recovery"


class Recovery(StrEnum):
    """How a recovery stands."""

    ENDED = "ended"
    PAUSED = "paused"
    RUNNING = "running"
    SHUT_DOWN = "shut down"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalServer:
    """One data directory. `owner` is the OS user that runs it (required when we are root); `port` None takes a free
    one. The socket directory must be the owner's to write; default: the data directory.
    """

    def __init__(
        self,
        data_directory: Path,
        binaries: Binaries,
        owner: str | None = None,
        port: int | None = None,
        socket_directory: Path | None = None,
        *,
        log: Path | None = None,
        roles: tuple[str, ...] = (),
    ) -> None:
        if owner is None and os.geteuid() == 0:
            raise UsageError("PostgreSQL does not run as root", hint="Name a user with --owner.")
        self.data_directory = data_directory
        self.port = port or free_port()
        self.log = log or data_directory / "server.log"
        self._binaries = binaries
        self._owner = owner
        self._sockets = socket_directory or data_directory
        self._roles = (*roles, *((owner,) if owner else ()), "postgres")

    def start(self, options: Mapping[str, str] | None = None, timeout: float = 300.0) -> int:
        """Start it and wait until it accepts connections (in recovery too, once consistent): its port.

        `options` are settings that win over its files, as do ours: it listens on 127.0.0.1 and the socket only, and
        logs to `log`; both can be set otherwise in `options`. Raises HostLacks with the log's last lines in the
        context, DeadlineExceeded when it needs longer than `timeout` seconds; it then goes on starting.
        """
        settings = {
            "port": str(self.port),
            "unix_socket_directories": str(self._sockets),
            "listen_addresses": "127.0.0.1",
            "logging_collector": "off",
            **(options or {}),
        }
        given = " ".join(shlex.quote(f"--{name}={value}") for name, value in settings.items())
        seconds = str(max(1, round(timeout)))
        command = ["start", "-w", "-s", "-t", seconds, "-l", str(self.log), "-o", given]
        code = self._pg_ctl(command, timeout=timeout + 30)
        if code != 0 and self.running():
            raise DeadlineExceeded(f"the server in {self.data_directory} is not ready after {timeout:g} s")
        if code != 0 and not self._shut_down_in_recovery():
            raise self._failed("did not start")
        return self.port

    def stop(self, mode: str = "fast", timeout: float = 120.0) -> None:
        """Stop it: "fast", "smart" or "immediate". Well when it does not run. Raises DeadlineExceeded."""
        if mode not in ("fast", "smart", "immediate"):
            raise UsageError(f"{mode!r} is not a way to stop a server")
        command = ["stop", "-w", "-s", "-m", mode, "-t", str(max(1, round(timeout)))]
        if self.running() and self._pg_ctl(command, timeout=timeout + 30) != 0 and self.running():
            raise DeadlineExceeded(f"the server in {self.data_directory} did not stop within {timeout:g} s")

    def running(self) -> bool:
        """Whether a server runs on this data directory."""
        return self._pg_ctl(["status"], timeout=30) == 0

    @property
    def pid(self) -> int | None:
        """The postmaster's process, None when there is none."""
        try:
            return int((self.data_directory / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def wait_recovered(self, timeout: float, *, tick: float = 0.2, stop: Event | None = None) -> Recovery:
        """Wait until recovery has ended, paused at its target, or shut the server down there.

        Raises HostLacks with the log's last lines when the server died, DeadlineExceeded, Interrupted.
        """
        until = time.monotonic() + timeout
        flag = stop or Event()
        while (state := self.recovery()) is Recovery.RUNNING:
            if time.monotonic() >= until:
                raise DeadlineExceeded(f"recovery in {self.data_directory} has not ended after {timeout:g} s")
            if flag.wait(tick):
                raise Interrupted("waiting for the end of recovery: stopped")
        return state

    def recovery(self) -> Recovery:
        """How recovery stands now. Raises HostLacks when the server died."""
        if not self.running():
            if self._shut_down_in_recovery():
                return Recovery.SHUT_DOWN
            raise self._failed("ended before its recovery did")
        if self._state() != _RECOVERING:
            answer = self.query("SELECT pg_is_in_recovery()")
            ended = answer == "f" or (answer is None and self._accepts())
            return Recovery.ENDED if ended else Recovery.RUNNING
        paused = (
            "pg_get_wal_replay_pause_state() = 'paused'" if self._binaries.major >= 14 else "pg_is_wal_replay_paused()"
        )
        answer = self.query(f"SELECT CASE WHEN pg_is_in_recovery() THEN {paused} END")
        return Recovery.PAUSED if answer == "t" else Recovery.RUNNING

    def query(self, sql: str, *, database: str = "postgres", timeout: float = 30.0) -> str | None:
        """One value through psql over the local socket, as the owner; None when the server does not answer or no role
        that we know may log in (`roles`, the owner's name, postgres).
        """
        base = [str(self._binaries.program("psql")), "-X", "-A", "-t", "-q", "-w", "-h", str(self._sockets)]
        base += ["-p", str(self.port), "-d", database, "-c", sql]
        for role in dict.fromkeys(self._roles):
            done = run([*base, "-U", role], timeout=timeout, owner=self._owner, extra={"PGCONNECT_TIMEOUT": "5"})
            if done.returncode == 0:
                return done.stdout.strip()
        return None

    def last_log_lines(self) -> str:
        """The end of the server's log, for an error's context."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])

    def _accepts(self) -> bool:
        """Whether the postmaster says that it takes connections: the eighth line of postmaster.pid. No role that we
        know may be allowed in, and pg_control tells of the end a moment before the server opens.
        """
        try:
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _state(self) -> str:
        return read_controldata(self._binaries, self.data_directory, owner=self._owner).state

    def _shut_down_in_recovery(self) -> bool:
        return not self.running() and self._state() == "shut down in recovery"

    def _failed(self, what: str) -> HostLacks:
        return HostLacks(
            f"the server in {self.data_directory} {what}",
            hint=f"Its log is {self.log}.",
            log=self.last_log_lines(),
        )

    def _pg_ctl(self, arguments: list[str], *, timeout: float) -> int:
        command = [str(self._binaries.program("pg_ctl")), *arguments, "-D", str(self.data_directory)]
        return run(command, timeout=timeout, owner=self._owner).returncode
