"""A multipart upload. Knows boto3's client by its type alone; its store makes and translates the requests."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from replicator.errors import ReplicatorError, StoreMisconfigured, StoreUnavailable, UploadLost
from replicator.store.body import md5_argument

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log = logging.getLogger(__name__)
_MOST_PARTS = 10_000
#: The two requests that make an object visible.
PUT = "put"
COMPLETE = "complete"


class _Owner(Protocol):
    """What an upload needs of its store."""

    @property
    def name(self) -> str: ...

    @property
    def sends_md5(self) -> bool: ...

    def translated(self, doing: str) -> AbstractContextManager[None]: ...

    def refuse_taken(self, name: str, kind: str) -> None: ...

    def refuse_taken_now(self, name: str) -> None: ...

    def extend_lock(self, name: str) -> None: ...

    def create(self, name: str, kind: str, request: Any, **arguments: Any) -> None: ...


class S3Upload:
    """Parts numbered from 1 as S3 does; sending a part again replaces it."""

    def __init__(
        self, store: _Owner, client: S3Client, bucket: str, key: str, name: str, upload_id: str, *, locked: bool = False
    ) -> None:
        self._store = store
        self._client = client
        self._bucket = bucket
        self._key = key
        self._name = name
        self._id = upload_id
        self._md5 = store.sends_md5 or locked  # S3 demands it of what is locked
        self._parts: dict[int, str] = {}

    def part(self, number: int, offset: int, data: bytes) -> None:  # noqa: ARG002 - S3 orders by number
        """Send one part. Raises UploadLost when the server no longer knows the upload."""
        if number >= _MOST_PARTS:
            raise StoreMisconfigured(f"store {self._store.name}: {self._name} has more than {_MOST_PARTS} parts")
        with self._store.translated(f"write {self._name}"):
            sent = self._client.upload_part(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._id,
                PartNumber=number + 1,
                Body=data,
                **(md5_argument(data) if self._md5 else {}),
            )
        if not sent.get("ETag"):
            raise StoreUnavailable(f"store {self._store.name}: the answer about {self._name} broke off")
        self._parts[number + 1] = sent["ETag"]

    def complete(self) -> None:
        """Make the object visible. Raises AlreadyExists; UploadLost when neither the parts nor the object are there."""
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": tag} for number, tag in sorted(self._parts.items())
        ]
        self._store.refuse_taken(self._name, COMPLETE)
        try:
            self._store.create(
                self._name,
                COMPLETE,
                self._client.complete_multipart_upload,
                Key=self._key,
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
            )
        except UploadLost:
            self._store.refuse_taken_now(self._name)  # an earlier try was answered into a cut line
            raise
        self._store.extend_lock(self._name)  # some servers forget the lock that the upload was begun with

    def abort(self) -> None:
        """Forget the parts. A bucket's lifecycle rule must take what can't be aborted now."""
        try:
            with self._store.translated(f"abort {self._name}"):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._id)
        except ReplicatorError as error:
            if not isinstance(error, UploadLost):
                _log.warning("store %s keeps parts of %s: %s", self._store.name, self._name, error.message)
