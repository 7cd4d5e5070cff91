"""Object Lock and versions of S3 objects: the requests, and what their answers mean.

Locks are set in compliance mode: nobody can shorten one, the bucket's owner neither. Never reads or writes content.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from replicator.errors import NotFound, ReplicatorError, StoreDenied, StoreMisconfigured, StoreUnavailable
from replicator.store.answers import is_unsupported
from replicator.store.s3 import translated

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MODE = "COMPLIANCE"
#: Earlier contents looked at: whoever can overwrite may do it often, and the oldest come first.
_MOST_VERSIONS = 100
_MOST_PAGES = 50


def arguments(until: datetime | None) -> dict[str, Any]:
    """The arguments of the request that begins an object."""
    if until is None:
        return {}
    return {"ObjectLockMode": MODE, "ObjectLockRetainUntilDate": until}


def extend(store: str, client: S3Client, where: dict[str, Any], name: str, until: datetime) -> None:
    """Lock an object until then, unless it is locked for longer. Raises StoreDenied, ObjectAbsent."""
    try:
        with translated(store, f"extend the lock of {name}"):
            client.put_object_retention(**where, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until})
    except ReplicatorError as error:
        if not isinstance(error, StoreDenied | StoreMisconfigured) or _held_until(client, where) < until:
            if isinstance(error, StoreDenied):
                hint = "Allow s3:PutObjectRetention for the store's credentials."
                raise StoreDenied(error.message, hint=hint, **error.context) from error
            raise


def extend_all(store: str, client: S3Client, where: dict[str, Any], name: str, until: datetime) -> None:
    """As `extend`, of what was overwritten too: the object that was signed may be there, and somebody else's in front.
    Without the right to list versions the newest alone is kept.
    """
    extend(store, client, where, name, until)
    try:
        earlier = versions(store, client, where["Bucket"], where["Key"], name)
    except StoreDenied:
        return
    for version in earlier:
        extend(store, client, {**where, "VersionId": version}, name, until)


def _held_until(client: S3Client, where: dict[str, Any]) -> datetime:
    """The end of an object's lock, long ago where that can't be known."""
    never = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    try:
        with translated("", "read a lock"):
            held = client.get_object_retention(**where)["Retention"]
    except (ReplicatorError, KeyError):
        return never
    return held.get("RetainUntilDate", never) if held.get("Mode") == MODE else never


def free(store: str, client: S3Client, bucket: str, key: str, name: str) -> datetime | None:
    """Delete every version of a key, and its delete markers once no version is left. The end of the latest lock among
    those that are kept, None when all are gone. Raises StoreDenied when something else than a lock refuses.
    """
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": key}
    kept: datetime | None = None
    for _ in range(_MOST_PAGES):
        with translated(store, f"list the versions of {name}"):
            page = client.list_object_versions(**asked)
        for item in page.get("Versions", []):
            if item["Key"] == key:
                where = {"Bucket": bucket, "Key": key, "VersionId": item["VersionId"]}
                until = _free_version(store, client, where, name)
                if until is not None:
                    kept = until if kept is None else max(kept, until)
        for marker in page.get("DeleteMarkers", []) if kept is None else []:
            if marker["Key"] == key:
                with translated(store, f"delete {name}"):
                    client.delete_object(Bucket=bucket, Key=key, VersionId=marker["VersionId"])
        if not page.get("IsTruncated") or any(item["Key"] > key for item in page.get("Versions", [])):
            break
        asked |= {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
    return kept


def _free_version(store: str, client: S3Client, where: dict[str, Any], name: str) -> datetime | None:
    try:
        with translated(store, f"delete {name}"):
            client.delete_object(**where)
    except (StoreDenied, StoreMisconfigured) as error:
        with translated(store, f"look at {name}"):
            until = client.head_object(**where).get("ObjectLockRetainUntilDate")
        if until is None or until <= datetime.now(UTC):
            hint = "Allow s3:DeleteObjectVersion and s3:GetObjectRetention for the store's credentials."
            raise StoreDenied(error.message, hint=hint, **error.context) from error
        return until
    return None


def versions(store: str, client: S3Client, bucket: str, key: str, name: str) -> list[str]:
    """The ids of a key's earlier contents, oldest first; none where the bucket keeps none or can't list them."""
    found: list[str] = []
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": key}
    for _ in range(_MOST_PAGES):
        try:
            with translated(store, f"list the versions of {name}"):
                page = client.list_object_versions(**asked)
        except (StoreUnavailable, NotFound) as error:
            if is_unsupported(error):
                return []
            raise
        listed = page.get("Versions", [])
        found += [item["VersionId"] for item in listed if item["Key"] == key and not item["IsLatest"]]
        if not page.get("IsTruncated") or any(item["Key"] > key for item in listed):
            break
        asked |= {"KeyMarker": page.get("NextKeyMarker", ""), "VersionIdMarker": page.get("NextVersionIdMarker", "")}
    return found[::-1][:_MOST_VERSIONS]
