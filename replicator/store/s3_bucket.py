"""A bucket as a whole: is it there, and does its Object Lock fit? Never changes its settings: they are its owner's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.errors import NotFound, ObjectAbsent, StoreDenied, StoreMisconfigured, StoreUnavailable
from replicator.store.answers import is_unsupported
from replicator.store.s3 import translated

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def require_bucket(store: str, client: S3Client, bucket: str) -> None:
    """Raise StoreMisconfigured when there is no such bucket."""
    try:
        with translated(store, "look at the bucket"):
            client.head_bucket(Bucket=bucket)
    except ObjectAbsent as error:
        raise StoreMisconfigured(
            f"store {store}: there is no bucket {bucket}",
            hint="Make the bucket, or correct the store's url in the policy.",
            store=store,
        ) from error


def check_lock(store: str, client: S3Client, bucket: str, *, wanted: bool) -> None:
    """Raise StoreMisconfigured for a bucket that locks by itself, whose pieces could never be deleted, and, where a
    lock is `wanted`, for one that can't lock.
    """
    found = _configuration(store, client, bucket, wanted=wanted)
    rule = found.get("Rule", {}).get("DefaultRetention")
    if rule:
        time = f"{rule.get('Days') or rule.get('Years')} {'days' if rule.get('Days') else 'years'}"
        raise StoreMisconfigured(
            f"store {store}: bucket {bucket} locks every object for {time} by itself, so pieces could not be deleted",
            hint="Take the bucket's default retention away; object_lock in the policy sets the lock on each object.",
            store=store,
        )
    if wanted and found.get("ObjectLockEnabled") != "Enabled":
        raise StoreMisconfigured(
            f"store {store}: bucket {bucket} has no Object Lock",
            hint='Make a bucket with Object Lock enabled and no default retention, or set object_lock = "off".',
            store=store,
        )


def _configuration(store: str, client: S3Client, bucket: str, *, wanted: bool) -> dict[str, Any]:
    """The bucket's lock configuration; empty where there is none, or where we can't know and needn't."""
    try:
        with translated(store, "read the bucket's object lock"):
            return dict(client.get_object_lock_configuration(Bucket=bucket).get("ObjectLockConfiguration", {}))
    except NotFound:
        return {}
    except (StoreDenied, StoreMisconfigured):
        if wanted:
            raise
        return {}
    except StoreUnavailable as error:
        if wanted or not is_unsupported(error):
            raise
        return {}
