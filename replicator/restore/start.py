"""Starting a restored cluster and waiting until its recovery has ended, paused, or shut it down.

Owns the overrides that let a tree start on another host: its own socket directory and port, no files outside the tree.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from replicator.core.lsn import Lsn
from replicator.core.timeline import TimelineHistory
from replicator.errors import HostLacks, Interrupted, ReplicatorError, UsageError
from replicator.postgres.binaries import Binaries, as_user
from replicator.postgres.controldata import read_controldata
from replicator.postgres.localserver import LocalServer, Recovery
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.settings import after_recovery
from replicator.restore.tree import host_errors, owner_ids

#: A recovery may take as long as it takes; this bounds a server that hangs.
RECOVERY_LIMIT_S = 7 * 24 * 3600.0
_TICK_S = 0.1
#: A socket's whole path may have 107 bytes, its own name takes up to 20.
_LONGEST_SOCKET_DIRECTORY = 85
_SETTING = re.compile(r"\s*(\w+)\s*=?\s*('(?:[^']|'')*'|[^\s#]+)")
#: Replaces a file by what is read, with the rights that it has.
_REPLACE = 'set -e; cp -p "$1" "$1.new"; cat > "$1.new"; mv -f "$1.new" "$1"'
_INCLUDES = ("include", "include_dir")


@dataclass(frozen=True, slots=True)
class Started:
    """A server that runs, or that recovery shut down (`pid` None)."""

    port: int
    pid: int | None
    reached_lsn: Lsn | None
    reached_time: str | None
    socket_directory: Path


def overrides(data_directory: Path) -> dict[str, str]:
    """Settings for the command line, where the tree's postgresql.conf names what is not on this host."""
    try:
        text = (data_directory / "postgresql.conf").read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = {name: value for name, value in _settings(text) if name not in _INCLUDES}
    told: dict[str, str] = {"logging_collector": "off", "log_destination": "stderr"}
    for name, own in (("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")):
        if name in found and not _exists(data_directory, found[name]):
            told[name] = str(data_directory / own)
    if "data_directory" in found:
        told["data_directory"] = str(data_directory)
    if "external_pid_file" in found:
        told["external_pid_file"] = ""
    certificates = [found.get("ssl_cert_file", "server.crt"), found.get("ssl_key_file", "server.key")]
    if found.get("ssl") in ("on", "true", "yes", "1") and not all(_exists(data_directory, of) for of in certificates):
        told["ssl"] = "off"
    return told


def missing_includes(data_directory: Path) -> tuple[str, ...]:
    """Files that the tree's postgresql.conf includes and this host lacks: the server would refuse to start."""
    try:
        text = (data_directory / "postgresql.conf").read_text("utf-8", "replace")
    except OSError:
        return ()
    named = [value for name, value in _settings(text) if name in _INCLUDES]
    return tuple(value for value in named if not _exists(data_directory, value))


def _settings(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        match = _SETTING.match(line)
        if match is not None:
            value = match[2]
            yield match[1].lower(), value[1:-1].replace("''", "'") if value.startswith("'") else value


def _exists(data_directory: Path, value: str) -> bool:
    return (data_directory / value).exists()


def start(
    data_directory: Path,
    recovery: RecoveryDirectory,
    binaries: Binaries,
    *,
    owner: str | None,
    port: int | None,
    stop: Event,
    pauses: bool = False,
    options: Mapping[str, str] | None = None,
    limit_s: float = RECOVERY_LIMIT_S,
) -> Started:
    """Start the server and wait for the end of its recovery, a pause at the target, or its shutdown there. `options`
    are settings that win over all others.

    Raises HostLacks with the log's last lines, DeadlineExceeded, Interrupted (the server is stopped then).
    """
    sockets = socket_directory(data_directory, owner)
    log = log_file(data_directory, owner)
    server = LocalServer(data_directory, binaries, owner, port, sockets, log=log)
    try:
        told = {**overrides(data_directory), **(options or {})}
        state = _recover(server, told, stop, limit_s, pauses=pauses)
    except ReplicatorError as error:
        server.stop("immediate")
        _forget(sockets, data_directory)
        raise _explained(error) from error
    if state is Recovery.ENDED:
        _settle(data_directory, recovery, owner)
    reached, when = _reached(server, data_directory, state, binaries, owner)
    if state is Recovery.SHUT_DOWN:
        _forget(sockets, data_directory)
    return Started(server.port, server.pid if state is not Recovery.SHUT_DOWN else None, reached, when, sockets)


def socket_directory(data_directory: Path, owner: str | None) -> Path:
    """The data directory itself, private as it is; a short one where its path is too long for a socket's."""
    if len(os.fsencode(data_directory)) <= _LONGEST_SOCKET_DIRECTORY:
        return data_directory
    path = Path(tempfile.mkdtemp(prefix="replicator-", dir="/tmp"))
    if owner is not None:
        with host_errors(path):
            os.chown(path, *owner_ids(owner))
    return path


def _forget(sockets: Path, data_directory: Path) -> None:
    if sockets != data_directory:
        shutil.rmtree(sockets, ignore_errors=True)


def log_file(data_directory: Path, owner: str | None) -> Path:
    """Beside the data directory, so that the tree stays the snapshot's."""
    path = data_directory.with_name(data_directory.name + ".log")
    with host_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:  # it would be given away under its other name
                raise UsageError(f"{path} is in the way", hint="Remove it: the server's log goes there.")
            if owner is not None:
                os.fchown(handle, *owner_ids(owner))
        finally:
            os.close(handle)
    return path


def _recover(server: LocalServer, options: dict[str, str], stop: Event, limit_s: float, *, pauses: bool) -> Recovery:
    """Start in a thread, so that an interrupt can stop a server that still recovers."""
    with ThreadPoolExecutor(1, thread_name_prefix="start") as pool:
        starting: Future[int] = pool.submit(server.start, options, limit_s)
        while not wait_for([starting], _TICK_S).done:
            if stop.is_set():
                server.stop("immediate")
                wait_for([starting])
                raise Interrupted("the restore was interrupted", hint="Run it again with --delta.")
        starting.result()
    if pauses and server.running() and server.query("SELECT 1") is None:
        raise HostLacks(
            "the server runs, but no role may log in over its local socket to see whether recovery has paused",
            hint="Let its owner in with a line `local all all peer` in pg_hba.conf, or use --action promote.",
        )
    return server.wait_recovered(limit_s, tick=_TICK_S, stop=stop)


def _explained(error: ReplicatorError) -> ReplicatorError:
    """The same error with what the server's log says, where it says something."""
    log = str(error.context.get("log") or "").strip()
    if log and isinstance(error, HostLacks):
        return HostLacks(f"{error.message}; its log ends with:\n{log}", hint=error.hint, **error.context)
    return error


def _settle(data_directory: Path, recovery: RecoveryDirectory, owner: str | None) -> None:
    """After promotion: the recovery's lines and its directory go. The running server has no use for either.

    The file is the owner's by now, so the owner reads and replaces it: root follows nobody's links.
    """
    conf = data_directory / "postgresql.auto.conf"
    held = _as_owner(["cat", str(conf)], owner)
    _as_owner(["/bin/sh", "-c", _REPLACE, "sh", str(conf)], owner, after_recovery(held))
    recovery.remove()


def _as_owner(command: list[str], owner: str | None, given: str = "") -> str:
    """What a program says that the server's user runs. Raises HostLacks."""
    try:
        done = subprocess.run(
            command, input=given.encode("utf-8", "surrogateescape"), capture_output=True, check=True, timeout=60,
            **as_user(owner),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise HostLacks(
            f"{command[-1]} can not be written after recovery",
            hint="Take the recovery settings of replicator out of it by hand.",
        ) from error
    return str(done.stdout, "utf-8", "surrogateescape")


def _reached(
    server: LocalServer, data_directory: Path, state: Recovery, binaries: Binaries, owner: str | None
) -> tuple[Lsn | None, str | None]:
    """Where recovery ended, and the last transaction's time as RFC 3339, as far as the server tells."""
    lsn = _switch_point(data_directory) if state is Recovery.ENDED else None
    if state is Recovery.SHUT_DOWN:
        return read_controldata(binaries, data_directory, owner=owner).minimum_recovery_end, None
    answer = server.query(
        "SELECT pg_last_wal_replay_lsn()::text || ' ' || coalesce(to_char(pg_last_xact_replay_timestamp()"
        " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '')"
    )
    text, _, when = (answer or "").partition(" ")
    if lsn is None and text:
        lsn = Lsn.parse(text)
    return lsn, when or None


def _switch_point(data_directory: Path) -> Lsn | None:
    """Where the new timeline left the old one: the end of recovery, as the server wrote it into its history."""
    files = sorted((data_directory / "pg_wal").glob("????????.history"))
    if not files:
        return None
    history = TimelineHistory.parse(int(files[-1].stem, 16), files[-1].read_bytes())
    return history.parents[-1][1] if history.parents else None
