"""What a store honours, found out with throw-away objects. The words for it, and asking any store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that is not as it could be. `wrong`: something does not work with it; else it is worth knowing."""

    code: str
    text: str
    hint: str
    wrong: bool = False


@runtime_checkable
class Probing(Protocol):
    """A store that can be probed."""

    def probe(self, folder: str) -> Sequence[Observation]:
        """Put, read and remove a few small objects below `folder` ("frk/probe/"), whose names nobody has. Raises
        StoreUnavailable and its kinds.
        """
        ...


def probe(store: object, folder: str) -> Sequence[Observation]:
    """As Probing; nothing is observed of a store that can't be probed."""
    return store.probe(folder) if isinstance(store, Probing) else ()
