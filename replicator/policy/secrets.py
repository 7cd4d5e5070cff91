"""Secrets by reference: what a policy may say about one, and how its value is fetched.

Owns SecretRef and `resolve_secret`. A value never enters a model, a log, an error or a process list; only the
reference does. It never caches: who needs a secret twice keeps it, or asks twice.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from replicator.errors import HostLacks, PolicyError, UsageError

#: A secret is a key or a phrase; what is longer is the wrong file.
LONGEST_SECRET = 64 * 1024
COMMAND_DEADLINE_S = 10.0
_WAYS = ("env", "file", "command")
_HINT = 'Write { env = "NAME" }, { file = "/path" } or { command = ["program", "argument"] }.'


@dataclass(frozen=True, slots=True, repr=False)
class SecretRef:
    """Where a secret is: exactly one of an environment variable, an absolute file, a command without a shell."""

    env: str | None = None
    file: Path | None = None
    command: tuple[str, ...] | None = None

    def __str__(self) -> str:
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.file is not None:
            return f"file {self.file}"
        # Arguments may carry secrets of their own; the program's name is enough to find it.
        return f"command {self.command[0] if self.command else ''}"

    def __repr__(self) -> str:
        return f"SecretRef({self})"


def parse_secret(value: Any) -> SecretRef:
    """Read a reference's TOML table. Raises UsageError, which never quotes the value."""
    if not isinstance(value, dict):
        raise UsageError("a secret must not stand in a policy, only where it is found", hint=_HINT)
    for key in value:
        if key not in _WAYS:
            near = get_close_matches(key, _WAYS, n=1)
            suggestion = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown key {key!r} in a secret's reference{suggestion}", hint=_HINT)
    if len(value) != 1:
        raise UsageError(f"a secret's reference names {len(value)} places, not one", hint=_HINT)
    way, place = next(iter(value.items()))
    if way == "command":
        if not isinstance(place, list) or not place or not all(isinstance(part, str) and part for part in place):
            raise UsageError("a secret's command must be a list of strings, program first", hint=_HINT)
        return SecretRef(command=tuple(place))
    if not isinstance(place, str) or not place:
        raise UsageError(f"a secret's {way} must be a string", hint=_HINT)
    if way == "env":
        if "=" in place or "\0" in place:
            raise UsageError("a secret's env must be the name of an environment variable", hint=_HINT)
        return SecretRef(env=place)
    if not Path(place).is_absolute():
        raise UsageError(f"the secret's file {place!r} is not an absolute path", hint="Write the path from / on.")
    return SecretRef(file=Path(place))


def resolve_secret(
    ref: SecretRef,
    *,
    what: str,
    environ: Mapping[str, str] | None = None,
    deadline_s: float = COMMAND_DEADLINE_S,
) -> bytes:
    """The secret's bytes, one trailing newline stripped. `what` names it in errors ("the passphrase of frk").

    Raises HostLacks when it can't be had here, PolicyError when its file may be read by others. Neither tells the
    value. A command has ten seconds and no standard input.
    """
    if ref.env is not None:
        value = _from_environment(ref.env, what, os.environ if environ is None else environ)
    elif ref.file is not None:
        value = _from_file(ref.file, what)
    else:
        value = _from_command(ref, what, deadline_s)
    if len(value) > LONGEST_SECRET:
        raise HostLacks(f"{what} is too long: {ref} gives more than {LONGEST_SECRET} bytes")
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise HostLacks(f"{what} is empty: {ref}", hint="Put the secret there, or point the policy elsewhere.")
    return value


def _from_environment(name: str, what: str, environ: Mapping[str, str]) -> bytes:
    if name not in environ:
        raise HostLacks(
            f"{what} is missing: environment variable {name} is not set",
            hint=f"Set {name} for this process, or point the policy at a file.",
        )
    return os.fsencode(environ[name])


def _from_file(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise HostLacks(f"{what} can not be read: {path} is not a file")
            if facts.st_mode & stat.S_IRWXO:
                raise PolicyError(
                    f"{what} is open to every user of this host: {path} has mode {stat.S_IMODE(facts.st_mode):04o}",
                    hint=f"Run chmod 600 {path}, and change the secret if others may have read it.",
                )
            return file.read(LONGEST_SECRET + 1)
    except OSError as error:
        raise HostLacks(
            f"{what} can not be read: {path}: {(error.strerror or 'unreadable').lower()}",
            hint=f"Create {path} with mode 600 and the owner that runs replicator.",
        ) from error


def _from_command(ref: SecretRef, what: str, deadline_s: float) -> bytes:
    try:
        # A session of its own, so that the deadline also ends what the command started.
        process = subprocess.Popen(
            ref.command or (),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise HostLacks(
            f"{what} can not be had: {ref} does not start: {(error.strerror or 'unknown reason').lower()}",
            hint="Give the program's full path in the policy.",
        ) from error
    with process:
        try:
            output, _ = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired as error:
            raise HostLacks(
                f"{what} can not be had: {ref} took more than {deadline_s:g} s",
                hint="The command must answer without a terminal and without questions.",
            ) from error
        finally:
            _end(process)
    if process.returncode != 0:
        raise HostLacks(
            f"{what} can not be had: {ref} ended with status {process.returncode}",
            hint="Run the command by hand as the user that runs replicator.",
        )
    return output


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command's whole session if it still runs. Its id is ours until we have waited for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
