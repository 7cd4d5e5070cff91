"""The HTTP server: waitress, with a socket of our own and a loop that ends when it is told to."""

from __future__ import annotations

import logging
import socket
from threading import Event
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from replicator.api.app import App
from replicator.errors import HostLacks

THREADS = 4
_TICK_S = 0.25


class ApiServer:
    """Bound on construction, so that a port that is taken is said at once; served by `run`. Raises HostLacks."""

    def __init__(self, app: App, host: str, port: int) -> None:
        self._map: dict[int, Any] = {}
        # Waitress warns of queued requests through its own logger; ours alone writes to the daemon's log.
        logging.getLogger("waitress").addHandler(logging.NullHandler())
        logging.getLogger("waitress").propagate = False
        listening = _listen(host, port)
        self.address = _address(listening)
        self._server = create_server(
            app,
            map=self._map,
            sockets=[listening],
            threads=THREADS,
            connection_limit=100,
            channel_timeout=30,
            max_request_body_size=64 * 1024,
            max_request_header_size=16 * 1024,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )

    def run(self, stop: Event) -> None:
        """Serve until `stop` is set."""
        try:
            while not stop.is_set():
                wasyncore.loop(timeout=_TICK_S, map=self._map, count=1)
        finally:
            self.close()

    def close(self) -> None:
        """Close all sockets and end the threads that answer; again is harmless."""
        self._server.task_dispatcher.shutdown(timeout=1)
        self._server.close()
        wasyncore.close_all(self._map, ignore_all=True)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(64)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise HostLacks(
            f"the HTTP interface can not listen on {host}:{port}: {(error.strerror or str(error)).lower()}",
            hint="Stop what uses the port, or change [api] listen in daemon.toml.",
        ) from error
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
