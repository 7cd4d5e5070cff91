"""An S3 bucket as a store.

Owns which requests make a create-only put. Never retries (its wrapper does), and never trusts a server to refuse an
overwrite before it has shown that it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

from replicator.errors import AlreadyExists, ObjectAbsent, ReplicatorError, StoreMisconfigured, StoreUnavailable
from replicator.store import s3_bucket, s3_lock
from replicator.store.answers import is_beyond, is_conflict, is_unsupported
from replicator.store.body import Body, open_bytes, open_file
from replicator.store.locks import Lock
from replicator.store.names import OddNames, validate_name, validate_prefix
from replicator.store.probe import Observation
from replicator.store.protocol import ObjectInfo, ObjectWriter, Properties
from replicator.store.s3 import make_client, translated
from replicator.store.s3_probe import Prober
from replicator.store.s3_read import Reading
from replicator.store.s3_upload import COMPLETE, PUT, S3Upload
from replicator.store.writer import PartWriter

_WHOLE = 16 << 20
_CREATING = frozenset({PUT, COMPLETE})


class S3Store:
    """A store in `bucket`, below `prefix` ("" or "a/b"). Timeouts in seconds.

    With keys given nothing else is looked at: no ~/.aws, no AWS_ variables, no instance metadata. Without keys the
    usual AWS chain finds them. With an `endpoint` the bucket stands in the path. `most` connections are kept. `lock`:
    the Object Lock that every object is created under.
    """

    part_size = 8 << 20

    def __init__(
        self,
        name: str,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        ca: Path | None = None,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        most: int = 8,
        lock: Lock | None = None,
    ) -> None:
        self._name = name
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._odd = OddNames(name)
        self._lock = lock
        self._version: tuple[str, str] | None = None
        # AWS is known to honour If-None-Match; any other server has to show it, for each of the two requests.
        self._proven = set(_CREATING) if endpoint is None else set()
        self._conditional = True
        # Over plain HTTP the signature covers a SHA-256 of the body already; over TLS it doesn't.
        self.sends_md5 = not (endpoint or "").startswith("http://")
        if ca is not None and not ca.is_file():
            raise StoreMisconfigured(
                f"store {name}: there is no file {ca}", hint="Correct the `ca` of the store in the policy.", store=name
            )
        with self.translated("use the endpoint"):
            try:
                self._client = make_client(
                    endpoint, region, (access_key, secret_key), ca, (connect_timeout, read_timeout), most
                )
            except ValueError as error:
                raise StoreMisconfigured(
                    f"store {name}: endpoint {endpoint!a} or region {region!a} is none",
                    hint="Write the endpoint as https://s3.example.org.",
                ) from error

    @property
    def name(self) -> str:
        """The policy's name of the store."""
        return self._name

    @property
    def properties(self) -> Properties:
        """`create_only` is said of AWS, and of a server that has refused an overwrite since we talk to it."""
        return Properties(create_only=self._proven >= _CREATING, ranged=True)

    def prepare(self) -> None:
        """Raise StoreMisconfigured when the bucket isn't there, or its Object Lock doesn't fit. It is never made: its
        settings are its owner's.
        """
        s3_bucket.require_bucket(self._name, self._client, self._bucket)
        s3_bucket.check_lock(self._name, self._client, self._bucket, wanted=self._lock is not None)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset + length), cut at the object's end. Raises ObjectAbsent."""
        if length is not None and length <= 0:
            self.stat(name)
            return b""
        end = "" if length is None else str(offset + length - 1)
        try:
            return self._read(name, f"bytes={offset}-{end}" if offset or length is not None else None)[0]
        except ReplicatorError as error:
            if not is_beyond(error):
                raise
            return b""

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """The last `length` bytes, or all if there are fewer, and the object's size. Raises ObjectAbsent."""
        if length <= 0:
            return b"", self.stat(name).size
        try:
            return self._read(name, f"bytes=-{length}")
        except ReplicatorError as error:
            if not is_beyond(error):
                raise
        # Some servers refuse a suffix that is longer than the object, and all of them one of an empty object.
        try:
            data, size = self._read(name, f"bytes=0-{length - 1}")
        except ReplicatorError as error:
            if not is_beyond(error):
                raise
            return b"", self.stat(name).size
        return (data, size) if size <= length else self._read(name, f"bytes={size - length}-")

    def stat(self, name: str) -> ObjectInfo:
        """Facts of one object. Raises ObjectAbsent."""
        try:
            size, modified = self._reading(name).stat()
        except ReplicatorError as error:
            if not is_beyond(error):
                raise
            # An empty object has no first byte.
            with self.translated(f"look at {name}"):
                head = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
            size, modified = 0, head["LastModified"]
        return ObjectInfo(name, size, modified)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` and sorts after `after`, ascending bytewise, page by page."""
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + validate_prefix(prefix)}
        last = after
        if after:
            asked["StartAfter"] = self._prefix + after
        while True:
            with self.translated("list it"):
                page = self._client.list_objects_v2(**asked)
            if "IsTruncated" not in page:
                raise StoreUnavailable(f"store {self._name}: the listing broke off", store=self._name)
            for item in page.get("Contents", ()):
                name = item["Key"][len(self._prefix) :]
                # `after` again: some servers don't know StartAfter.
                if name <= after or not item["Key"].startswith(self._prefix) or self._odd.skip(name):
                    continue
                if name <= last:
                    raise StoreMisconfigured(
                        f"store {self._name}: the server lists names out of order",
                        hint="Use a server that lists in the order of the names' bytes.",
                    )
                last = name
                yield ObjectInfo(name, item["Size"], item["LastModified"])
            if not page["IsTruncated"]:
                return
            if not page.get("NextContinuationToken"):
                raise StoreMisconfigured(f"store {self._name}: the server breaks its listing off")
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def put(self, name: str, body: bytes | Path) -> None:
        """Create an object: visible as a whole, durable on return. Raises AlreadyExists."""
        key = self._key(name)
        self.refuse_taken(name, PUT)
        with open_file(body) if isinstance(body, Path) else open_bytes(body) as content:
            if content.size > _WHOLE:
                self._put_parts(name, content)
                return
            until = self._locked_until(name)
            sent = content.arguments(md5=self.sends_md5 or until is not None)  # S3 demands it where a lock is asked for
            self.create(name, PUT, self._client.put_object, Key=key, **sent, **s3_lock.arguments(until))

    def writer(self, name: str) -> ObjectWriter:
        """Create an object from a stream."""
        return PartWriter(self, validate_name(name))

    def upload(self, name: str) -> S3Upload:
        """Begin a multipart upload. Raises AlreadyExists."""
        key = self._key(name)
        self.refuse_taken(name, COMPLETE)
        with self.translated(f"write {name}"):
            until = self._locked_until(name)
            begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=key, **s3_lock.arguments(until))
        if not begun.get("UploadId"):
            raise StoreUnavailable(f"store {self._name}: the answer about {name} broke off", store=self._name)
        return S3Upload(self, self._client, self._bucket, key, name, begun["UploadId"], locked=until is not None)

    def delete(self, name: str) -> None:
        """Remove an object; well when it isn't there. Raises StoreDenied when refused."""
        key = self._key(name)
        try:
            with self.translated(f"delete {name}"):
                self._client.delete_object(Bucket=self._bucket, Key=key)
        except ObjectAbsent:
            s3_bucket.require_bucket(self._name, self._client, self._bucket)

    def free(self, name: str) -> datetime | None:
        """Delete every content of a name; the end of the lock that keeps one of them, None when all are gone."""
        if self._lock is not None:
            return s3_lock.free(self._name, self._client, self._bucket, self._key(name), name)
        self.delete(name)
        return None

    @property
    def locks(self) -> bool:
        """Whether objects are locked."""
        return self._lock is not None

    def extend_lock(self, name: str) -> None:
        """Keep an object that is there for the whole lock time from now. Raises ObjectAbsent, StoreDenied."""
        until = self._locked_until(name)
        if until is not None:
            where = {"Bucket": self._bucket, "Key": self._key(name)}
            s3_lock.extend_all(self._name, self._client, where, name, until)

    def earlier(self, name: str) -> Iterator[S3Store]:
        """The store with each earlier content of `name` in its place, oldest first; it is for reading."""
        for version in s3_lock.versions(self._name, self._client, self._bucket, self._key(name), name):
            found = copy(self)
            found._version = (name, version)
            yield found

    def probe(self, folder: str) -> Sequence[Observation]:
        """Find out what the server honours, with throw-away objects below `folder`."""
        s3_bucket.check_lock(self._name, self._client, self._bucket, wanted=self.locks)
        return Prober(self._name, self._client, self._bucket, self._prefix + folder, self.locks).run()

    def _locked_until(self, name: str) -> datetime | None:
        return self._lock.until() if self._lock is not None and self._lock.holds(name) else None

    def refuse_taken(self, name: str, kind: str) -> None:
        """Look first, where the server has not shown that it refuses to overwrite. Raises AlreadyExists."""
        if kind not in self._proven:
            self.refuse_taken_now(name)

    def create(self, name: str, kind: str, request: Any, **arguments: Any) -> None:
        """Make the request that makes `name` visible, with If-None-Match where the server knows it. Raises
        AlreadyExists.
        """
        doing = f"write {name}"
        if self._conditional:
            arguments["IfNoneMatch"] = "*"
        try:
            with self.translated(doing):
                request(Bucket=self._bucket, **arguments)
        except AlreadyExists:
            self._proven.add(kind)
            raise self._exists(name) from None
        except ReplicatorError as error:
            if is_conflict(error):
                self.refuse_taken_now(name)
            if not (self._conditional and is_unsupported(error)):
                raise
            self._conditional = False
            arguments.pop("IfNoneMatch")
            _rewind(arguments.get("Body"))
            self.refuse_taken_now(name)
            with self.translated(doing):
                request(Bucket=self._bucket, **arguments)

    def refuse_taken_now(self, name: str) -> None:
        """Look, whatever the server guarantees. Raises AlreadyExists."""
        try:
            self.stat(name)
        except ObjectAbsent:
            return
        raise self._exists(name)

    def translated(self, doing: str) -> AbstractContextManager[None]:
        """Turn what boto3 raises into this store's errors."""
        return translated(self._name, doing)

    def _read(self, name: str, span: str | None) -> tuple[bytes, int]:
        return self._reading(name).read(span)

    def _reading(self, name: str) -> Reading:
        version = self._version[1] if self._version is not None and self._version[0] == name else None
        return Reading(self._name, self._client, self._bucket, self._key(name), name, version)

    def _put_parts(self, name: str, content: Body) -> None:
        with self.writer(name) as writer:
            while part := content.read(self.part_size):
                writer.write(part)
            writer.commit()

    def _key(self, name: str) -> str:
        return self._prefix + validate_name(name)

    def _exists(self, name: str) -> AlreadyExists:
        return AlreadyExists(f"store {self._name} already holds {name}", store=self._name, object=name)


def _rewind(body: Any) -> None:
    """A body that a refused request has read begins again."""
    if hasattr(body, "seek"):
        body.seek(0)
