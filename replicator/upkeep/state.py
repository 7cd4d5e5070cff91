"""What a host remembers of a cluster beside the repository: the root it trusts, whether the slot is ours, who streams.

Owns the small private files of the state directory. They are a cache of decisions: losing them loses no data.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from replicator.errors import HostLacks


class HostState:
    """One cluster's state directory, 0700, created. Raises HostLacks."""

    def __init__(self, directory: Path) -> None:
        self.directory = private_directory(directory)
        self.pin_path = self.directory / "root"
        self._slot_path = self.directory / "slot.json"
        self._host_path = self.directory / "source-host"

    @property
    def documents(self) -> Path:
        """Where copies of the repository's documents are kept."""
        return private_directory(self.directory / "documents")

    @property
    def pinned_root(self) -> str | None:
        """The first root that this host saw; None before that."""
        return self.pin_path.read_text("ascii").strip() if self.pin_path.exists() else None

    def pin_root(self, root: str) -> None:
        """Remember a root. Raises HostLacks."""
        write_private(self.pin_path, f"{root}\n".encode("ascii"))

    def made_slot(self, name: str) -> bool:
        """Whether `init` made this slot, or was to make it."""
        try:
            recorded = json.loads(self._slot_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(recorded, dict) and recorded.get("slot") == name

    def record_slot(self, name: str) -> None:
        """Remember that the slot is ours. Raises HostLacks."""
        write_private(self._slot_path, json.dumps({"slot": name, "made_by_init": True}).encode())

    @property
    def source_host(self) -> str | None:
        """The label of the host that streamed last: where to look first. None: not known."""
        try:
            return self._host_path.read_text("utf-8").strip() or None
        except (OSError, ValueError):
            return None

    def record_source_host(self, label: str) -> None:
        """Remember it. Raises HostLacks."""
        write_private(self._host_path, f"{label}\n".encode())


def private_directory(path: Path) -> Path:
    """`path` as a directory that only its owner reads, created with its parents. Raises HostLacks."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostLacks(
            f"{path} can not be created: {(error.strerror or 'unknown reason').lower()}",
            hint="Create it for the user that runs replicator, or name another place in the policy.",
        ) from error
    return path


def write_private(path: Path, data: bytes) -> None:
    """Put a small file of mode 0600 in place at once, durably. Raises HostLacks."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise HostLacks(f"{path} can not be written: {(error.strerror or 'unknown reason').lower()}") from error
