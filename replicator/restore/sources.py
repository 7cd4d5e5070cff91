"""The stores that a restore reads: the plan's, and the others where it fails midway.

Owns which store is asked next. Every store holds the same objects, and whoever reads verifies them, so a pack or a
segment may come from any; nothing is ever less checked for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TypeVar

from replicator.errors import IntegrityError, KeysError, ObjectAbsent, ReplicatorError, StoreUnavailable
from replicator.repository.manifests import Entry, ManifestReader
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

T = TypeVar("T")

#: What another store may do better. Inside a plan's range nothing is ever merely absent.
_FAILURES = (StoreUnavailable, IntegrityError, ObjectAbsent, KeysError)


class Sources:
    """`stores`: the plan's first. One that stopped answering is asked last from then on. Safe for several threads."""

    def __init__(self, stores: Sequence[ReadableStore]) -> None:
        self._stores = tuple(stores)
        self._lock = Lock()
        self._away: set[str] = set()
        self._why: ReplicatorError | None = None
        self._reads: dict[str, int] = {}
        self._damaged: dict[str, str] = {}

    @property
    def first(self) -> ReadableStore:
        """The plan's store."""
        return self._stores[0]

    def read(self, read: Callable[[ReadableStore], T]) -> T:
        """What `read` gives of the first store where it is well. Raises the plan's store's error when there is none."""
        failures: dict[str, ReplicatorError] = {}
        for store in self.ordered():
            try:
                value = read(store)
            except _FAILURES as error:
                failures[store.name] = error
                self.failed(store, error)
                continue
            self.gave(store)
            return value
        raise failures.get(self.first.name) or next(iter(failures.values()))

    def notes(self) -> list[str]:
        """What the operator should know: which store stood in for which, and why; and each that holds damage, for
        what went well all the same would hide it.
        """
        with self._lock:
            why = f" ({self._why.message})" if self._why is not None else ""
            told = [
                f"store {self.first.name} failed midway{why}: {count} reads came from store {name}"
                for name, count in sorted(self._reads.items())
            ]
            return told + [
                f"store {name} holds what is damaged ({message})"
                for name, message in sorted(self._damaged.items())
                if not (told and name == self.first.name and isinstance(self._why, IntegrityError))
            ]

    def ordered(self) -> list[ReadableStore]:
        """Which store to ask, one after another."""
        with self._lock:
            return sorted(self._stores, key=lambda store: store.name in self._away)

    def failed(self, store: ReadableStore, error: ReplicatorError) -> None:
        """A store could not give what it was asked for."""
        with self._lock:
            if isinstance(error, StoreUnavailable):
                self._away.add(store.name)
            if isinstance(error, IntegrityError):
                self._damaged.setdefault(store.name, error.message)
            if store is self.first and self._why is None:
                self._why = error

    def gave(self, store: ReadableStore) -> None:
        """A store gave what it was asked for."""
        if store is self.first:
            return
        with self._lock:
            self._reads[store.name] = self._reads.get(store.name, 0) + 1


def entries(sources: Sources, manifest: ManifestReader, keyring: Keyring) -> Iterator[Entry]:
    """Every entry of a manifest that was opened in the plan's store; where that fails midway, on from another's copy.

    Raises what reading a manifest does: the plan's store's error when no copy goes on.
    """
    passed = 0
    failures: dict[str, ReplicatorError] = {}
    for store in sources.ordered():
        try:
            reader = manifest if store is sources.first else _copy(store, manifest, keyring)
            for number, entry in enumerate(reader.entries()):
                if number >= passed:
                    yield entry
                    passed = number + 1
        except _FAILURES as error:
            failures[store.name] = error
            sources.failed(store, error)
            continue
        sources.gave(store)
        return
    raise failures.get(sources.first.name) or next(iter(failures.values()))


def _copy(store: ReadableStore, manifest: ManifestReader, keyring: Keyring) -> ManifestReader:
    found = ManifestReader(store, manifest.snapshot, keyring)
    if (found.summary, found.attempt) != (manifest.summary, manifest.attempt):
        raise IntegrityError(f"store {store.name} holds another manifest of snapshot {manifest.snapshot.label}")
    return found
