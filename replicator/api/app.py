"""The WSGI application: four paths, GET and HEAD, JSON errors.

Owns paths, codes and the token. It computes nothing: `Answers` does.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

_log = logging.getLogger(__name__)
_JSON = "application/json; charset=utf-8"


class Answers(Protocol):
    """What the daemon says of itself. Each answers from memory, `status` after a moment for what the stores hold."""

    def live(self) -> bool:
        """Whether the supervisor turns."""
        ...

    def ready(self) -> dict[str, bool]:
        """By cluster: whether it streams and a store takes."""
        ...

    def status(self) -> dict[str, Any]:
        """As `status --json`."""
        ...

    def metrics(self) -> tuple[str, bytes]:
        """Content type and body."""
        ...


class App:
    """The application. `token` None asks nobody; health checks are never asked for it. It may be set anew."""

    def __init__(self, answers: Answers, token: bytes | None = None) -> None:
        self._answers = answers
        self.token = token
        self._paths: dict[str, tuple[bool, Callable[[], tuple[HTTPStatus, str, bytes]]]] = {
            "/livez": (False, self._live),
            "/readyz": (False, self._ready),
            "/status": (True, self._status),
            "/metrics": (True, self._metrics),
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """WSGI."""
        code, kind, body, extra = self._answer(environ)
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *extra,
        ]
        start_response(f"{code.value} {code.phrase}", headers)
        return [b""] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[HTTPStatus, str, bytes, list[tuple[str, str]]]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path not in self._paths:
            known = ", ".join(self._paths)
            return _error(HTTPStatus.NOT_FOUND, "NotFound", "no such path", f"There are {known}.")
        if method not in ("GET", "HEAD"):
            said = _error(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", f"{path} can only be read", "Use GET.")
            return (*said[:3], [("Allow", "GET, HEAD")])
        guarded, answer = self._paths[path]
        if guarded and not self._allowed(environ.get("HTTP_AUTHORIZATION", "")):
            said = _error(
                HTTPStatus.UNAUTHORIZED,
                "Unauthorized",
                "the token is missing or wrong",
                "Send the token of daemon.toml's [api] as `Authorization: Bearer …`.",
            )
            return (*said[:3], [("WWW-Authenticate", "Bearer")])
        try:
            return (*answer(), [])
        except Exception:  # noqa: BLE001 a bug in an answer must not look like a dead daemon, nor end a stream
            _log.exception("%s can not be answered", path)
            return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "Unexpected", "unexpected error", "See the daemon's log.")

    def _allowed(self, header: str) -> bool:
        token = self.token  # may be another for the next request
        if token is None:
            return True
        kind, _, given = header.partition(" ")
        # WSGI hands header bytes over as Latin-1 text.
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
        return kind.lower() == "bearer" and same

    def _live(self) -> tuple[HTTPStatus, str, bytes]:
        live = self._answers.live()
        return _code(live), _JSON, _body({"live": live})

    def _ready(self) -> tuple[HTTPStatus, str, bytes]:
        clusters = self._answers.ready()
        ready = bool(clusters) and all(clusters.values())
        return _code(ready), _JSON, _body({"ready": ready, "clusters": clusters})

    def _status(self) -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, _JSON, _body(self._answers.status())

    def _metrics(self) -> tuple[HTTPStatus, str, bytes]:
        kind, body = self._answers.metrics()
        return HTTPStatus.OK, kind, body


def _code(well: bool) -> HTTPStatus:
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE


def _body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _error(code: HTTPStatus, kind: str, message: str, hint: str) -> tuple[HTTPStatus, str, bytes, list[Any]]:
    return code, _JSON, _body({"error": {"type": kind, "message": message, "hint": hint}}), []
