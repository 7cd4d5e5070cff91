"""Which bytes the packs hold, frame by frame, so that what a manifest says of them can be checked.

Owns what is remembered of the tables of packs while the objects of a store are looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Set
from threading import Lock

from replicator.errors import CannotOpen, IntegrityError, ReplicatorError
from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import read_table
from replicator.seal.keyring import Keyring
from replicator.seal.table import Table
from replicator.store.protocol import ReadableStore

#: So many packs are remembered: a few megabytes.
_MOST = 4096


class Shapes:
    """The plain size of each frame of the packs of one store; those longest known are forgotten first. Safe to use from
    several threads.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, PackId], array[int] | None] = {}
        self._lock = Lock()

    def keep(self, system_id: int, pack: PackId, table: Table | None) -> array[int] | None:
        """Remember a pack by its verified table; None: it is missing or damaged."""
        shape = array("I", (entry.plain_size for entry in table.frames)) if table is not None else None
        with self._lock:
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[system_id, pack] = shape
        return shape

    def of(self, source: ReadableStore, system_id: int, pack: PackId, keyring: Keyring) -> array[int] | None:
        """A pack's shape; None where the pack itself is missing or damaged: that is its own finding."""
        with self._lock:
            if (system_id, pack) in self._known:
                return self._known[system_id, pack]
        try:
            table = read_table(source, pack_name(system_id, pack), keyring)
        except ReplicatorError as error:
            if error.retryable or isinstance(error, CannotOpen):
                raise
            table = None
        return self.keep(system_id, pack, table)


class Places:
    """The frames of the packs that one manifest names."""

    def __init__(
        self, shapes: Shapes, source: ReadableStore, system_id: int, keyring: Keyring, named: Set[PackId]
    ) -> None:
        self._shapes = shapes
        self._source = source
        self._system_id = system_id
        self._keyring = keyring
        self._named = named
        self._last: tuple[PackId, array[int] | None] | None = None

    def check(self, pack: PackId, frame: int, offset: int, length: int) -> None:
        """Raise IntegrityError unless these bytes lie within one frame of a pack that the manifest names."""
        if self._last is None or self._last[0] != pack:
            if pack not in self._named:
                name = pack_name(self._system_id, pack)
                raise IntegrityError(f"a block lies in {name}, which the manifest does not name")
            self._last = pack, self._shapes.of(self._source, self._system_id, pack, self._keyring)
        shape = self._last[1]
        if shape is not None and (frame >= len(shape) or offset + length > shape[frame]):
            raise IntegrityError(f"a block lies outside of frame {frame} of {pack_name(self._system_id, pack)}")
