"""pgBackRest as the peer: which program, its configuration, its end. Owns no measurement.

The program is the one that PGBACKREST names, else the one in the PATH. It always runs as the servers' user.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.clusters import own, run_as_owner

#: The first version that knows block incremental.
_BLOCKS = (2, 46)
_WITHIN_S = 30.0


def program() -> str | None:
    """Where pgBackRest is; None: not on this machine."""
    return os.environ.get("PGBACKREST") or shutil.which("pgbackrest")


def version(path: str) -> tuple[int, ...]:
    """Its version as numbers."""
    said = run_as_owner([path, "version"])
    return tuple(int(part) for part in re.findall(r"\d+", said)[:2])


def has_blocks(path: str) -> bool:
    """Whether it can store the changed blocks of a file alone."""
    return version(path) >= _BLOCKS


@dataclass(frozen=True)
class Backrest:
    """One installation: everything of it lies in `home`."""

    path: str
    home: Path

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.home / "pgbackrest.conf"

    @property
    def repository(self) -> Path:
        """Its repository."""
        return self.home / "repo"

    def command(self, *arguments: object) -> list[object]:
        """One call of it for the stanza."""
        return [self.path, f"--config={self.config}", "--stanza=frk", *arguments]

    def run(self, *arguments: object, timeout: float = 120) -> str:
        """Call it as the servers' user: what it says."""
        return run_as_owner(self.command(*arguments), timeout=timeout)

    @property
    def archive_command(self) -> str:
        """For postgresql.conf."""
        return f"{self.path} --config={self.config} --stanza=frk archive-push %p"

    def finish(self, *, remove: bool = True) -> None:
        """Wait until its asynchronous process, which outlives the last answer by a moment, has ended; remove all."""
        until = time.monotonic() + _WITHIN_S
        while subprocess.run(["pgrep", "-f", str(self.home)], capture_output=True, check=False).returncode == 0:
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        if remove:
            shutil.rmtree(self.home, ignore_errors=True)


def install(path: str, home: Path, *, data: Path, port: int, sockets: Path, **options: str) -> Backrest:
    """Write a configuration with zstd 3 and two processes; `options` are added, their `_` read as `-`."""
    found = Backrest(path, home)
    for directory in (found.repository, home / "spool", home / "lock", home / "log"):
        directory.mkdir(parents=True, exist_ok=True)
    extra = "".join(f"{name.replace('_', '-')}={value}\n" for name, value in options.items())
    found.config.write_text(f"""[global]
repo1-path={found.repository}
spool-path={home}/spool
lock-path={home}/lock
log-path={home}/log
log-level-console=error
log-level-file=off
compress-type=zst
compress-level=3
process-max=2
archive-async=y
{extra}[frk]
pg1-path={data}
pg1-port={port}
pg1-socket-path={sockets}
""")
    own(home)
    return found
