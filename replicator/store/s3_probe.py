"""Probing an S3 endpoint with throw-away objects: what it really honours, not what it says.

Owns the requests and their cleaning up. Every object has a random name, is small, and is removed at the end, version
and all where the credentials allow.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from replicator.errors import AlreadyExists, ReplicatorError, StoreDenied, StoreMisconfigured, StoreUnavailable
from replicator.store.answers import is_unsupported
from replicator.store.probe import Observation
from replicator.store.s3 import translated
from replicator.store.s3_lock import MODE

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_BODY = b"0123456789"
_OTHER = b"another's."
#: Seconds of the lock that is tried.
_LOCK_S = 3
#: Clocks that differ by more are worth knowing; requests are refused at 15 minutes.
_SKEW_S, _SKEW_MOST_S = 5.0, 300.0
_KNOWS = "Use a server that honours If-None-Match, or make sure that no two hosts write this cluster."


@dataclass
class Prober:
    """One probe of one bucket; `prefix` is the key before the random names. `locks`: the policy asks for a lock."""

    store: str
    client: S3Client
    bucket: str
    prefix: str
    locks: bool
    _made: list[tuple[str, str | None]] = field(default_factory=list)
    _skew_s: float = 0.0
    _deletes: bool = True

    def run(self) -> list[Observation]:
        """Everything. Raises StoreUnavailable and its kinds for a store that can't be used at all."""
        try:
            found = list(self._rights())
            for step in (self._create_only, self._ranges, self._checksums, self._listing, self._parts):
                found += step() if self._deletes else ()
            if self.locks and self._deletes:  # who may not delete can't tell whether a lock holds
                found += self._lock()
            return found
        finally:
            self._clean()

    def _name(self) -> str:
        return f"{self.prefix}{secrets.token_hex(8)}"

    def _put(self, key: str, body: bytes = _BODY, **arguments: Any) -> dict[str, Any]:
        try:
            with translated(self.store, "write a probe"):
                done = self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **arguments)
        except StoreUnavailable:
            self._made.append((key, None))  # it may be there all the same
            raise
        self._made.append((key, done.get("VersionId")))
        return dict(done)

    def _get(self, key: str, **arguments: Any) -> bytes:
        with translated(self.store, "read a probe"):
            answered = self.client.get_object(Bucket=self.bucket, Key=key, **arguments)
            return bytes(answered["Body"].read())

    def _rights(self) -> Iterator[Observation]:
        """May we put, read and delete; and is the clock ours? Without the right to delete nothing more is put."""
        key, before = self._name(), time.time()
        headers = self._put(key)["ResponseMetadata"].get("HTTPHeaders", {})
        yield from self._clock(str(headers.get("date", "")), before, time.time())
        if self._get(key) != _BODY:
            yield self._wrong("read_after_write", "an object is read otherwise than it was written")
        try:
            with translated(self.store, "delete a probe"):
                done = self.client.delete_object(Bucket=self.bucket, Key=key)
            if done.get("DeleteMarker"):
                self._made.append((key, done.get("VersionId")))
        except StoreDenied:
            self._deletes = False
            yield Observation(
                "delete_refused",
                f"store {self.store}: the credentials may not delete, so pieces stay for good",
                "Allow s3:DeleteObject for pieces and probes; `replicator check --print s3-policy` writes it down.",
            )

    def _clock(self, date: str, before: float, after: float) -> Iterator[Observation]:
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        self._skew_s = theirs - (before + after) / 2
        if abs(self._skew_s) > _SKEW_S + (after - before):
            yield Observation(
                "clock_skew",
                f"store {self.store}: its clock is {abs(self._skew_s):.0f} s"
                f" {'ahead of' if self._skew_s > 0 else 'behind'} this host's",
                "Let both keep time by NTP: requests are refused when clocks differ by a quarter of an hour.",
                wrong=abs(self._skew_s) > _SKEW_MOST_S,
            )

    def _create_only(self) -> Iterator[Observation]:
        key = self._name()
        self._put(key)
        try:
            self._put(key, _OTHER, IfNoneMatch="*")
        except AlreadyExists:
            return
        except (StoreMisconfigured, StoreUnavailable) as error:
            if not is_unsupported(error):
                raise
        how = "overwrites an object in spite of If-None-Match" if self._get(key) == _OTHER else "refuses If-None-Match"
        text = f"store {self.store}: the server {how}; replicator looks first, but two hosts at once are not kept apart"
        yield Observation("create_only", text, _KNOWS)

    def _ranges(self) -> Iterator[Observation]:
        key = self._name()
        self._put(key)
        for span, expected in (("bytes=3-6", b"3456"), ("bytes=-4", b"6789")):
            found = self._get(key, Range=span)
            if found != expected:
                yield self._wrong("ranges", f"the range {span} of an object brings {len(found)} bytes of {len(_BODY)}")

    def _checksums(self) -> Iterator[Observation]:
        key = self._name()
        wrong = b64encode(hashlib.md5(_OTHER, usedforsecurity=False).digest()).decode("ascii")
        try:
            self._put(key, ContentMD5=wrong)
        except ReplicatorError:
            return
        yield Observation(
            "checksums",
            f"store {self.store}: the server takes a body whose Content-MD5 is another's",
            "What is damaged on its way in is found when it is read; run `replicator verify --objects` more often.",
        )

    def _listing(self) -> Iterator[Observation]:
        folder = f"{self._name()}/"
        names = [f"{folder}{name}" for name in ("b", "a", "A", "_")]
        for key in names:
            self._put(key)
        listed = self._list(folder)
        if sorted(listed) != sorted(names):
            yield self._wrong("list_after_write", "a listing lacks objects that were just written")
        elif listed != sorted(names):
            yield self._wrong("list_order", "a listing is not in the order of the names' bytes")
        if self._list(folder, StartAfter=sorted(names)[1])[:2] != sorted(names)[2:]:
            yield Observation(
                "start_after",
                f"store {self.store}: the server ignores StartAfter, so listings are read from their beginning",
                "That is well for small repositories and slow for large ones.",
            )

    def _list(self, folder: str, **arguments: Any) -> list[str]:
        with translated(self.store, "list probes"):
            page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=folder, **arguments)
        return [item["Key"] for item in page.get("Contents", ())]

    def _parts(self) -> Iterator[Observation]:
        key = self._name()
        where: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        upload: str | None = None
        try:
            with translated(self.store, "write a probe in parts"):
                upload = self.client.create_multipart_upload(**where)["UploadId"]
                tag = self.client.upload_part(**where, UploadId=upload, PartNumber=1, Body=_BODY)["ETag"]
                done = self.client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": 1}]}
                )
            self._made.append((key, done.get("VersionId")))
        except StoreUnavailable as error:
            self._made.append((key, None))
            if upload is not None:
                with suppress(ReplicatorError), translated(self.store, "abort a probe"):
                    self.client.abort_multipart_upload(**where, UploadId=upload)
            yield self._wrong("multipart", f"an object can not be written in parts ({error.message})")
            return
        if self._get(key) != _BODY:
            yield self._wrong("multipart", "an object written in parts is read otherwise")

    def _lock(self) -> Iterator[Observation]:
        """Lock an object for a moment and try to delete it; then wait for the lock's end, so that it can be removed."""
        key = self._name()
        until = datetime.now(UTC) + timedelta(seconds=_LOCK_S + self._skew_s)
        md5 = b64encode(hashlib.md5(_BODY, usedforsecurity=False).digest()).decode("ascii")
        done = self._put(key, ContentMD5=md5, ObjectLockMode=MODE, ObjectLockRetainUntilDate=until)
        version = done.get("VersionId")
        try:
            with translated(self.store, "delete a locked probe"):
                self.client.delete_object(Bucket=self.bucket, Key=key, **({"VersionId": version} if version else {}))
        except StoreUnavailable:
            time.sleep(max(0.0, (until - datetime.now(UTC)).total_seconds() - self._skew_s) + 0.5)
            return
        yield self._wrong("object_lock", "a locked object was deleted: the server takes locks and does not keep them")

    def _wrong(self, code: str, what: str) -> Observation:
        hint = "Use another S3 server: without this a repository in the store can't be relied on."
        return Observation(code, f"store {self.store}: {what}", hint, wrong=True)

    def _clean(self) -> None:
        """Remove what was put, by version first: a bucket with versions would keep it otherwise."""
        for key, version in self._made:
            tries: list[dict[str, Any]] = [{"VersionId": version}, {}] if version else [{}]
            for arguments in tries:
                with suppress(ReplicatorError), translated(self.store, "delete a probe"):
                    self.client.delete_object(Bucket=self.bucket, Key=key, **arguments)
                    break
