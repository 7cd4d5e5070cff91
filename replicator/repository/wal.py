"""Sealing WAL into objects: complete segments and pieces (docs/format.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from replicator.core.lsn import Lsn, Segment
from replicator.repository.layout import piece_name, wal_name
from replicator.seal.digest import Fingerprint
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectSealer
from replicator.seal.table import FrameEntry

#: Frames sealed ahead of the writer when there is an executor: bounds memory to so many frames.
_AHEAD = 4

#: Reads `length` bytes of the segment at `offset`; returns exactly that many.
ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class WalPart:
    """The bytes [start, end) of one segment, and the server's clock (microseconds, or an upper bound) when it sent the
    first and the last of them. The whole segment when the bounds are the segment's and `complete` is set.
    """

    system_id: int
    segment: Segment
    start: Lsn
    end: Lsn
    first_us: int
    last_us: int
    complete: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def fingerprint_part(keyring: Keyring, part: WalPart, read: ReadAt) -> str:
    """The fingerprint of the part's plain bytes, reading frame by frame."""
    mark = Fingerprint(keyring.repository_id)
    for chunk in _chunks(part, read):
        mark.update(chunk)
    return mark.hex()


def seal_part(
    keyring: Keyring, compression: Compression, level: int, part: WalPart, read: ReadAt,
    write: Callable[[bytes], object], executor: Executor | None = None,
) -> str:  # fmt: skip
    """Seal `part` through `write` and return the object's name. Memory: a few frames, whatever the segment's size.

    Each byte is read once, so the fingerprint is of what was sealed.
    """
    header = Header(
        Kind.WAL if part.complete else Kind.PIECE, keyring.cipher, compression, keyring.repository_id, keyring.current,
        b"", part.system_id, part.segment.timeline, part.segment.size, part.start,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, level)
    mark = Fingerprint(keyring.repository_id)
    write(sealer.head)
    for sealed, entry in _sealed(sealer, _marked(_chunks(part, read), mark), executor):
        sealer.append(entry)
        write(sealed)
    if part.complete:
        name = wal_name(part.system_id, part.segment, mark.hex())
    else:
        name = piece_name(part.system_id, part.segment, part.start, part.end, mark.hex())
    write(sealer.finish(name, start=part.start, end=part.end, first_us=part.first_us, last_us=part.last_us))
    return name


def _chunks(part: WalPart, read: ReadAt) -> Iterator[bytes]:
    first, last = part.start - part.segment.start, part.end - part.segment.start
    for offset in range(first, last, FRAME_SIZE):
        yield read(offset, min(FRAME_SIZE, last - offset))


def _marked(chunks: Iterator[bytes], mark: Fingerprint) -> Iterator[bytes]:
    for chunk in chunks:
        mark.update(chunk)
        yield chunk


def _sealed(
    sealer: ObjectSealer, chunks: Iterator[bytes], executor: Executor | None
) -> Iterator[tuple[bytes, FrameEntry]]:
    if executor is None:
        yield from (sealer.seal_frame(number, chunk) for number, chunk in enumerate(chunks))
        return
    waiting: list[Future[tuple[bytes, FrameEntry]]] = []
    for number, chunk in enumerate(chunks):
        waiting.append(executor.submit(sealer.seal_frame, number, chunk))
        if len(waiting) >= _AHEAD:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()
