"""Whether anything in a store still needs a writer or a repository key: what objects and documents say of themselves.

Reads names and first bytes only and believes them: a lie can keep a key from being removed, never the reverse, because
an object that lies about its key or writer opens and verifies for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from replicator.errors import ObjectAbsent
from replicator.repository.layout import ManifestName, PackName, PieceName, WalName, parse_name
from replicator.seal.document import MOST_BYTES
from replicator.seal.header import HEADER_SIZE
from replicator.store.protocol import ReadableStore

_WORKERS = 4
_BATCH = 64
_KEY, _WRITER = slice(32, 40), slice(40, 48)
_SIGNED = b"\nsigned "


def first_use(store: ReadableStore, *, writer_id: bytes | None = None, key_id: bytes | None = None) -> str | None:
    """The first object that the writer signed or that is sealed to the key; None when there is none.

    Raises StoreUnavailable.
    """

    def uses(name: str) -> bool:
        if not isinstance(parse_name(name), WalName | PieceName | PackName | ManifestName):
            return writer_id is not None and _signer(store, name) == writer_id.hex()
        try:
            head = store.get(name, 0, HEADER_SIZE)
        except ObjectAbsent:
            return False
        return (key_id is not None and head[_KEY] == key_id) or (writer_id is not None and head[_WRITER] == writer_id)

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="keys") as executor:
        for names in _batches(store):
            for name, used in zip(names, executor.map(uses, names), strict=True):
                if used:
                    return name
    return None


def _batches(store: ReadableStore) -> Iterator[tuple[str, ...]]:
    names: list[str] = []
    for info in store.list(""):
        if parse_name(info.name) is not None:
            names.append(info.name)
        if len(names) == _BATCH:
            yield tuple(names)
            names = []
    if names:
        yield tuple(names)


def _signer(store: ReadableStore, name: str) -> str:
    """Who a document says signed it."""
    try:
        data = store.get_tail(name, MOST_BYTES)[0]
    except ObjectAbsent:
        return ""
    return data.rpartition(_SIGNED)[2].partition(b" ")[0].decode("ascii", "replace")
