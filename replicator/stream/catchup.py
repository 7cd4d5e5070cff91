"""Taking WAL from another store: what the spool let go of before this store had it.

Owns which objects those are. Only holes after the first byte that a store holds count: what lies before, and a store
that is new, is the work of a mirror. Every object is verified before it is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.timeline import TimelineHistory
from replicator.errors import AlreadyExists, IntegrityError, ReplicatorError
from replicator.repository.catalog import longest_chain, read_history_file
from replicator.repository.layout import history_name, piece_name
from replicator.repository.objects import check_object
from replicator.seal.keyring import Keyring
from replicator.spool import SealedFile, Spool
from replicator.store.protocol import ReadableStore, Store
from replicator.stream.holdings import Holdings
from replicator.stream.naming import describe

_CHUNK = 8 * 2**20


class ElsewhereFailed(Exception):
    """The other store could not be read. `error` is its own."""

    def __init__(self, error: ReplicatorError) -> None:
        super().__init__(error.message)
        self.error = error


@contextmanager
def _elsewhere() -> Iterator[None]:
    try:
        yield
    except ReplicatorError as error:
        raise ElsewhereFailed(error) from error


def missing_ranges(ours: Holdings, theirs: Holdings) -> list[LsnRange]:
    """What another store covers and this one doesn't, from this one's first byte on, but for what retention took from
    this one: the other may be pruned later, or keep everything locked. Pure.
    """
    first = min(((timeline, pairs[0][0]) for timeline, pairs in ours.coverage.by_timeline.items()), default=None)
    if first is None:
        return []
    found: list[LsnRange] = []
    had = ours.coverage.union(ours.retired)
    for timeline, start, end in theirs.coverage.triples():
        if timeline >= first[0]:
            low = max(start, first[1]) if timeline == first[0] else start
            found.extend(had.missing(timeline, low, end))
    return found


def missing_objects(ours: Holdings, theirs: Holdings, spool: Spool) -> list[str]:
    """Names to copy, in the order of the stream; nothing that the spool itself will bring: what is sealed there. Raw
    WAL there does not count: what another store covers was sealed once, and is not sealed again.
    """
    size = spool.segment_size
    local = Coverage.of((file.start.timeline, file.start.lsn, file.end.lsn) for file in spool.sealed.files())
    names: list[str] = []
    for hole in missing_ranges(ours, theirs):
        for lost in local.missing(hole.timeline, hole.start, hole.end):
            segment = Segment.holding(lost.timeline, lost.start, size)
            while segment.start < lost.end:
                names.extend(_objects(theirs, segment, max(lost.start, segment.start)))
                segment = segment.next()
    return list(dict.fromkeys(names))


def _objects(theirs: Holdings, segment: Segment, start: Lsn) -> list[str]:
    whole = theirs.wal.get(segment.name)
    if whole:
        return sorted(whole)
    pieces = tuple(theirs.pieces.get(segment.name, {}).values())
    return [
        piece_name(piece.system_id, segment, piece.start, piece.end, piece.fingerprint)
        for piece in longest_chain(pieces, start)
    ]


def catch_up(
    source: ReadableStore, theirs: Holdings, target: Store, ours: Holdings, spool: Spool, keyring: Keyring
) -> Iterator[SealedFile]:
    """Copy what is missing, histories first; each object that is then in the target. What is damaged in the source is
    passed over, and said at the end. Raises ElsewhereFailed for the source, and what the target says.
    """
    names = missing_objects(ours, theirs, spool)
    if not names:
        return
    for timeline in sorted(set(theirs.histories) - set(ours.histories)):
        name = history_name(spool.system_id, timeline)
        with _elsewhere():
            content = read_history_file(source, spool.system_id, timeline, keyring)
            document = source.get(name)
        with suppress(AlreadyExists):
            target.put(name, document)
        ours.histories[timeline] = TimelineHistory.parse(timeline, content)
    damaged: ElsewhereFailed | None = None
    for name in names:
        try:
            with _elsewhere():
                size = check_object(source, name, keyring).size
        except ElsewhereFailed as failed:
            if not isinstance(failed.error, IntegrityError):
                raise
            damaged = damaged or failed
            continue
        _copy(source, target, name, size)
        file = describe(spool.segment_size, name, size)
        if file is not None:
            yield file
    if damaged is not None:
        raise damaged


class Copying:
    """One store's copying, an object at a time and in another thread: the other store may hang, and what is new must
    not wait for it.
    """

    def __init__(self) -> None:
        self._under_way: Future[SealedFile | None] | None = None

    def run(
        self, copies: Iterator[SealedFile], executor: Executor, ring: Callable[[], None]
    ) -> Iterator[SealedFile | None]:
        """Each object that was copied, and None as long as one is under way; `ring` is called when it is there. Nothing
        while an earlier copy still hangs. Raises what `catch_up` does.
        """
        while self._under_way is None or self._under_way.done():
            self._under_way = executor.submit(next, copies, None)
            self._under_way.add_done_callback(lambda _: ring())
            while not self._under_way.done():
                yield None
            copied = self._under_way.result()
            if copied is None:
                return
            yield copied


def _copy(source: ReadableStore, target: Store, name: str, size: int) -> None:
    try:
        with target.writer(name) as writer:
            for offset in range(0, size, _CHUNK):
                with _elsewhere():
                    data = source.get(name, offset, min(_CHUNK, size - offset))
                writer.write(data)
            writer.commit()
    except AlreadyExists:
        return  # the name carries the fingerprint of the content
