"""A TCP proxy between a client and a server, whose line a test can cut, slow, deafen and mend."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.servers import free_port


class Proxy:
    """Listens on `port` and carries bytes to `target` on 127.0.0.1. Faults take effect at once, also on open lines."""

    #: The most bytes that are carried at once.
    block = 65536

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.connections = 0
        self._target = target
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._hearing = threading.Event()
        self._hearing.set()
        self._pause_s = 0.0
        self._cut_answer_after: int | None = None
        self._lose_answers = 0
        self._then_lose = 0

    def start(self) -> None:
        """Listen."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener = listener
        self._run(self._accept, listener)

    def refuse(self) -> None:
        """Stop listening and cut every line: as a server that is gone."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()

    def resume(self) -> None:
        """Mend everything."""
        self._hearing.set()
        self._pause_s = 0.0
        self._cut_answer_after = None
        self._lose_answers = 0
        if self._listener is None:
            self.start()

    def cut(self) -> None:
        """Cut every open line."""
        with self._lock:
            lines = list(self._open)
        for line in lines:
            _shut(line)

    def deafen(self) -> None:
        """Accept, and carry nothing: as a server that hangs."""
        self._hearing.clear()

    def slow(self, pause_s: float) -> None:
        """Wait before each block that is carried."""
        self._pause_s = pause_s

    def cut_answer_after(self, size: int, *, then_lose: int = 0) -> None:
        """Cut the next answer after so many bytes, head included, and lose the next few whole."""
        self._then_lose = then_lose
        self.cut()
        self._cut_answer_after = size

    def lose_answers(self, count: int) -> None:
        """Deliver the next requests, and cut the line before their answers."""
        self.cut()
        self._lose_answers = count

    def stop(self) -> None:
        """End everything."""
        self._hearing.set()
        self.refuse()
        for thread in self._threads:
            thread.join(5)

    def _run(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            self._run(self._carry, client, server, False)
            self._run(self._carry, server, client, True)

    def _carry(self, source: socket.socket, sink: socket.socket, answering: bool) -> None:
        try:
            while data := source.recv(self.block):
                self._hearing.wait()
                if self._pause_s:
                    time.sleep(self._pause_s)
                carried = self._changed(data, source, sink, answering)
                if carried is None:
                    break
                sink.sendall(carried)
        except OSError:
            pass
        finally:
            for line in (source, sink):
                _shut(line)
                with self._lock:
                    self._open.discard(line)
                line.close()

    def _changed(self, data: bytes, source: socket.socket, sink: socket.socket, answering: bool) -> bytes | None:
        """What is carried instead of `data`; None: nothing any more."""
        return None if answering and self._broken(data, sink) else data

    def _broken(self, data: bytes, sink: socket.socket) -> bool:
        with self._lock:
            if self._lose_answers and not data.startswith(b"HTTP/1.1 100"):
                self._lose_answers -= 1
                return True
            if self._cut_answer_after is None:
                return False
            left = self._cut_answer_after - len(data)
            if left > 0:
                self._cut_answer_after = left
                return False
            sink.sendall(data[: self._cut_answer_after])
            self._cut_answer_after = None
            self._lose_answers = self._then_lose
            return True


@contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A running proxy to a port of 127.0.0.1."""
    proxy = Proxy(port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _shut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
