"""One read of an S3 object: a GET, gone on with where its body broke off."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from replicator.errors import StoreMisconfigured, StoreUnavailable
from replicator.store.s3 import translated

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_CHUNK = 4 << 20
_RESUMED = 8


class Reading:
    """A read of `key`, or of its `version`. What came before a break is kept, and an object that changed meanwhile is
    not mixed in.
    """

    def __init__(
        self, store: str, client: S3Client, bucket: str, key: str, name: str, version: str | None = None
    ) -> None:
        self._store = store
        self._client = client
        self._where = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version is not None else {})}
        self._name = name

    def read(self, span: str | None) -> tuple[bytes, int]:
        """The bytes of a Range header's `span` (all without), and the object's size. A break with no progress raises
        StoreUnavailable.
        """
        answered = self._get(span)
        size, first = self._span(answered)
        if span and "ContentRange" not in answered and size:
            self._require_whole(span, size)
        length = self._told(answered, "ContentLength")
        tag = answered.get("ETag")
        parts: list[bytes] = []
        held = self._drain(answered["Body"], parts, length)
        for _ in range(_RESUMED):
            if held == length:
                break
            answered = self._get(f"bytes={first + held}-{first + length - 1}")
            if answered.get("ETag") != tag or self._span(answered) != (size, first + held):
                answered["Body"].close()
                break
            came = self._drain(answered["Body"], parts, length - held)
            if not came:
                break
            held += came
        if held != length:
            raise StoreUnavailable(f"store {self._store}: {self._name} broke off after {held} of {length} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts), size

    def stat(self) -> tuple[int, datetime]:
        """Size and time of change, from a read of the first byte.

        Not from HEAD: a line cut within the head of an answer looks like a whole one with fewer or shorter fields. The
        byte that follows proves the head, and an error's body tells a missing object from a missing bucket.
        """
        answered = self._get("bytes=0-0")
        size, _ = self._span(answered)
        if size and self._told(answered, "ContentLength") != 1:
            self._require_whole("bytes=0-0", size)
        if size and self._drain(answered["Body"], [], 1) != 1:
            raise self._cut_off()
        return size, self._told(answered, "LastModified")

    def _span(self, answered: dict[str, Any]) -> tuple[int, int]:
        """Of a GET's answer: the object's size, and where the body begins in it."""
        told = answered.get("ContentRange")
        if told is None:
            return self._told(answered, "ContentLength"), 0
        span, _, size = str(told).removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if not (size.isdecimal() and first.isdecimal()):
            raise self._cut_off()
        return int(size), int(first)

    def _told(self, answered: dict[str, Any], field: str) -> Any:
        if field not in answered:
            raise self._cut_off()
        return answered[field]

    def _cut_off(self) -> StoreUnavailable:
        return StoreUnavailable(f"store {self._store}: the answer about {self._name} broke off", store=self._store)

    def _get(self, span: str | None) -> dict[str, Any]:
        asked: dict[str, Any] = {**self._where, "Range": span} if span else dict(self._where)
        with translated(self._store, f"read {self._name}"):
            return dict(self._client.get_object(**asked))

    def _drain(self, body: Any, parts: list[bytes], length: int) -> int:
        """Append up to `length` bytes to `parts`; how many came before the end or a break."""
        held = 0
        try:
            with translated(self._store, f"read {self._name}"), body:
                while held < length and (part := body.read(min(_CHUNK, length - held))):
                    parts.append(part)
                    held += len(part)
        except StoreUnavailable as error:
            if not (error.retryable and held):
                raise
        return held

    def _require_whole(self, span: str, size: int) -> None:
        """A server may answer a range with the whole object only when the range is all of it."""
        start, _, end = span.removeprefix("bytes=").partition("-")
        whole = int(end) >= size if not start else int(start) == 0 and (not end or int(end) >= size - 1)
        if not whole:
            raise StoreMisconfigured(
                f"store {self._store}: the server ignores ranges", hint="Use a server that honours ranged reads."
            )
