"""Addresses in a policy: conninfo, store URLs, S3 endpoints, places to listen on.

Owns what each may look like, and the parts of a checked one. Text only: nothing is resolved, opened or connected.
What it refuses for holding a password is never quoted.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from replicator.errors import UsageError
from replicator.policy.written import Written, text

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]\Z")
_PART = re.compile(r"[A-Za-z0-9._-]+\Z")
_SECRET = re.compile(r"(?<![A-Za-z_])(?:ssl)?password\s*=|\A\w+://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)
_TAKE_IT_OUT = 'Take it out and write password = { env = "NAME" } or { file = "/path" } under [source].'
_STORE_HINT = "Write file:///absolute/path or s3://bucket or s3://bucket/prefix."


def _conninfo(value: Any) -> str:
    # The value is not quoted here: it may hold the very password that is refused.
    if _SECRET.search(text(value)):
        raise UsageError("holds a password", hint=_TAKE_IT_OUT)
    return str(value)


def split_store_url(url: str) -> tuple[str, str, str]:
    """The parts of a store's URL: ("file", "", "/path") or ("s3", bucket, prefix without slashes around it).

    Raises UsageError for any other URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError("is not a URL", hint=_STORE_HINT) from error
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("a store's URL holds neither user, query nor fragment", hint=_STORE_HINT)
    if parts.scheme == "file":
        path = unquote(parts.path)
        if parts.netloc or not path.strip("/") or "\0" in path:
            raise UsageError(f"{url!r} is not the URL of an absolute directory", hint=_STORE_HINT)
        return "file", "", path
    if parts.scheme != "s3":
        raise UsageError(f"{url!r} is not the URL of a store", hint=_STORE_HINT)
    prefix = parts.path.strip("/")
    if not _BUCKET.match(parts.netloc):
        raise UsageError(f"{parts.netloc!r} is not the name of a bucket", hint=_STORE_HINT)
    if prefix and any(not _PART.match(step) or step in {".", ".."} for step in prefix.split("/")):
        raise UsageError(f"{parts.path!r} is not a prefix", hint="Use letters, digits, '.', '_', '-' and '/'.")
    return "s3", parts.netloc, prefix


def _url(value: Any) -> str:
    split_store_url(text(value))
    return str(value)


def _endpoint(value: Any) -> str:
    try:
        parts = urlsplit(text(value))
        well = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 443) > 0
    except ValueError:
        well = False
    if not well or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError("is not the address of an S3 service", hint="Write https://host or https://host:port.")
    return str(value).rstrip("/")


def split_listen(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8009" or "[::1]:8009". Raises UsageError."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    known = bare and ("[" not in bare) and (":" not in bare or bare != host) and not re.search(r"\s", bare)
    if not colon or not known or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise UsageError(
            f"{text!r} is not an address to listen on", hint="Write host:port, for example 127.0.0.1:8009."
        )
    return bare, int(port)


def _listen(value: Any) -> str:
    split_listen(text(value))
    return str(value)


CONNINFO = Written(_conninfo, {"type": "string", "format": "libpq connection string"})
STORE_URL = Written(_url, {"type": "string", "format": "file:///path or s3://bucket/prefix"})
ENDPOINT = Written(_endpoint, {"type": "string", "format": "https://host:port"})
LISTEN = Written(_listen, {"type": "string", "format": "host:port"})
