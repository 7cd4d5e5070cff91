"""Object Lock and earlier contents of a name: what only some stores can do, asked of any.

Owns the answers for stores that can't: no lock is set there, and nothing earlier is kept. Never decides what is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from replicator.store.protocol import ReadableStore, Store


@dataclass(frozen=True, slots=True)
class Lock:
    """For how many `seconds` from now a store refuses to delete an object, for names of which `holds` says so. `now`
    is aware.
    """

    seconds: float
    holds: Callable[[str], bool]
    now: Callable[[], datetime]

    def until(self) -> datetime:
        """The end of a lock that begins now."""
        return self.now() + timedelta(seconds=self.seconds)


@runtime_checkable
class Locking(Protocol):
    """A store that may have a lock."""

    @property
    def locks(self) -> bool:
        """Whether it locks objects."""
        ...

    def extend_lock(self, name: str) -> None:
        """Keep an object that is there for the whole lock time from now. Raises ObjectAbsent, StoreDenied."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """A store that may keep what was overwritten."""

    def earlier(self, name: str) -> Iterator[ReadableStore]:
        """The store with each earlier content of `name` in its place, oldest first."""
        ...


@runtime_checkable
class Freeing(Protocol):
    """A store in which deleting a name may leave its content."""

    def free(self, name: str) -> datetime | None:
        """Delete every content of a name. The end of the lock that keeps one of them; None when all are gone."""
        ...


def free(store: Store, name: str) -> datetime | None:
    """Remove an object for good, earlier contents too; well when it isn't there. The moment until which a lock keeps it
    in place, None when it is gone. Raises StoreDenied when refused for another reason, StoreUnavailable.
    """
    if isinstance(store, Freeing):
        return store.free(name)
    store.delete(name)
    return None


def locks(store: ReadableStore) -> bool:
    """Whether the store locks objects."""
    return isinstance(store, Locking) and store.locks


def extend_lock(store: ReadableStore, name: str) -> None:
    """Keep an object for the store's whole lock time from now; does nothing where there is no lock. Raises
    ObjectAbsent, StoreUnavailable and its kinds.
    """
    if isinstance(store, Locking) and store.locks:
        store.extend_lock(name)


def earlier(store: ReadableStore, name: str) -> Iterator[ReadableStore]:
    """The store with each earlier content of `name` in its place, oldest first: objects are created once, so what came
    later is somebody else's. Nothing where the store keeps none. Raises StoreUnavailable and its kinds.
    """
    if isinstance(store, Versioned):
        yield from store.earlier(name)
