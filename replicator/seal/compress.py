"""Compression of frames. Releases the GIL; one call handles up to a frame."""

from __future__ import annotations

import sys
from threading import local

from replicator.errors import IntegrityError
from replicator.seal.digest import Bytes
from replicator.seal.header import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class _Encoder(local):
    """Each thread's encoder of the level used last: a new one for each frame asks the system for megabytes."""

    def __init__(self) -> None:
        self._level = 0
        self._encoder = zstd.ZstdCompressor()

    def compress(self, level: int, plain: Bytes) -> bytes:
        """One frame, the same bytes as from a new encoder."""
        if level != self._level:
            self._encoder, self._level = zstd.ZstdCompressor(level), level
        try:
            return self._encoder.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
        except BaseException:
            self._level = 0  # what it holds of a frame must not begin the next one
            raise


_encoder = _Encoder()


def compress(kind: Compression, level: int, plain: Bytes) -> bytes:
    """The compressed bytes of one frame."""
    if kind is Compression.NONE:
        return bytes(plain)
    return _encoder.compress(level, plain)


def decompress(kind: Compression, data: Bytes, plain_size: int) -> bytes:
    """The plain bytes, exactly `plain_size`, and never more produced than that. Raises IntegrityError."""
    if kind is Compression.NONE:
        plain = bytes(data)
    else:
        decoder = zstd.ZstdDecompressor()
        try:
            plain = decoder.decompress(data, max_length=plain_size + 1)
        except zstd.ZstdError as error:
            raise IntegrityError("a frame that does not decompress") from error
    if len(plain) != plain_size:
        raise IntegrityError(f"a frame of {len(plain)} bytes where the table says {plain_size}")
    return plain


#: What one call of the decoder may produce: so little stays in the processor's cache and is taken from no system call.
_PIECE = 32_768


def decompress_into(kind: Compression, data: Bytes, room: memoryview) -> None:
    """As `decompress`, into `room`, whose length is the plain size. Raises IntegrityError."""
    if kind is Compression.NONE:
        if len(data) != len(room):
            raise IntegrityError(f"a frame of {len(data)} bytes where the table says {len(room)}")
        room[:] = data
        return
    decoder = zstd.ZstdDecompressor()
    held = 0
    try:
        while not decoder.eof:
            piece = decoder.decompress(data, max_length=_PIECE)
            data = b""
            if held + len(piece) > len(room):
                raise IntegrityError(f"a frame of more bytes than the {len(room)} that the table says")
            if not piece and decoder.needs_input:
                break
            room[held : held + len(piece)] = piece
            held += len(piece)
    except zstd.ZstdError as error:
        raise IntegrityError("a frame that does not decompress") from error
    if held != len(room):
        raise IntegrityError(f"a frame of {held} bytes where the table says {len(room)}")
