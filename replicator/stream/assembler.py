"""From messages to segment writes. Pure.

Owns contiguity: what follows the last byte is accepted, anything else is no WAL stream (and never written).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from replicator.core.lsn import Lsn, Segment
from replicator.errors import IntegrityError, ProtocolViolation
from replicator.postgres.messages import XLogData
from replicator.postgres.pages import HEADER_SIZE, check_segment


@dataclass(slots=True)
class Write:
    """Consecutive bytes of one segment, and the server's clock when it sent the first and the last of them."""

    segment: Segment
    start: Lsn
    first_us: int
    last_us: int
    views: list[memoryview] = field(default_factory=list)
    size: int = 0

    @property
    def end(self) -> Lsn:
        """The byte after its last."""
        return Lsn(self.start + self.size)


class Assembler:
    """Takes the WAL of one timeline from `start`, a segment start, on."""

    def __init__(self, system_id: int, timeline: int, start: Lsn, segment_size: int) -> None:
        self._system_id = system_id
        self._timeline = timeline
        self._segment_size = segment_size
        self.position = start

    def take(self, messages: Iterable[XLogData]) -> list[Write]:
        """The writes for a batch, each within one segment. Raises ProtocolViolation: a jump, or bytes that are not this
        cluster's WAL of this place.
        """
        writes: list[Write] = []
        for message in messages:
            if message.start != self.position:
                raise ProtocolViolation(
                    f"the source sent WAL from {message.start} where {self.position} was due", lsn=str(self.position)
                )
            data = message.data
            while len(data):
                segment = Segment.holding(self._timeline, self.position, self._segment_size)
                if not writes or writes[-1].segment != segment:
                    writes.append(Write(segment, self.position, message.sent_us, message.sent_us))
                part = data[: segment.end - self.position]
                _extend(writes[-1], part, message.sent_us)
                self.position = Lsn(self.position + len(part))
                data = data[len(part) :]
        for write in writes:
            self._check_first_page(write)
        return writes

    def _check_first_page(self, write: Write) -> None:
        if write.start != write.segment.start or write.size < HEADER_SIZE:
            return
        head = b"".join(bytes(view[:HEADER_SIZE]) for view in write.views[:HEADER_SIZE])
        try:
            check_segment(head, write.segment, self._system_id)
        except IntegrityError as error:
            raise ProtocolViolation(f"the source sent bytes that are not its WAL: {error.message}") from error


def _extend(write: Write, part: memoryview, sent_us: int) -> None:
    write.views.append(part)
    write.size += len(part)
    write.last_us = max(write.last_us, sent_us)
