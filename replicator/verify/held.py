"""A small object read by one request and looked at in memory.

Owns its bytes for as long as the look takes. Believes nothing of them: whoever asks verifies.
"""

from __future__ import annotations

from replicator.store.protocol import ReadableStore
from replicator.store.wrappers import ReadOnly

#: Objects up to this size are held: documents, most manifests, most WAL.
_MOST = 4 << 20


def held(store: ReadableStore, name: str, size: int | None) -> ReadableStore:
    """The store, with the object `name` in memory if it has `size` bytes and they are few. Raises ObjectAbsent,
    StoreUnavailable.
    """
    if size is None or size > _MOST:
        return store
    data = store.get(name, 0, size + 1)  # one more tells whether it is longer
    return _Held(store, name, data) if len(data) <= size else store


class _Held(ReadOnly):
    """A store of which one object is in memory."""

    def __init__(self, inner: ReadableStore, name: str, data: bytes) -> None:
        super().__init__(inner)
        self._name = name
        self._data = data

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the store's."""
        if name != self._name:
            return super().get(name, offset, length)
        return self._data[offset:] if length is None else self._data[offset : offset + length]

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As the store's."""
        if name != self._name:
            return super().get_tail(name, length)
        return self._data[max(0, len(self._data) - length) :], len(self._data)
