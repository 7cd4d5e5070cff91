"""Opened packs of one snapshot, for several threads. Owns how many stay open; never what is read from them."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from replicator.repository.layout import PackId, pack_name
from replicator.repository.objects import StoredObject, open_object
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

#: A tenth incremental's restore needs some dozens at a time; an open one is a table of some kilobytes, and no handle.
_OPEN = 256


class Packs:
    """Opened packs, a bounded number; several threads may ask for the same one."""

    def __init__(self, keyring: Keyring) -> None:
        self.system_id = 0
        self._keyring = keyring
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, PackId], Future[StoredObject]] = OrderedDict()

    def open(self, store: ReadableStore, pack: PackId) -> StoredObject:
        """A pack whose head and table are verified. Raises ObjectAbsent, IntegrityError, StoreUnavailable."""
        key = store.name, pack
        with self._lock:
            future = self._kept.get(key)
            ours = future is None
            if future is None:
                future = self._kept[key] = Future()
                if len(self._kept) > _OPEN:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
        if ours:
            try:
                future.set_result(open_object(store, pack_name(self.system_id, pack), self._keyring))
            except BaseException as error:  # noqa: BLE001 it belongs to everyone who waits for this pack
                future.set_exception(error)
        return future.result()
