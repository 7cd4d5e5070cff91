"""Scratch: where a drill restores to, and that nothing of it stays.

Owns one directory for each run below `[verify] scratch`, a lock that says that its run lives, and a watcher that stops
the server and removes the directory should this process be killed. It stops only processes that work in that directory.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import HostLacks
from replicator.restore.tree import host_errors, owner_ids

#: A server's socket lies in its data directory, and a socket's path may have 107 bytes.
_LONGEST_DATA_PATH = 85
_LOCK = re.compile(r"drill-\d+-[0-9a-f]{6}\.lock\Z")
_TICK_S = 0.05
_QUIT_S = 5.0
#: Waits until its standard input ends, which is when we are gone; then stops what runs in $1 and removes $2 and $3. One
#: look at all processes costs two forks, however many there are: a busy host must not make it slow.
_WATCHER = """
trap '' HUP INT TERM
cat >/dev/null
here() {
  ls -l /proc/[0-9]*/cwd 2>/dev/null | while IFS= read -r line; do
    [ "${line##*/cwd -> }" = "$data" ] && line=${line%%/cwd -> *} && echo "${line##*/}"
  done
}
data=$1 since=$(date +%s)
while found=$(here); [ -n "$found" ]; do
  age=$(($(date +%s) - since)) signal=QUIT
  [ $age -lt 60 ] || break
  [ $age -lt 5 ] || signal=KILL
  kill -s $signal $found
  sleep 0.1
done
chmod 700 -- "$1/pg_tblspc" 2>/dev/null
rm -rf -- "$2" "$3"
"""


@dataclass(frozen=True)
class RunDirectory:
    """One run's own: `data` for the restored cluster, `settings` for what it is started with."""

    path: Path

    @property
    def data(self) -> Path:
        """Where the cluster is restored to; not there before."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "data.log"

    def stop_all(self, *, patience_s: float = _QUIT_S) -> bool:
        """Stop every process that works in the data directory: at once, without a checkpoint; by force after
        `patience_s` seconds. Whether there was any.
        """
        first = _processes_in(self.data)
        until = time.monotonic() + patience_s
        for number in (signal.SIGQUIT, signal.SIGKILL):
            while found := _processes_in(self.data):
                for pid in found:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
                if time.monotonic() >= until:
                    break
                time.sleep(_TICK_S)
            until = time.monotonic() + patience_s
        return bool(first)

    def shut_tablespaces(self) -> None:
        """Let the server link no directory as a tablespace: WAL of a CREATE TABLESPACE names the source's own, whose
        files it would write. The links that the snapshot has are there already. Raises HostLacks.
        """
        with host_errors(self.data):
            (self.data / "tablespace_map").unlink(missing_ok=True)  # the server would make them again
            self._links(0o500)

    def open_tablespaces(self) -> None:
        """After recovery: remove the links of tablespaces that were dropped; the server could not. Raises HostLacks."""
        with host_errors(self.data):
            self._links(0o700)
            for link in (self.data / "pg_tblspc").iterdir():
                if link.is_symlink() and not any(link.iterdir()):
                    link.unlink()

    def _links(self, mode: int) -> None:
        handle = os.open(self.data / "pg_tblspc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(handle, mode)
        finally:
            os.close(handle)

    def empty(self) -> None:
        """Stop what runs and remove all there is. Raises HostLacks when something stays."""
        self.stop_all()
        with suppress(OSError):  # it may not be there
            self._links(0o700)
        with host_errors(self.path):
            if self.path.exists():
                shutil.rmtree(self.path)


def _processes_in(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == directory and not _is_dead(entry):
                found.append(int(entry.name))
    return found


def _is_dead(entry: Path) -> bool:
    """Whether it is a zombie: it holds nothing any more."""
    return (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in "ZX"


def owner_of(asked: str | None, scratch: Path, data_directory: Path | None) -> str | None:
    """The user that runs a drill's server: the one asked for; else us unless we are root; then the scratch directory's,
    the source's, or postgres. Raises HostLacks when there is none.
    """
    if os.geteuid() != 0:
        return asked
    for name in (asked, _user_of(scratch), _user_of(data_directory), "postgres"):
        if name is None or name == "root":
            continue
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
        if name == asked:
            break
    raise HostLacks(
        f"there is no user {asked}"
        if asked
        else "there is no user to run PostgreSQL as, and it refuses to run as root",
        hint=f"Give {scratch} to the user that PostgreSQL is to run as.",
    )


def _user_of(path: Path | None) -> str | None:
    try:
        return pwd.getpwuid(path.stat().st_uid).pw_name if path is not None else None
    except (OSError, KeyError):
        return None


def prepare(scratch: Path, owner: str | None) -> Path:
    """The scratch directory, made private and the owner's when it is not there; its real path. Raises HostLacks."""
    with host_errors(scratch):
        if not scratch.exists():
            scratch.mkdir(mode=0o700, parents=True)
            if owner is not None:
                os.chown(scratch, *owner_ids(owner))
        place = scratch.resolve()
    longest = len(os.fsencode(place)) + len("/drill-4194304-123456/data")
    if longest > _LONGEST_DATA_PATH:
        raise HostLacks(
            f"the path {place} is too long for a server's socket",
            hint="Name a shorter directory as `scratch` in the policy's [verify].",
        )
    return place


def clean(scratch: Path) -> tuple[str, ...]:
    """Stop and remove what killed runs left; their names. `scratch` is `prepare`d. Raises HostLacks."""
    removed = []
    for lock in sorted(path for path in scratch.glob("drill-*.lock") if _LOCK.match(path.name)):
        try:
            handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or another user's
        try:
            if _locked(handle):
                RunDirectory(lock.with_suffix("")).empty()
                lock.unlink(missing_ok=True)
                removed.append(lock.stem)
        finally:
            os.close(handle)
    return tuple(removed)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def run_directory(scratch: Path, owner: str | None, files: dict[str, str]) -> Iterator[RunDirectory]:
    """A new directory with these text files, the owner's and private; emptied and removed at the end, also when we are
    killed. `scratch` is `prepare`d. Raises HostLacks.
    """
    with host_errors(scratch):
        lock, handle = _new_lock(scratch)
    run = RunDirectory(lock.with_suffix(""))
    watcher = _watch(run, lock)
    try:
        with host_errors(run.path):
            run.path.mkdir(mode=0o700)
            _fill(run.path, owner, files)
        yield run
    finally:
        try:
            run.empty()
            lock.unlink(missing_ok=True)
            watcher.kill()
        finally:
            os.close(handle)
            if watcher.stdin is not None:
                watcher.stdin.close()
            watcher.wait(90)


def _fill(path: Path, owner: str | None, files: dict[str, str]) -> None:
    """Write the files and give all to the owner. By its handle: who owns scratch may put another thing in its place."""
    ids = owner_ids(owner) if owner is not None else (-1, -1)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name, text in files.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(name, flags, 0o600, dir_fd=directory), "w", encoding="utf-8") as file:
                file.write(text)
                os.fchown(file.fileno(), *ids)
        os.fchown(directory, *ids)
    finally:
        os.close(directory)


def _new_lock(scratch: Path) -> tuple[Path, int]:
    """A lock file that we hold: a cleaner may take a new one away before that."""
    while True:
        lock = scratch / f"drill-{os.getpid()}-{secrets.token_hex(3)}.lock"
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        if _locked(handle) and lock.exists():
            return lock, handle
        os.close(handle)


def _watch(run: RunDirectory, lock: Path) -> subprocess.Popen[bytes]:
    """A process of its own session, so that neither a signal to our group nor our end takes it away."""
    command = ["/bin/sh", "-c", _WATCHER, "replicator-drill", str(run.data), str(run.path), str(lock)]
    quiet = subprocess.DEVNULL
    with host_errors(Path("/bin/sh")):
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True
        )
