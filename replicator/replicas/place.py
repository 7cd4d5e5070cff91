"""What a replica leaves on this host beside its data directory: who made it, how its server reaches the repository.

Owns `<data directory>.replica/`: `access` (stores and keys, 0600), `passfile`, `guard` (restore_command), `ready/`
(prefetched WAL). And the mark, which says whose a replica is: in the state directory, where the server's user can't
write, before slot and data are made; and again within the data directory. Nothing is removed without both.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from replicator.errors import AlreadyExists, Conflict, IntegrityError, NotFound, UsageError
from replicator.postgres.controldata import system_id_of
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess, keyring_of_json, keyring_to_json
from replicator.restore.recoverydir import RecoveryDirectory
from replicator.restore.settings import shell_quote
from replicator.restore.tree import CONTROL, host_errors, owner_ids
from replicator.restore.walget import wal_get
from replicator.seal.keyring import Keyring

MARK = "replicator.replica"

#: A standby asks again by itself, so whatever is wrong is only "not now": an exit above 125 would end the server.
#: SIGTERM alone passes: the server is being stopped.
_GUARD = """#!/bin/sh
# Written by replicator. A standby's restore_command: file name and path, relative to the data directory.
dir={directory}
mv -f "$dir/ready/$1" "$2" 2>/dev/null && exit 0
{command} wal get --quiet --replica "$dir" "$1" "$2"
code=$?
[ "$code" -eq 0 ] && exit 0
[ "$code" -eq 143 ] && exit 143
exit 1
"""


@dataclass(frozen=True, slots=True)
class ReplicaMark:
    """Which replica this is. `id` is random: the data directory holds the same. `slot` is on the primary."""

    id: str
    cluster: str
    name: str
    data_directory: str
    slot: str
    owner: str | None
    tablespaces: tuple[str, ...] = ()

    @classmethod
    def new(
        cls, cluster: str, name: str, data_directory: Path, slot: str, owner: str | None, tablespaces: Sequence[Path]
    ) -> ReplicaMark:
        """One for a replica that is to be made."""
        spaces = tuple(map(str, tablespaces))
        return cls(secrets.token_hex(16), cluster, name, str(data_directory), slot, owner, spaces)

    def to_bytes(self) -> bytes:
        """Its written form."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def of_bytes(cls, data: bytes) -> ReplicaMark:
        """The reverse. Raises IntegrityError."""
        try:
            value = json.loads(data)
            return cls(**{**value, "tablespaces": tuple(value["tablespaces"])})
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError("a replica's mark makes no sense", hint="Remove the replica by hand.") from error


class ReplicaPlace:
    """The paths of one replica; `record` is its mark in the state directory."""

    def __init__(self, data_directory: Path, record: Path) -> None:
        self.data_directory = data_directory
        self.record = record
        self.path = data_directory.with_name(data_directory.name + ".replica")
        self.log = data_directory.with_name(data_directory.name + ".log")
        self.passfile = self.path / "passfile"
        #: In the form that a prefetcher fills.
        self.recovery = RecoveryDirectory(self.path)

    @property
    def restore_command(self) -> str:
        """The setting's value."""
        guard = shell_quote(str(self.path / "guard"))
        return f"test -r {guard} || exit 1; exec /bin/sh {guard} '%f' '%p'"

    def check_new(self, cluster: str, name: str) -> None:
        """Raise AlreadyExists when this host has made the replica, or has begun to, and when something of somebody else
        lies where its own files go: what is taken away later is ours alone.
        """
        if self.record.exists():
            raise AlreadyExists(
                f"replica {name} was made already, or begun",
                hint=f"Remove it with `replicator replica remove {cluster} {name}`.",
            )
        for path in (self.path, self.log):
            if os.path.lexists(path):
                raise AlreadyExists(
                    f"{path} is in the way", hint="Move it: a replica keeps its own files there, and removes them."
                )

    def begin(self, mark: ReplicaMark) -> None:
        """Say whose it is: what comes after can be taken away again. Raises AlreadyExists, HostLacks."""
        with host_errors(self.record):
            self.record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                write_private(self.record, mark.to_bytes())
            except FileExistsError:
                self.check_new(mark.cluster, mark.name)
                raise

    def fill(
        self, repository: Repository, stores: Mapping[str, StoreAccess], password: bytes | None, command: Sequence[str]
    ) -> None:
        """What restore_command and the walreceiver need; `password` is a whole password file. Raises HostLacks."""
        private = {
            "cluster": repository.cluster,
            "keyring": keyring_to_json(repository.keyring),
            "stores": [access.to_json() for access in stores.values()],
        }
        words = " ".join(map(shlex.quote, command))
        script = _GUARD.format(directory=shlex.quote(str(self.path)), command=words)
        with host_errors(self.path):
            self.path.mkdir(mode=0o700, parents=True)
            for directory in (self.recovery.ready, self.recovery.requests):
                directory.mkdir(mode=0o700)
            write_private(self.path / "access", json.dumps(private).encode())
            write_private(self.path / "guard", script.encode("utf-8", "surrogateescape"))
            if password is not None:
                write_private(self.passfile, password)

    def give(self, owner: str | None) -> None:
        """Give all of it to the server's user. Raises HostLacks."""
        if owner is None:
            return
        ids = owner_ids(owner)
        with host_errors(self.path):
            for base, _, files in os.walk(self.path, topdown=False):
                for path in (*(Path(base, name) for name in files), Path(base)):
                    os.chown(path, *ids, follow_symlinks=False)

    def mark(self) -> ReplicaMark:
        """What the state directory says. Raises NotFound, IntegrityError."""
        try:
            return ReplicaMark.of_bytes(_read(self.record))
        except FileNotFoundError as error:
            raise NotFound(
                f"this host made no replica at {self.data_directory}, or has forgotten it",
                hint="One made by hand is removed by hand: the server, its slot on the primary, its directory.",
            ) from error

    def forget(self) -> None:
        """Take the mark back: nothing was made."""
        self.record.unlink(missing_ok=True)

    def check_ours(self, mark: ReplicaMark) -> None:
        """Raise Conflict unless the data directory is what was made with this mark, or was never finished."""
        if mark.data_directory != str(self.data_directory):
            raise Conflict(
                f"replica {mark.name} was made in {mark.data_directory}, and the policy says {self.data_directory}",
                hint="Correct data_directory in the policy; nothing was removed.",
            )
        with host_errors(self.data_directory), suppress(FileNotFoundError, NotADirectoryError):
            (self.data_directory / CONTROL).stat()  # what can't be looked at is not absent
        if system_id_of(self.data_directory) is None:
            return  # pg_control comes last and goes first: nothing that could start is there
        try:
            within = ReplicaMark.of_bytes(_read(self.data_directory / MARK))
        except (FileNotFoundError, IntegrityError):
            within = None
        if within != mark:
            raise Conflict(
                f"{self.data_directory} holds a cluster that was not made as replica {mark.name}",
                hint=f"Nothing was removed; if it is yours to remove, do it by hand, and {self.path} with it.",
            )

    def remove(self, mark: ReplicaMark) -> None:
        """Remove tablespaces, data directory and the rest; call `check_ours` before. pg_control goes first: what an
        interruption leaves is known as never finished. The mark goes last. Raises HostLacks.
        """
        with host_errors(self.path):
            (self.data_directory / CONTROL).unlink(missing_ok=True)
            for space in (*map(Path, mark.tablespaces), self.data_directory):
                if space.is_dir() and not space.is_symlink():
                    shutil.rmtree(space)
            self.log.unlink(missing_ok=True)
            if self.path.is_dir() and not self.path.is_symlink():
                shutil.rmtree(self.path)
            self.forget()


def serve_wal(directory: Path, name: str, path: Path) -> None:
    """One WAL file for a replica's server, which runs us in its data directory: complete segments and histories only,
    from the first store that has it. Raises as `wal_get` does, UsageError when `directory` is none of ours.
    """
    access = _json(directory / "access")
    try:
        keyring: Keyring = keyring_of_json(access["keyring"])
        cluster = str(access["cluster"])
        reached = [StoreAccess.of_json(value) for value in access["stores"]]
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{directory} makes no sense") from error
    stores = {found.policy.name: found.open(cluster) for found in reached}
    wal_get(Repository(cluster, keyring, stores), name, path, system_id=system_id_of(Path()))


def write_private(path: Path, data: bytes) -> None:
    """A new file of mode 0600, durable; never through a link. Raises OSError."""
    flags = os.O_EXCL | os.O_NOFOLLOW
    with open(path, "wb", opener=lambda name, given: os.open(name, given | flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        return file.read(1 << 16)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path.parent} is not a replica's directory", hint="`replica create` makes it beside the data directory."
        ) from error
    return value if isinstance(value, dict) else {}
