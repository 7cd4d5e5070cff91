"""What a base backup needs of the wire, however its bytes are read. Pure.

`libpqwire` reads through libpq, whatever lies between; `socketwire` reads the socket itself where nothing encrypts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from replicator.errors import ReplicatorError
from replicator.postgres.messages import ManifestStart, NewArchive

#: What errors say was being done.
DOING = "taking a base backup"


Rows = tuple[tuple[bytes | None, ...], ...]


class Answer(NamedTuple):
    """One result of the command: its rows, or that a COPY begins, or why the server failed (with `sqlstate`)."""

    rows: Rows = ()
    copying: bool = False
    failure: ReplicatorError | None = None


class BackupWire(Protocol):
    """One BASE_BACKUP that was sent. All raise ProtocolViolation, SourceUnavailable and Interrupted."""

    #: Bytes of archives that the server says it has sent (15 and later), or that came.
    done_bytes: int
    #: What the server warned of, in its words.
    warnings: list[str]

    def answer(self, seconds: float) -> Answer | None:
        """The next result, which may take so long; None after the last."""
        ...

    def parts(self, oids: Sequence[int | None], *, manifest: bool) -> Iterator[NewArchive | ManifestStart]:
        """What begins, in order. Data left over from the part before is skipped. `oids`: of the tablespaces."""
        ...

    def fill(self, room: memoryview) -> int:
        """The next bytes of the part that has begun, as many as fit; fewer only at the part's end."""
        ...

    def close(self) -> None:
        """Let go of it. The connection is not fit for another command."""
        ...
