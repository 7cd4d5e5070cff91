"""Finding and running PostgreSQL's own programs of one major version.

Owns where they are looked for and the environment they run in: no PG* variable of ours, messages in English, UTC.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.errors import BinariesMissing, DeadlineExceeded, HostLacks

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\.\d+|[a-z]+\d*)")
_USUAL = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/usr/local/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
    "/usr/local/pgsql/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory of programs and their version, for example "15.18"."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """15 of "15.18"."""
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]

    def program(self, name: str) -> Path:
        """The path of one program. Raises BinariesMissing when this installation has none."""
        path = self.directory / name
        if not os.access(path, os.X_OK):
            raise BinariesMissing(
                f"there is no {name} in {self.directory}",
                hint=f"Install the whole of PostgreSQL {self.major}, client programs too.",
            )
        return path


def find_binaries(major: int, explicit: Path | None = None) -> Binaries:
    """The programs of PostgreSQL `major`: in `explicit` (…/<major>/bin, …/bin or itself) and nowhere else if given,
    otherwise on PATH and in the usual places. Raises BinariesMissing.
    """
    places = _explicit(major, explicit) if explicit is not None else _usual(major)
    seen: list[str] = []
    for place in places:
        version = _version(place)
        if version is not None and re.match(rf"{major}\D", version):
            return Binaries(place, version)
        if version is not None:
            seen.append(f"{version} in {place}")
    found = f"; found {', '.join(dict.fromkeys(seen))}" if seen else ""
    where = "on this host" if explicit is None else f"in {explicit}"
    raise BinariesMissing(
        f"no PostgreSQL {major} programs {where}{found}",
        hint=f"Install PostgreSQL {major}, or name its place as `binaries` in the policy's [source].",
    )


def _explicit(major: int, base: Path) -> Iterator[Path]:
    yield from (base / str(major) / "bin", base / "bin", base)


def _usual(major: int) -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    yield from (Path(place.format(major=major)) for place in _USUAL)


def _version(directory: Path) -> str | None:
    program = directory / "postgres"
    if not os.access(program, os.X_OK):
        return None
    match = _VERSION.search(run([str(program), "--version"], timeout=10).stdout)
    return f"{match[1]}{match[2]}" if match else None


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for PostgreSQL's programs."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG") and key != "LANGUAGE"}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", **(extra or {})}


def as_user(owner: str | None) -> dict[str, Any]:
    """Arguments for `subprocess` to run as `owner` with its groups; none when we are that user already.

    Raises HostLacks when the user does not exist, or we are not root and it is another.
    """
    if owner is None:
        return {}
    try:
        entry = pwd.getpwnam(owner)
    except KeyError:
        raise HostLacks(f"there is no user {owner} on this host", hint="Name an existing user as owner.") from None
    if entry.pw_uid == os.geteuid():
        return {}
    if os.geteuid() != 0:
        raise HostLacks(f"only root can run programs as {owner}", hint=f"Run this as {owner} or as root.")
    groups = os.getgrouplist(owner, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups, "cwd": "/"}


def run(
    command: Sequence[str], *, timeout: float, owner: str | None = None, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end: its exit code is the caller's to judge. Raises DeadlineExceeded, HostLacks."""
    try:
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=environment(extra),
            timeout=timeout,
            check=False,
            **as_user(owner),
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"{Path(command[0]).name} did not end within {timeout:g} s") from error
    except OSError as error:
        raise HostLacks(f"{command[0]} cannot be run: {error.strerror}") from error
