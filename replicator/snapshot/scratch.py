"""A file that a take needs for itself and nobody else sees: it has no name, and is gone with its process.

Owns what a full or unwritable state directory means for it. Never keeps anything for a later take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from replicator.errors import HostLacks


class Scratch:
    """Bytes written in order, and then read in order, in a file below `directory`. Everything raises HostLacks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with self._having_room():
            self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # closed where this is left

    def write(self, data: bytes) -> None:
        """Append."""
        with self._having_room():
            self._file.write(data)

    def rewind(self) -> None:
        """Read from the beginning after this."""
        with self._having_room():
            self._file.seek(0)

    def read(self, size: int) -> bytes:
        """The next bytes, `size` at most; none at the end."""
        with self._having_room():
            return self._file.read(size)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with suppress(OSError):  # what was not written yet is needed by nobody
            self._file.close()

    @contextmanager
    def _having_room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise HostLacks(
                f"a temporary file in {self._directory} can not be used: {reason}",
                hint="See that the state directory has room and is ours.",
            ) from error
