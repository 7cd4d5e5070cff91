"""The HTTP interface over real sockets: paths, codes, the token, and its client."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import pytest
import urllib3

from replicator.api.app import App
from replicator.api.client import fetch_status
from replicator.api.server import ApiServer
from replicator.errors import HostLacks, KeysError, ProtocolViolation
from tests.servers import free_port

TOKEN = b"kunci-rahasia"


class Answers:
    """Fixed answers."""

    def __init__(self) -> None:
        self.alive = True
        self.clusters = {"frk": True, "fed": True}

    def live(self) -> bool:
        """As Answers."""
        return self.alive

    def ready(self) -> dict[str, bool]:
        """As Answers."""
        return self.clusters

    def status(self) -> dict[str, Any]:
        """As Answers."""
        return {"ok": True, "daemon": {"running": True, "since": None}, "clusters": {}}

    def metrics(self) -> tuple[str, bytes]:
        """As Answers."""
        return "text/plain; version=0.0.4", b"replicator_up 1\n"


@contextmanager
def serving(app: Any) -> Iterator[tuple[str, int]]:
    """The server on a free port, ended afterwards."""
    server, stop = ApiServer(app, "127.0.0.1", 0), Event()
    thread = Thread(target=server.run, args=(stop,))
    thread.start()
    host, port = server.address.split(":")
    try:
        yield host, int(port)
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def ask(place: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    """One request."""
    with urllib3.PoolManager(retries=False, timeout=60) as pool:
        answer = pool.request(method, f"http://{place[0]}:{place[1]}{path}", headers=headers)
        return answer.status, answer.headers, answer.data


@pytest.fixture
def answers() -> Answers:
    """What the server says."""
    return Answers()


@pytest.fixture
def place(answers: Answers) -> Iterator[tuple[str, int]]:
    """A server with a token."""
    with serving(App(answers, TOKEN)) as found:
        yield found


def test_health_needs_no_token(place: tuple[str, int], answers: Answers) -> None:
    """A health check is answered without a token, with 200 or 503."""
    assert ask(place, "/livez")[0] == 200
    assert ask(place, "/readyz")[0] == 200
    answers.alive = False
    answers.clusters = {"frk": True, "fed": False}
    assert ask(place, "/livez")[0] == 503
    code, _, body = ask(place, "/readyz")
    assert code == 503
    assert json.loads(body) == {"ready": False, "clusters": {"frk": True, "fed": False}}


@pytest.mark.parametrize("path", ["/status", "/metrics"])
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic kunci-rahasia", "Bearer kunci-rahasia2"])
def test_wrong_token(place: tuple[str, int], path: str, header: str) -> None:
    """Without the right token there is a 401 and nothing else."""
    code, headers, body = ask(place, path, **({"Authorization": header} if header else {}))
    assert code == 401
    assert headers["WWW-Authenticate"] == "Bearer"
    assert json.loads(body)["error"]["type"] == "Unauthorized"


def test_right_token(place: tuple[str, int]) -> None:
    """With the token status and metrics are told."""
    bearer = f"Bearer {TOKEN.decode()}"
    code, headers, body = ask(place, "/status", Authorization=bearer)
    assert (code, json.loads(body)["ok"]) == (200, True)
    assert headers["Cache-Control"] == "no-store"
    code, headers, body = ask(place, "/metrics", Authorization=bearer)
    assert (code, body) == (200, b"replicator_up 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_no_such_path_and_no_such_method(place: tuple[str, int]) -> None:
    """Other paths are a 404, other methods a 405, both JSON; HEAD has no body."""
    code, _, body = ask(place, "/secrets")
    assert (code, json.loads(body)["error"]["type"]) == (404, "NotFound")
    code, headers, body = ask(place, "/livez", "POST")
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"]["type"] == "MethodNotAllowed"
    code, _, body = ask(place, "/livez", "HEAD")
    assert (code, body) == (200, b"")


def test_port_is_taken() -> None:
    """A port in use is said at once, with exit code 9."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(HostLacks, match="can not listen") as raised:
            ApiServer(App(Answers()), "127.0.0.1", taken.getsockname()[1])
        assert raised.value.hint


def test_client_and_server() -> None:
    """The client gets the status; None where nobody listens; a wrong token is a keys error."""
    with serving(App(Answers(), TOKEN)) as (host, port):
        found = fetch_status(host, port, TOKEN)
        assert found is not None
        assert found["daemon"]["running"] is True
        assert fetch_status("0.0.0.0", port, TOKEN) == found
        with pytest.raises(KeysError):
            fetch_status(host, port, b"no")
    assert fetch_status("127.0.0.1", free_port(), None) is None


def test_client_of_something_else() -> None:
    """What is no daemon of ours is not taken for one."""

    def app(_environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<html>"]

    with serving(app) as (host, port), pytest.raises(ProtocolViolation):
        fetch_status(host, port, None)
