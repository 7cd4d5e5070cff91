"""Asking a daemon for its status, with short deadlines."""

from __future__ import annotations

import json
from typing import Any

import urllib3

from replicator.errors import KeysError, ProtocolViolation
from replicator.tolerance import Deadline, SystemClock

#: To connect, between two bytes, and for all of the answer.
CONNECT_S, READ_S, ALL_S = 1.0, 5.0, 15.0
_MOST, _CHUNK = 16 << 20, 64 << 10
#: A daemon that listens everywhere is asked on the loopback.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def fetch_status(host: str, port: int, token: bytes | None, *, seconds: float = ALL_S) -> dict[str, Any] | None:
    """The daemon's status; None when none answers within `seconds`. Raises KeysError when it refuses the token,
    ProtocolViolation when what answers is no daemon of ours.
    """
    host = _ANYWHERE.get(host, host)
    place = f"[{host}]" if ":" in host else host
    headers = {"Authorization": f"Bearer {token.decode('latin-1')}"} if token is not None else {}
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S)) as pool:
        try:
            answer = pool.request("GET", f"http://{place}:{port}/status", headers=headers, preload_content=False)
            body, code = _read(answer, Deadline(SystemClock(), seconds)), answer.status
        except urllib3.exceptions.HTTPError:
            return None
    if body is None:
        return None
    if code == 401:
        raise KeysError(
            f"the daemon at {host}:{port} refuses the token",
            hint="Make [api] token in daemon.toml the one that the daemon was started with.",
        )
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if code != 200 or not isinstance(status, dict) or "clusters" not in status:
        raise ProtocolViolation(
            f"what answers at {host}:{port} is not a daemon of replicator",
            hint="Check [api] listen in daemon.toml.",
        )
    return status


def _read(answer: urllib3.BaseHTTPResponse, deadline: Deadline) -> bytes | None:
    """The body, which must be all there before the deadline: None when it is not. One that drips never ends else."""
    body = bytearray()
    while data := answer.read1(_CHUNK):
        body += data
        if deadline.over or len(body) > _MOST:
            answer.close()
            return None
    answer.release_conn()
    return bytes(body)
