"""Earlier contents of a name: objects are created once, so what overwrote one is somebody else's.

A bucket that keeps versions keeps the first content too. Owns reading that one when the newest is not what was signed,
and how much of a document is read; says so in the log. It never changes anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from replicator.errors import IntegrityError, NotFound, StoreUnavailable
from replicator.seal.document import MOST_BYTES
from replicator.store.locks import earlier
from replicator.store.protocol import ReadableStore

T = TypeVar("T")

_log = logging.getLogger(__name__)


def read_sound(store: ReadableStore, name: str, read: Callable[[ReadableStore], T]) -> T:
    """What `read` gives of the store; when that raises IntegrityError, of the store with an earlier content of `name`.
    Raises the first IntegrityError when there is none that is well.
    """
    try:
        return read(store)
    except IntegrityError as error:
        for found in earlier_contents(store, name):
            try:
                value = read(found)
            except (IntegrityError, NotFound):
                continue
            _log.warning("store %s: %s was overwritten; its earlier content is read", store.name, name)
            return value
        raise error from None


def read_document(store: ReadableStore, name: str) -> bytes:
    """A document's bytes, not yet believed: never more than a document has, whatever somebody put. Raises ObjectAbsent,
    IntegrityError.
    """
    data, size = store.get_tail(name, MOST_BYTES)
    if size > len(data):
        raise IntegrityError(f"{name}: too long for a document", object=name)
    return data


def earlier_contents(store: ReadableStore, name: str) -> Iterator[ReadableStore]:
    """As the store's own; a store that can't list them now has none."""
    try:
        yield from earlier(store, name)
    except (StoreUnavailable, NotFound) as error:
        _log.warning("store %s: earlier contents of %s can not be listed: %s", store.name, name, error.message)
