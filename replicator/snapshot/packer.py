"""Blocks into frames into packs: places bytes, seals frames in worker threads, sends packs to the stores in order.

Owns the numbering of packs and frames. Memory: the open frame and a few being sealed, and what they are views of. It
reads nothing back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from replicator.repository.blockmap import BlockRun
from replicator.repository.layout import PackId, pack_name
from replicator.repository.manifests import MapRef
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectSealer
from replicator.seal.table import FrameEntry
from replicator.snapshot.channels import Channels

#: A pack is closed before a frame that may take it beyond this many sealed bytes.
PACK_SIZE = 48 * 2**20
#: Parts from so many bytes on are not copied: a view keeps all of what it is a view of.
_VIEW = FRAME_SIZE // 4


@dataclass(frozen=True, slots=True)
class PackPlace:
    """Whose packs these are, and how they are sealed."""

    keyring: Keyring
    system_id: int
    label: str
    attempt: int
    compression: Compression
    level: int


class Packer:
    """`append` and `append_map` say where bytes will lie; `finish` closes the last pack. One thread calls it.

    `ahead` frames are being sealed at most. `added_bytes` counts the sealed bytes of all packs so far. `packed` is told
    each pack that was closed, with its plain and its sealed bytes; it is not durable yet.
    """

    def __init__(
        self, place: PackPlace, channels: Channels, executor: Executor, *, ahead: int,
        packed: Callable[[PackId, int, int], object] = lambda *_: None, pack_size: int = PACK_SIZE,
    ) -> None:  # fmt: skip
        self.added_bytes = 0
        self._place = place
        self._channels = channels
        self._executor = executor
        self._ahead = max(1, ahead)
        self._packed = packed
        self._pack_size = pack_size
        self._number = 0
        self._pack = PackId(place.label, place.attempt, 0)
        self._sealer: ObjectSealer | None = None
        self._parts: list[memoryview] = []
        self._room: memoryview | None = None
        self._shared = False
        self._frame_size = 0
        self._frame_number = 0
        self._sealing: deque[tuple[int, Future[tuple[bytes, FrameEntry]]]] = deque()
        self._pack_bytes = 0
        self._plain_bytes = 0
        self._sealing_bytes = 0

    def append(self, data: memoryview, unit: int) -> list[BlockRun]:
        """Place blocks of `unit` bytes each, the last may be shorter; no block is cut. `data` must not change."""
        runs: list[BlockRun] = []
        while data:
            if self._frame_size and len(data) >= FRAME_SIZE:
                self._seal()  # what fills a frame gets one of its own: nothing is copied then
            room = FRAME_SIZE - self._frame_size
            taken = len(data) if len(data) <= room else room - room % unit
            if not taken:
                self._seal()
                continue
            pack = self._open()
            runs.append(BlockRun(-(-taken // unit), pack, self._frame_number, self._frame_size))
            self._add(data[:taken])
            data = data[taken:]
        return runs

    def _add(self, part: memoryview) -> None:
        """A part of the open frame: what is large as it is, what is small in a frame's room that it shares."""
        begin = self._frame_size
        self._frame_size += len(part)
        if len(part) >= _VIEW:
            self._parts.append(part)
            self._shared = False
            return
        if self._room is None:
            self._room = memoryview(bytearray(FRAME_SIZE))  # whole at once: growing it would copy it again and again
        self._room[begin : self._frame_size] = part
        if self._shared:
            begin -= len(self._parts.pop())
        self._parts.append(self._room[begin : self._frame_size])
        self._shared = True

    def append_map(self, data: bytes) -> MapRef:
        """Place a map chunk."""
        run = self.append(memoryview(data), len(data))[0]
        assert run.pack is not None
        return MapRef(run.pack, run.frame, run.offset, len(data))

    def finish(self) -> None:
        """Seal what is open and close the last pack."""
        self._seal()
        self._close()

    def _open(self) -> PackId:
        """The pack of the open frame; a new one when there is none, or the open one would become too large."""
        if not self._frame_size:
            if self._pack_bytes + self._sealing_bytes >= self._pack_size:
                self._close()
            if self._sealer is None:
                self._begin_pack()
        return self._pack

    def _begin_pack(self) -> None:
        place = self._place
        header = Header(
            Kind.PACK, place.keyring.cipher, place.compression, place.keyring.repository_id, place.keyring.current,
            b"", place.system_id, label=place.label, attempt=place.attempt, number=self._number,
        )  # fmt: skip
        self._sealer = ObjectSealer(place.keyring, header, place.level)
        self._frame_number = 0
        self._pack = PackId(place.label, place.attempt, self._number)
        self._channels.open(self._name())
        self._write(self._sealer.head)

    def _seal(self) -> None:
        if not self._frame_size:
            return
        assert self._sealer is not None
        while len(self._sealing) >= self._ahead:
            self._take_sealed()
        # The buffers now belong to the worker; fresh ones take their place.
        parts, size = self._parts, self._frame_size
        self._parts, self._room, self._shared, self._frame_size = [], None, False, 0
        self._sealing.append((size, self._executor.submit(_seal_frame, self._sealer, self._frame_number, parts)))
        self._sealing_bytes += size
        self._plain_bytes += size
        self._frame_number += 1

    def _take_sealed(self) -> None:
        assert self._sealer is not None
        size, future = self._sealing.popleft()
        sealed, entry = future.result()
        self._sealing_bytes -= size
        self._sealer.append(entry)
        self._write(sealed)

    def _close(self) -> None:
        if self._sealer is None:
            return
        while self._sealing:
            self._take_sealed()
        self._write(self._sealer.finish(self._name()))
        self._channels.commit()
        closed = self._pack, self._plain_bytes, self._pack_bytes
        self._sealer = None
        self._number += 1
        self._pack_bytes = self._plain_bytes = 0
        self._packed(*closed)

    def _write(self, data: bytes) -> None:
        self._channels.write(data)
        self._pack_bytes += len(data)
        self.added_bytes += len(data)

    def _name(self) -> str:
        return pack_name(self._place.system_id, self._pack)


def _seal_frame(sealer: ObjectSealer, number: int, parts: list[memoryview]) -> tuple[bytes, FrameEntry]:
    return sealer.seal_frame(number, parts[0] if len(parts) == 1 else b"".join(parts))
