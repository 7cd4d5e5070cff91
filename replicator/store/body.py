"""The body of a put: bytes or a file, its size, and the Content-MD5 that an S3 server is asked to check."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from replicator.store.files import open_body

_BLOCK = 1 << 20


def md5_argument(data: bytes) -> dict[str, Any]:
    """The argument of one part. Guards the way to the disk, not against an adversary: sealed objects are signed."""
    return {"ContentMD5": _header(hashlib.md5(data, usedforsecurity=False).digest())}


def _header(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


class Body:
    """A seekable source of known size."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source = source
        self.size = size

    def read(self, length: int) -> bytes:
        """The next bytes; empty at the end."""
        return self._source.read(length)

    def arguments(self, *, md5: bool) -> dict[str, Any]:
        """The arguments of one put: the content is streamed, never held whole."""
        if not md5:
            return {"Body": self._source, "ContentLength": self.size}
        digest = hashlib.md5(usedforsecurity=False)
        while data := self._source.read(_BLOCK):
            digest.update(data)
        self._source.seek(0)
        return {"Body": self._source, "ContentLength": self.size, "ContentMD5": _header(digest.digest())}


@contextmanager
def open_file(path: Path) -> Iterator[Body]:
    """A file's body. Raises HostLacks when it can't be opened."""
    with open_body(path) as source:
        yield Body(source, os.fstat(source.fileno()).st_size)


@contextmanager
def open_bytes(data: bytes) -> Iterator[Body]:
    """A body of bytes."""
    yield Body(BytesIO(data), len(data))
