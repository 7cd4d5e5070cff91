"""The recovery directory `<data directory>.replicator`: what restore_command needs, and nothing else.

Owns its layout: `guard`, `wanted` (file names, one a line), `begins` (the same with their first position), `files` (one
JSON line for each), `history/`, `ready/` (prefetched, whole), `requests/`, `prefetching` (the living prefetcher's
process), `access` (store and keys, 0600). It is 0700 and the server's owner's; recovery_end_command, or the next
restore, removes it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess, keyring_of_json, keyring_to_json, repository_of
from replicator.restore.guard import guard_script
from replicator.restore.plan import RecoveryPlan
from replicator.restore.route import WalFile, WalSource
from replicator.restore.settings import shell_quote
from replicator.restore.tree import host_errors, owner_ids, sync
from replicator.seal.keyring import Keyring


@dataclass(frozen=True, slots=True)
class RecoveryDirectory:
    """The paths of one."""

    path: Path

    @classmethod
    def beside(cls, data_directory: Path) -> RecoveryDirectory:
        """The one that belongs to a data directory."""
        return cls(data_directory.with_name(data_directory.name + ".replicator"))

    @property
    def ready(self) -> Path:
        """Whole files, ready to be moved into place."""
        return self.path / "ready"

    @property
    def history(self) -> Path:
        """Timeline histories."""
        return self.path / "history"

    @property
    def requests(self) -> Path:
        """What the guard waits for."""
        return self.path / "requests"

    @property
    def prefetching(self) -> Path:
        """There while a prefetcher lives."""
        return self.path / "prefetching"

    @property
    def restore_command(self) -> str:
        """The setting's value. Without the guard, PostgreSQL must not believe that the archive ends."""
        guard = shell_quote(str(self.path / "guard"))
        return f"test -r {guard} || exit 126; exec /bin/sh {guard} '%f' '%p'"

    @property
    def end_command(self) -> str:
        """The setting's value: removes the directory. Its own entry may not be the owner's to remove."""
        return f"rm -rf {shell_quote(str(self.path))} 2>/dev/null || :"

    def create(
        self, plan: RecoveryPlan, cluster: str, keyring: Keyring, access: StoreAccess, command: Sequence[str]
    ) -> None:
        """Make it anew, replacing an earlier one. Raises HostLacks, UsageError."""
        with host_errors(self.path):
            self.remove()
            if os.path.lexists(self.path):
                raise UsageError(f"{self.path} is in the way", hint="Remove it: restore keeps its own files there.")
            for directory in (self.path, self.ready, self.history, self.requests):
                directory.mkdir(mode=0o700)
            private = {
                "cluster": cluster,
                "until": str(plan.until),
                "keyring": keyring_to_json(keyring),
                "store": access.to_json(),
            }
            _write(self.path / "access", json.dumps(private))
            _write(self.path / "plan.json", json.dumps(plan.as_json()))
            _write(self.path / "wanted", "".join(f"{file.name}\n" for file in plan.files))
            _write(self.path / "begins", "".join(f"{file.name} {file.start.hex16.lower()}\n" for file in plan.files))
            _write(self.path / "files", "".join(f"{_line(file)}\n" for file in plan.files))
            _write(self.path / "guard", guard_script(self.path, command))

    def make_durable(self) -> None:
        """Histories and every directory: one that a power cut took away would be read as one that there never was.
        Raises HostLacks.
        """
        with host_errors(self.path):
            for place in (*self.history.iterdir(), self.history, self.ready, self.requests, self.path):
                sync(str(place))
            with suppress(PermissionError):  # who may make a directory there may not always read it
                sync(str(self.path.parent))

    def give(self, owner: str | None) -> None:
        """Give all of it to the server's user, last the directory that keeps it out. Raises HostLacks."""
        if owner is None:
            return
        ids = owner_ids(owner)
        with host_errors(self.path):
            for base, _, files in os.walk(self.path, topdown=False):
                for path in (*(Path(base, name) for name in files), Path(base)):
                    os.chown(path, *ids, follow_symlinks=False)

    def remove(self) -> None:
        """Remove it; well when it isn't there, or is removed by the server at the same time."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)

    def repository(self) -> Repository:
        """The repository it gives access to. Raises UsageError, IntegrityError."""
        value = _read_json(self.path / "access")
        try:
            access = StoreAccess.of_json(value["store"])
            return repository_of(str(value["cluster"]), keyring_of_json(value["keyring"]), access)
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"{self.path} makes no sense") from error

    def file(self, name: str) -> WalFile:
        """What the plan says of a file. Raises ObjectAbsent for one that is not in it."""
        mark = f'["{name}",'
        try:
            with (self.path / "files").open(encoding="ascii") as lines:
                line = next((line for line in lines if line.startswith(mark)), None)
        except OSError as error:
            raise _not_one(self.path) from error
        if line is None:
            raise ObjectAbsent(f"{name} is not in the plan of this recovery")
        return _parse(line)


def _line(file: WalFile) -> str:
    sources = [[source.name, str(source.start), str(source.end), source.whole] for source in file.sources]
    return json.dumps([file.name, str(file.start), file.size, sources], separators=(",", ":"))


def _parse(line: str) -> WalFile:
    try:
        name, start, size, sources = json.loads(line)
        found = tuple(WalSource(of, Lsn.parse(low), Lsn.parse(high), bool(whole)) for of, low, high, whole in sources)
        return WalFile(name, Lsn.parse(start), size, found)
    except (ValueError, TypeError, UsageError) as error:
        raise IntegrityError("the recovery directory's plan makes no sense") from error


def _not_one(path: Path) -> UsageError:
    return UsageError(
        f"{path} is not a recovery directory", hint="`restore` makes it beside the data directory, until recovery ends."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _not_one(path.parent) from error
    return value if isinstance(value, dict) else {}


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
