"""The writer of every store: cuts a stream into parts of one size. Its memory is one part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self

from blake3 import blake3

from replicator.errors import ReplicatorError, UploadLost
from replicator.store.protocol import Driver, Upload


class Guard(Protocol):
    """Makes one request: as it is, or with retries, breaker and bulkhead around it."""

    def __call__(self, request: Callable[[], None], *, what: str) -> None:
        """Call `request`."""
        ...


def plainly(request: Callable[[], None], *, what: str) -> None:  # noqa: ARG001 - the shape of Guard
    """A Guard that adds nothing."""
    request()


class Complete(Protocol):
    """Makes an upload visible; `size` and `digest` (BLAKE3) are of all that was written."""

    def __call__(self, upload: Upload, name: str, *, size: int, digest: bytes) -> None:
        """Call `upload.complete`."""
        ...


def completely(upload: Upload, name: str, *, size: int, digest: bytes) -> None:  # noqa: ARG001 - the shape of Complete
    """A Complete that adds nothing."""
    upload.complete()


class PartWriter:
    """An ObjectWriter over a driver. An object of less than a part goes by `put`, the rest as an upload in parts.

    `guard` surrounds each request, `put` and `complete` are the calls that make the object visible.
    """

    def __init__(
        self,
        driver: Driver,
        name: str,
        *,
        guard: Guard = plainly,
        put: Callable[[str, bytes], None] | None = None,
        complete: Complete = completely,
    ) -> None:
        self._driver = driver
        self._name = name
        self._guard = guard
        self._put = put if put is not None else driver.put
        self._complete = complete
        self._digest = blake3()
        self._size = driver.part_size
        self._chunks: list[bytes | memoryview] = []
        self._held = 0
        self._upload: Upload | None = None
        self._parts = self._written = 0
        self._ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; sends every part that is full. After an error only `abort` makes sense."""
        self._check()
        if isinstance(data, bytes) and len(data) == self._size and not self._held:
            self._send(data)  # as it is: no copy
            return
        view = memoryview(data).cast("B")
        while view:
            taken = min(len(view), self._size - self._held)
            part = view[:taken]
            self._chunks.append(part if isinstance(data, bytes) else bytes(part))  # what may change is copied
            self._held += taken
            view = view[taken:]
            if self._held == self._size:
                self._send(self._taken())

    def commit(self) -> None:
        """Make the object visible and durable. Raises AlreadyExists."""
        self._check()
        if self._upload is None:
            self._put(self._name, self._taken())
        else:
            if self._held:
                self._send(self._taken())
            self._complete(self._upload, self._name, size=self._written, digest=self._digest.digest())
        self._ended = True

    def abort(self) -> None:
        """Forget what was written."""
        upload, self._upload = self._upload, None
        ended, self._ended = self._ended, True
        self._taken()
        if upload is not None and not ended:
            upload.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _check(self) -> None:
        if self._ended:
            raise UploadLost(f"{self._name}: the writer has ended")

    def _taken(self) -> bytes:
        """What is held, as one; nothing is held afterwards."""
        first = self._chunks[0] if len(self._chunks) == 1 else None
        data = first if isinstance(first, bytes) else b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        return data

    def _send(self, data: bytes) -> None:
        self._digest.update(data)
        if self._upload is None:
            self._guard(self._begin, what=f"begin {self._name}")
        upload, number = self._upload, self._parts
        if upload is None:
            raise UploadLost(f"{self._name}: the upload did not begin")
        offset = number * self._size
        try:
            self._guard(lambda: upload.part(number, offset, data), what=f"write {self._name}")
        except ReplicatorError:
            self.abort()
            raise
        self._parts += 1
        self._written += len(data)

    def _begin(self) -> None:
        self._upload = self._driver.upload(self._name)
