"""Asking a daemon for its status, with short deadlines."""

from __future__ import annotations

import json
from typing import Any

import urllib3

from replicator.errors import KeysError, ProtocolViolation

CONNECT_S, READ_S = 1.0, 5.0
_MOST = 16 << 20
#: A daemon that listens everywhere is asked on the loopback.
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


def fetch_status(host: str, port: int, token: bytes | None) -> dict[str, Any] | None:
    """The daemon's status; None when none answers. Raises KeysError when it refuses the token, ProtocolViolation when
    what answers is no daemon of ours.
    """
    host = _ANYWHERE.get(host, host)
    place = f"[{host}]" if ":" in host else host
    headers = {"Authorization": f"Bearer {token.decode('latin-1')}"} if token is not None else {}
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S)) as pool:
        try:
            answer = pool.request("GET", f"http://{place}:{port}/status", headers=headers, preload_content=False)
            body, code = answer.read(_MOST), answer.status
            answer.release_conn()
        except urllib3.exceptions.HTTPError:
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
