"""Which bytes of which packs a snapshot needs: counted per file, kept in a take's memory as rows of 32 bytes.

Owns the counting. Pure: what follows from it is decided elsewhere.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping

from replicator.repository.blockmap import MapChunk
from replicator.repository.layout import PackId
from replicator.repository.manifests import FileEntry, MapRef

_ROW = struct.Struct(">16sII")
_LIVE = struct.Struct(">16sIIQ")


def add_chunk(live: Counter[PackId], chunk: MapChunk, named: bytes | MapRef, block_size: int) -> None:
    """Count a chunk's blocks, and the chunk itself where it lies in a pack."""
    blocks: dict[int, int] = {}
    packs: dict[int, PackId] = {}
    for run in chunk.runs:
        if run.pack is not None:  # one object stands for many runs
            key = id(run.pack)
            packs[key] = run.pack
            blocks[key] = blocks.get(key, 0) + run.blocks
    for key, pack in packs.items():
        live[pack] += blocks[key] * block_size
    if isinstance(named, MapRef):
        live[named.pack] += named.length


def live_bytes(entry: FileEntry, chunks: Iterable[bytes]) -> Counter[PackId]:
    """The plain bytes that a file needs of each pack, whole blocks each. Raises IntegrityError."""
    live: Counter[PackId] = Counter()
    for named, data in zip(entry.chunks, chunks, strict=True):
        add_chunk(live, MapChunk.parse(data), named, entry.block_size)
    return live


def pack_row(pack: PackId) -> bytes:
    """A pack as 24 bytes."""
    return _ROW.pack(pack.label.encode("ascii"), pack.attempt, pack.number)


def parse_pack_row(row: bytes) -> PackId:
    """The reverse. Raises struct.error, UnicodeDecodeError."""
    label, attempt, number = _ROW.unpack(row)
    return PackId(label.decode("ascii"), attempt, number)


def pack_live(live: Mapping[PackId, int]) -> bytes:
    """Packs and the bytes needed of each."""
    return b"".join(_LIVE.pack(pack.label.encode("ascii"), pack.attempt, pack.number, live[pack]) for pack in live)


def parse_live(data: bytes) -> dict[PackId, int]:
    """The reverse. Raises struct.error, UnicodeDecodeError."""
    return {
        PackId(label.decode("ascii"), attempt, number): count
        for label, attempt, number, count in _LIVE.iter_unpack(data)
    }
