"""What S3's answers mean, as a table; and that nothing boto3 can raise is left without a meaning."""

from __future__ import annotations

import inspect
import ssl
from typing import Any

import pytest
from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError
from urllib3.exceptions import ProtocolError

from replicator.errors import (
    AlreadyExists,
    ObjectAbsent,
    ReplicatorError,
    StoreDenied,
    StoreMisconfigured,
    StoreUnavailable,
    UploadLost,
)
from replicator.store.answers import answer, is_beyond, is_conflict, is_unsupported
from replicator.store.s3 import translate


@pytest.mark.parametrize(
    ("code", "status", "kind", "retryable"),
    [
        ("NoSuchKey", 404, ObjectAbsent, False),
        ("404", 404, StoreUnavailable, True),
        ("", 404, StoreUnavailable, True),
        ("NoSuchBucket", 404, StoreMisconfigured, False),
        ("NoSuchUpload", 404, UploadLost, False),
        ("PreconditionFailed", 412, AlreadyExists, False),
        ("412", 412, AlreadyExists, False),
        ("ConditionalRequestConflict", 409, StoreUnavailable, True),
        ("AccessDenied", 403, StoreDenied, False),
        ("403", 403, StoreDenied, False),
        ("InvalidAccessKeyId", 403, StoreDenied, False),
        ("SignatureDoesNotMatch", 403, StoreDenied, False),
        ("ExpiredToken", 400, StoreDenied, False),
        ("SlowDown", 503, StoreUnavailable, True),
        ("InternalError", 500, StoreUnavailable, True),
        ("429", 429, StoreUnavailable, True),
        ("RequestTimeout", 400, StoreUnavailable, True),
        ("BadDigest", 400, StoreUnavailable, True),
        ("QuotaExceeded", 403, StoreUnavailable, True),
        ("PermanentRedirect", 301, StoreMisconfigured, False),
        ("AuthorizationHeaderMalformed", 400, StoreMisconfigured, False),
        ("InvalidArgument", 400, StoreMisconfigured, False),
        ("NotImplemented", 501, StoreMisconfigured, False),
        ("", 502, StoreUnavailable, True),
        ("Novelty", 418, StoreMisconfigured, False),
    ],
)
def test_answers(code: str, status: int, kind: type[ReplicatorError], retryable: bool) -> None:
    """Each code or status has its meaning."""
    error = answer("offsite", "read a", code, status)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.message.startswith("store offsite: cannot read a: ")


def test_head_has_no_body() -> None:
    """An answer to HEAD carries no code: there the status alone says absent."""
    assert type(answer("offsite", "look at a", "404", 404, head=True)) is ObjectAbsent


def test_questions_of_an_answer() -> None:
    """What the driver asks of an answer it asks of codes and statuses."""
    assert is_conflict(answer("s", "x", "ConditionalRequestConflict", 409))
    assert is_unsupported(answer("s", "x", "NotImplemented", 501))
    assert is_beyond(answer("s", "x", "InvalidRange", 416))
    assert is_beyond(answer("s", "x", "416", 416))
    assert not is_beyond(answer("s", "x", "NoSuchKey", 404))


class _Anything(dict[str, Any]):
    """Format arguments for any message."""

    def __missing__(self, key: str) -> str:
        return key


def _made(kind: type[Exception]) -> Exception:
    """One of that class, however its constructor looks."""
    error = kind.__new__(kind)
    Exception.__init__(error, "made")
    error.kwargs = _Anything()  # type: ignore[attr-defined]
    if isinstance(error, botocore_errors.ClientError):
        error.response = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}  # type: ignore[typeddict-item]
    return error


EVERY = [
    kind
    for _, kind in inspect.getmembers(botocore_errors, inspect.isclass)
    if issubclass(kind, Exception) and not issubclass(kind, Warning) and kind.__module__ == botocore_errors.__name__
]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_botocore_error_is_translated(kind: type[Exception]) -> None:
    """No class of botocore's errors can leave the driver untyped."""
    error = translate("offsite", "read a", _made(kind))
    assert isinstance(error, ReplicatorError)
    assert error.exit_code == 6


@pytest.mark.parametrize(
    "kind",
    [
        botocore_errors.EndpointConnectionError,
        botocore_errors.ConnectTimeoutError,
        botocore_errors.ReadTimeoutError,
        botocore_errors.ConnectionClosedError,
        botocore_errors.ResponseStreamingError,
        botocore_errors.IncompleteReadError,
        botocore_errors.ProxyConnectionError,
        botocore_errors.SSLError,
        ResponseParserError,
        ProtocolError,
        ConnectionResetError,
        TimeoutError,
        ValueError,
    ],
)
def test_silence_may_be_retried(kind: type[Exception]) -> None:
    """Cut lines, silence and broken answers are worth another try."""
    error = translate("offsite", "read a", _made(kind))
    assert type(error) is StoreUnavailable
    assert error.retryable


@pytest.mark.parametrize("kind", [botocore_errors.NoCredentialsError, botocore_errors.PartialCredentialsError])
def test_no_credentials(kind: type[Exception]) -> None:
    """Missing credentials are a refusal, not an outage."""
    assert type(translate("offsite", "read a", _made(kind))) is StoreDenied


def test_an_untrusted_certificate() -> None:
    """A refused certificate is a wrong policy: retrying can't help."""
    error = _made(botocore_errors.SSLError)
    error.kwargs = {"error": ssl.SSLCertVerificationError("self-signed")}  # type: ignore[attr-defined]
    found = translate("offsite", "read a", error)
    assert type(found) is StoreMisconfigured
    assert "ca" in found.hint


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyError, TypeError, RuntimeError])
def test_what_is_a_bug_passes(kind: type[Exception]) -> None:
    """An error that is neither boto3's nor the network's is none of the store's."""
    assert translate("offsite", "read a", kind("bug")) is None
