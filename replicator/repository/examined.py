"""Every byte of a sealed object looked at, part by part, in one thread or in several.

Owns the order of the looks and how much is read at once. Hands out nothing of what it read, and never decides what a
damaged object means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from itertools import chain

from replicator.errors import IntegrityError
from replicator.repository.objects import check_place, signed_table
from replicator.seal.digest import Fingerprint, digest
from replicator.seal.header import FRAME_SIZE, Cipher
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectOpener, check_head
from replicator.seal.table import Table
from replicator.store.protocol import ReadableStore

#: Sealed bytes of a part: what one request fetches and one thread opens.
PART_SIZE = 2 * FRAME_SIZE
#: The most parts of one object that are opened or wait for it, while the next is read.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class ExaminedObject:
    """An object whose every byte was looked at. `opened`: so were its plain bytes. `segment_size`: 0 for a pack."""

    table: Table
    opened: bool
    segment_size: int


def examine_object(
    store: ReadableStore,
    name: str,
    keyring: Keyring,
    tick: Callable[[int], None],
    fingerprint: str = "",
    pool: Executor | None = None,
) -> ExaminedObject:
    """Read all of an object, by large reads in turn, and check what can be checked here: without the private key head,
    table, signature, place and frame digests; with it the plain bytes too, and that they have this `fingerprint`.

    With a `pool` its threads open what this one has read, while this one reads on. `tick` is told the bytes of each
    read, by any thread. Raises ObjectAbsent, IntegrityError (of the first part that is damaged), and whatever `tick`
    raises.
    """
    table, writer = signed_table(store, name, keyring)
    parts = _parts(table)
    first = store.get(name, 0, table.offsets[parts[0][1]])
    head = first[: table.head_size]
    header = check_head(keyring, head, table, name)
    check_place(header, table, writer, name)
    opened = header.cipher is Cipher.NONE or header.key_id in keyring.private
    opener = ObjectOpener(keyring, header, head, table) if opened else None
    mark = Fingerprint(keyring.repository_id) if opened and fingerprint else None
    look = _Look(table, opener, mark, tick)
    sealed = chain([memoryview(first)[table.head_size :]], _reads(store, table, parts[1:]))
    if pool is None:
        for part, data in zip(parts, sealed, strict=True):
            look.open(*part, data)
    else:
        _side_by_side(pool, look, zip(parts, sealed, strict=True))
    if mark is not None and mark.hex() != fingerprint:
        raise IntegrityError(f"{name}: its fingerprint is another's", object=name)
    return ExaminedObject(table, opened, header.segment_size)


def _parts(table: Table) -> list[tuple[int, int]]:
    """The frames of an object, (first, behind the last), by the requests that they are read with; never empty."""
    offsets, end = table.offsets, len(table.frames)
    parts, first = [], 0
    while first < end:
        last = first + 1
        while last < end and offsets[last + 1] - offsets[first] <= PART_SIZE:
            last += 1
        parts.append((first, last))
        first = last
    return parts or [(0, 0)]


def _reads(store: ReadableStore, table: Table, parts: Iterable[tuple[int, int]]) -> Iterator[memoryview]:
    """The sealed bytes of each part, read when asked for."""
    for first, last in parts:
        start = table.offsets[first]
        yield memoryview(store.get(table.name, start, table.offsets[last] - start))


class _Look:
    """Checks parts of one object; safe in several threads without a `mark`, which takes parts in order."""

    def __init__(
        self, table: Table, opener: ObjectOpener | None, mark: Fingerprint | None, tick: Callable[[int], None]
    ) -> None:
        self._table = table
        self._opener = opener
        self._mark = mark
        self._tick = tick
        self._offsets = table.offsets
        #: How many parts may be opened or wait for it.
        self.most = _AHEAD if mark is None else 1

    def open(self, first: int, last: int, sealed: memoryview) -> None:
        """Check the sealed bytes of consecutive frames. Raises IntegrityError."""
        name, start = self._table.name, self._offsets[first]
        for number in range(first, last):
            frame = sealed[self._offsets[number] - start : self._offsets[number + 1] - start]
            if self._opener is not None:
                plain = self._opener.open_frame(number, frame)
                if self._mark is not None:
                    self._mark.update(plain)
            elif digest(frame) != self._table.frames[number].digest:
                raise IntegrityError(f"{name}: frame {number} is damaged", object=name, frame=number)
        self._tick(len(sealed))


def _side_by_side(pool: Executor, look: _Look, parts: Iterable[tuple[tuple[int, int], memoryview]]) -> None:
    """Open all parts; the first error in their order is raised once no thread is at work on them any more."""
    running: deque[Future[None]] = deque()
    try:
        for part, sealed in parts:
            while len(running) >= look.most:
                running.popleft().result()
            running.append(pool.submit(look.open, *part, sealed))
        while running:
            running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        wait(running)
