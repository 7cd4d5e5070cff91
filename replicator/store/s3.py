"""boto3: makes the client of an S3 store and turns what it raises into a store's errors.

The only place that knows boto3 and botocore. Never makes a request and never retries.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.session
import urllib3.exceptions
from botocore import exceptions as botocore_errors
from botocore.config import Config
from botocore.parsers import ResponseParserError

from replicator.errors import ReplicatorError, StoreDenied, StoreMisconfigured, StoreUnavailable
from replicator.store.answers import answer

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: Silence, cut connections, broken bodies: another try may help.
_UNAVAILABLE = (
    botocore_errors.HTTPClientError,
    botocore_errors.ChecksumError,
    botocore_errors.FlexibleChecksumError,
    botocore_errors.AwsChunkedWrapperError,
    botocore_errors.IncompleteReadError,
    botocore_errors.CapacityNotAvailableError,
    botocore_errors.ConnectionError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    ConnectionError,
    TimeoutError,
    # botocore's parser, over numbers and times of an answer that was cut within its head.
    ValueError,
)
#: Wrong names of regions and endpoints, though they are ValueErrors too.
_WRONG = (botocore_errors.InvalidRegionError, botocore_errors.UnknownEndpointError)
#: No credentials, or none that can be had.
_NO_CREDENTIALS = (
    botocore_errors.CredentialRetrievalError,
    botocore_errors.LoginError,
    botocore_errors.MetadataRetrievalError,
    botocore_errors.NoAuthTokenError,
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.RefreshWithMFAUnsupportedError,
    botocore_errors.SSOError,
    botocore_errors.TokenRetrievalError,
    botocore_errors.UnknownCredentialError,
    botocore_errors.UnknownTokenProviderError,
)


@contextmanager
def translated(store: str, doing: str) -> Iterator[None]:
    """Turn what boto3 raises into a store's error. What it isn't known to raise passes."""
    try:
        yield
    except Exception as error:
        known = translate(store, doing, error)
        if known is None:
            raise
        raise known from error


def translate(store: str, doing: str, error: Exception) -> ReplicatorError | None:
    """The store's error for what boto3 or the network below it raised; None for what is neither."""
    if isinstance(error, botocore_errors.ClientError):
        said = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        head = str(getattr(error, "operation_name", "")).startswith("Head")
        return answer(store, doing, str(said.get("Code", "")), int(status), head=head)
    text = f"store {store}: cannot {doing}: {type(error).__name__}"
    if isinstance(error, botocore_errors.SSLError) and _distrusts(error):
        return StoreMisconfigured(
            f"store {store}: the endpoint's certificate is not trusted",
            hint="Name the right `ca` in the store's policy.",
        )
    if isinstance(error, _UNAVAILABLE) and not isinstance(error, _WRONG):
        return StoreUnavailable(text, hint="Look at the network and at the store's endpoint.", store=store)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreDenied(text, hint="Give access_key and secret_key in the store's policy.", store=store)
    if isinstance(error, botocore_errors.BotoCoreError | botocore_errors.UndefinedModelAttributeError):
        return StoreMisconfigured(text, hint="Look at the store's url, endpoint and region in the policy.", store=store)
    return None


def _distrusts(error: BaseException) -> bool:
    """Whether a certificate was refused: somewhere in the chain of what botocore and urllib3 wrapped."""
    pending: list[object] = [error]
    for _ in range(20):
        if not pending:
            return False
        current = pending.pop()
        if isinstance(current, ssl.SSLCertVerificationError):
            return True
        if isinstance(current, BaseException):
            pending += [current.__cause__, current.__context__, *current.args, getattr(current, "reason", None)]
            pending.append(getattr(current, "kwargs", {}).get("error"))
    return False


def make_client(
    endpoint: str | None,
    region: str | None,
    keys: tuple[str | None, str | None],
    ca: Path | None,
    timeouts: tuple[float, float],
    most: int,
) -> S3Client:
    """A client for S3. `keys`: access and secret key; `timeouts`: to connect and to wait for bytes, in seconds; `most`
    requests at once. Raises what `translated` knows.
    """
    session = botocore.session.Session()
    given = keys[0] is not None
    if given:
        # Not session.set_config_variable, whose None still falls through to AWS_PROFILE.
        variables = session.get_component("config_store")
        for variable, value in (("profile", None), ("config_file", os.devnull), ("credentials_file", os.devnull)):
            variables.set_config_variable(variable, value)
    config = Config(
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        retries={"total_max_attempts": 1, "mode": "standard"},
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        max_pool_connections=most + 2,
        tcp_keepalive=True,
        # botocore's own checksums cost a fifth of the CPU and are refused by older servers; Content-MD5 is explicit.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    if given:
        config = config.merge(Config(ignore_configured_endpoint_urls=True))  # type: ignore[call-arg]
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        region_name=region or ("us-east-1" if endpoint or given else None),
        endpoint_url=endpoint,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        verify=str(ca) if ca is not None else None,
        config=config,
    )
