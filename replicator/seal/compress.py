"""Compression of frames. Releases the GIL; one call handles up to a frame."""

from __future__ import annotations

from threading import local

from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

from replicator.errors import IntegrityError
from replicator.seal.digest import Bytes
from replicator.seal.header import FRAME_SIZE, Compression

_UNKNOWN = -1


class _Coder(local):
    """Each thread's encoder, of the level used last, and decoder: new ones ask the system for megabytes."""

    def __init__(self) -> None:
        self._level = 0
        self._encoder = ZstdCompressor()
        self.decoder = ZstdDecompressor(max_window_size=4 * FRAME_SIZE)

    def compress(self, level: int, plain: Bytes) -> bytes:
        """One frame, the same bytes as from a new encoder."""
        if level != self._level:
            self._encoder, self._level = ZstdCompressor(level), level
        return self._encoder.compress(plain)


_coder = _Coder()


def compress(kind: Compression, level: int, plain: Bytes) -> bytes:
    """The compressed bytes of one frame."""
    if kind is Compression.NONE:
        return bytes(plain)
    return _coder.compress(level, plain)


def decompress(kind: Compression, data: Bytes, plain_size: int) -> bytes:
    """The plain bytes, exactly `plain_size`, and never more produced than that. Raises IntegrityError."""
    if kind is Compression.NONE:
        plain = bytes(data)
    else:
        try:
            _check_said(data, plain_size)
            plain = _coder.decoder.decompress(data, max_output_size=plain_size, allow_extra_data=False)
        except ZstdError as error:
            raise IntegrityError("a frame that does not decompress") from error
    if len(plain) != plain_size:
        raise _other(len(plain), plain_size)
    return plain


def decompress_into(kind: Compression, data: Bytes, room: memoryview) -> None:
    """As `decompress`, into `room`, whose length is the plain size. Raises IntegrityError."""
    if kind is Compression.NONE:
        if len(data) != len(room):
            raise _other(len(data), len(room))
        room[:] = data
        return
    try:
        _check_said(data, len(room))
        with _coder.decoder.stream_reader(data) as reader:
            held = reader.readinto(room)
            if held == len(room) and reader.read(1):
                raise IntegrityError(f"a frame of more bytes than the {held} that the table says")
    except ZstdError as error:
        raise IntegrityError("a frame that does not decompress") from error
    if held != len(room):
        raise _other(held, len(room))


def _check_said(data: Bytes, size: int) -> None:
    """Raise IntegrityError when a frame says another size than the table. One that says its size, as ours do, is
    decoded in one go into the room for it, and nothing is copied twice. Raises ZstdError.
    """
    said = frame_content_size(data)
    if said not in (size, _UNKNOWN):
        raise _other(said, size)


def _other(found: int, told: int) -> IntegrityError:
    return IntegrityError(f"a frame of {found} bytes where the table says {told}")
