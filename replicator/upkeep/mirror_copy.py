"""Copying one object from a store to another: checked as it is read, and again where it then lies.

Owns that nothing becomes visible in the target before all of it was verified, and that nothing counts before the target
gave it back well. Memory: some megabytes, however long the object is. Needs no private key; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from replicator.errors import AlreadyExists, IntegrityError, ReplicatorError, StoreUnavailable, UploadLost
from replicator.repository.earlier import read_sound
from replicator.repository.examined import examine_object
from replicator.repository.layout import (
    BeginName,
    HistoryName,
    NoteName,
    RecordName,
    parse_name,
)
from replicator.seal.document import MOST_BYTES, open_document
from replicator.seal.keyring import Keyring
from replicator.seal.table import Table
from replicator.store.protocol import ReadableStore, Store
from replicator.store.wrappers import ReadOnly

#: How often an upload whose parts are gone is begun again.
_UPLOADS = 3
_DOCUMENTS = {HistoryName: "history", BeginName: "begin", NoteName: "note", RecordName: "record"}


class SourceAway(Exception):
    """The store that is read did not answer; `error` says why. Never leaves the mirror."""

    def __init__(self, error: StoreUnavailable) -> None:
        super().__init__(error.message)
        self.error = error


class TargetDamaged(Exception):
    """The target gives back something else than was put there; `error` says what. Never leaves the mirror."""

    def __init__(self, error: IntegrityError) -> None:
        super().__init__(error.message)
        self.error = error


def copy_sealed(
    source: ReadableStore,
    target: Store,
    name: str,
    keyring: Keyring,
    tick: Callable[[int], None],
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Copy a sealed object; well when it is there already and is well.

    `tick` is told the bytes of each read and may raise. Raises IntegrityError or ObjectAbsent about the source,
    SourceAway, TargetDamaged, and StoreUnavailable about the target.
    """
    for left in reversed(range(_UPLOADS)):
        try:
            mine = read_sound(source, name, lambda found: _put(found, target, name, keyring, tick, before_commit))
            break
        except UploadLost:
            if not left:
                raise
    try:
        examine_object(target, name, keyring, lambda _: tick(0))
    except IntegrityError as error:
        if mine:  # nobody has counted on it yet; a later run may put it again
            with suppress(StoreUnavailable):
                target.delete(name)
        raise TargetDamaged(error) from error


def _put(
    source: ReadableStore, target: Store, name: str, keyring: Keyring, tick: Callable[[int], None],
    before_commit: Callable[[], None],
) -> bool:  # fmt: skip
    """Whether it was this call that made the object."""
    with target.writer(name) as writer:
        passing = _Passing(source, writer.write)
        examined = examine_object(passing, name, keyring, tick)
        passing.finish(examined.table)
        before_commit()
        try:
            writer.commit()
        except AlreadyExists:
            return False
    return True


class _Passing(ReadOnly):
    """A store that passes on what is read of one object, in order: its head, its frames, and at last its end."""

    def __init__(self, inner: ReadableStore, write: Callable[[bytes], None]) -> None:
        super().__init__(inner)
        self._write = write
        self._passed = 0
        self._tail = b""

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the store's; what was verified is about to be read once, from its beginning."""
        try:
            data = super().get(name, offset, length)
        except StoreUnavailable as error:
            raise SourceAway(error) from error
        if offset == self._passed:
            self._write(data)
            self._passed += len(data)
        return data

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As the store's."""
        try:
            self._tail, size = super().get_tail(name, length)
        except StoreUnavailable as error:
            raise SourceAway(error) from error
        return self._tail, size

    def finish(self, table: Table) -> None:
        """Pass on table, signature and trailer as they were verified."""
        if self._passed != table.offsets[-1]:
            raise ReplicatorError(f"{table.name}: {self._passed} bytes were read where {table.offsets[-1]} lie")
        self._write(self._tail[self._passed - table.size :])


def copy_document(source: ReadableStore, target: Store, name: str, keyring: Keyring) -> int:
    """Copy a document signed by a writer; its size. Well when one of that name is there and is well.

    Raises as `copy_sealed`.
    """
    kind = _DOCUMENTS[type(parse_name(name))]

    def read(store: ReadableStore) -> bytes:
        data = store.get_tail(name, MOST_BYTES)[0]
        open_document(keyring, kind, name, data)
        return data

    try:
        data = read_sound(source, name, read)
    except StoreUnavailable as error:
        raise SourceAway(error) from error
    with suppress(AlreadyExists):
        target.put(name, data)
    try:
        read_sound(target, name, read)
    except IntegrityError as error:
        raise TargetDamaged(error) from error
    return len(data)
