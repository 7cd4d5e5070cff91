"""What an S3 server's answer means: error codes and statuses to the store's errors. Pure; knows no client library."""

from __future__ import annotations

from replicator.errors import (
    AlreadyExists,
    ObjectAbsent,
    ReplicatorError,
    StoreDenied,
    StoreMisconfigured,
    StoreUnavailable,
    UploadLost,
)

_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion"})
_TAKEN = frozenset({"PreconditionFailed"})
_LOST = frozenset({"NoSuchUpload"})
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidObjectState",
        "InvalidToken",
        "MethodNotAllowed",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnauthorizedAccess",
    }
)
_WRONG = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "InvalidBucketName",
        "NoSuchBucket",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
#: Worth another try although the status is that of a wrong request: bytes broken or late on their way, or two
#: operations at once.
_TRANSIENT = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InvalidDigest",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentSHA256Mismatch",
    }
)
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "EntityTooLarge"})
_CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted"})

_HINTS = {
    "NoSuchBucket": "Make the bucket, or correct the store's url in the policy.",
    "RequestTimeTooSkewed": "Set this host's clock.",
    "InvalidAccessKeyId": "Look at the store's access_key in the policy.",
    "SignatureDoesNotMatch": "Look at the store's secret_key and region in the policy.",
    "AuthorizationHeaderMalformed": "Look at the store's region in the policy.",
    "PermanentRedirect": "Look at the store's region and endpoint in the policy.",
    "ExpiredToken": "The credentials have run out; renew them.",
}


def answer(store: str, doing: str, code: str, status: int, *, head: bool = False) -> ReplicatorError:
    """The error for an S3 answer. `code` is S3's own, or the status as text where the answer had no body, as all
    answers to HEAD. Elsewhere "not found" without S3's code is no answer about an object: a load balancer may have
    said it, or the line was cut.
    """
    if status == 404 and not head and (not code or code.isdigit()):
        return StoreUnavailable(
            f"store {store}: cannot {doing}: HTTP status 404 without a reason",
            hint="Look whether the endpoint in the policy is that of an S3 service.",
            store=store,
        )
    said = code if code and not code.isdigit() else f"HTTP status {status}"
    text = f"store {store}: cannot {doing}: {said}"
    kind = _kind(code, status)
    return kind(text, hint=_HINTS.get(code, _hint(kind, code, status)), store=store, code=code, status=status)


def is_conflict(error: ReplicatorError) -> bool:
    """Whether S3 said that another operation on the same name was under way: who has won must be looked up."""
    return error.context.get("code") in _CONFLICT


def is_unsupported(error: ReplicatorError) -> bool:
    """Whether the server said that it does not know what it was asked for."""
    return error.context.get("code") == "NotImplemented" or error.context.get("status") == 501


def is_beyond(error: ReplicatorError) -> bool:
    """Whether a range began at or after the object's end."""
    return error.context.get("code") == "InvalidRange" or error.context.get("status") == 416


def _kind(code: str, status: int) -> type[ReplicatorError]:
    by_code: tuple[tuple[frozenset[str], type[ReplicatorError]], ...] = (
        (_ABSENT, ObjectAbsent),
        (_TAKEN, AlreadyExists),
        (_LOST, UploadLost),
        (_DENIED, StoreDenied),
        (_WRONG, StoreMisconfigured),
        (_TRANSIENT | _FULL, StoreUnavailable),
    )
    for codes, kind in by_code:
        if code in codes:
            return kind
    return _kind_of_status(status)


def _kind_of_status(status: int) -> type[ReplicatorError]:
    if status == 404:
        return ObjectAbsent
    if status == 412:
        return AlreadyExists
    if status in (401, 403, 405):
        return StoreDenied
    if status in (408, 409, 425, 429) or (status >= 500 and status != 501):
        return StoreUnavailable
    return StoreMisconfigured


def _hint(kind: type[ReplicatorError], code: str, status: int) -> str:
    if code in _FULL or status == 507:
        return "Free space in the store, or raise its quota."
    if kind is StoreDenied:
        return "Look at the store's credentials and at what they may do in the bucket."
    if kind is StoreMisconfigured:
        return "Look at the store's url, endpoint and region in the policy."
    return ""
