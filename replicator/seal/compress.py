"""Compression of frames. Releases the GIL; one call handles up to a frame."""

from __future__ import annotations

import sys

from replicator.errors import IntegrityError
from replicator.seal.digest import Bytes
from replicator.seal.header import Compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def compress(kind: Compression, level: int, plain: Bytes) -> bytes:
    """The compressed bytes of one frame."""
    if kind is Compression.NONE:
        return bytes(plain)
    return zstd.compress(plain, level)


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
