"""A proxy that knows HTTP enough to answer in a server's stead, to break bodies, and to keep to a rate."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle

from tests.proxy import Proxy

_METHODS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")
_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>no</Message></Error>"


class HttpProxy(Proxy):
    """Faults hold until `resume`. `requests` counts the heads of requests that have come."""

    block = 4096

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.requests = 0
        self._says: Iterator[bytes] | None = None
        self._rate = 0
        self._half = ""
        self._renamed: tuple[bytes, bytes] | None = None

    def resume(self) -> None:
        """Mend everything; lines that suffered are cut."""
        self._says, self._rate, self._half, self._renamed = None, 0, "", None
        super().resume()
        self.cut()

    def say(self, *answers: tuple[int, str]) -> None:
        """Answer every request with the next of these S3 errors, (status, code), in the server's stead."""
        self._says = cycle([_answer(status, code) for status, code in answers])
        self.cut()

    def crawl(self, rate: int) -> None:
        """Carry so many bytes per second and line, each way."""
        self._rate = rate
        self.cut()

    def halve(self, what: str) -> None:
        """Cut the line within every block of "answers", or within the bodies of "requests"."""
        self._half = what
        self.cut()

    def rename(self, bucket: str, other: str) -> None:
        """Ask the server for another bucket."""
        self._renamed = (f" /{bucket}".encode(), f" /{other}".encode())
        self.cut()

    def _changed(self, data: bytes, source: socket.socket, sink: socket.socket, answering: bool) -> bytes | None:
        head = not answering and data.startswith(_METHODS)
        self.requests += head
        says = self._says
        if head and says is not None:
            _tell(source, next(says), body=not data.startswith(b"HEAD "))
            return None
        if self._rate:
            time.sleep(len(data) / self._rate)
        if head and self._renamed is not None:
            data = data.replace(*self._renamed, 1)
        interim = data.startswith(b"HTTP/1.1 100")
        if (self._half == "answers" and answering and not interim) or (
            self._half == "requests" and not answering and not head
        ):
            sink.sendall(data[: len(data) // 2])
            return None
        return super()._changed(data, source, sink, answering)


def _answer(status: int, code: str) -> bytes:
    body = _ERROR.format(code)
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _tell(client: socket.socket, answer: bytes, *, body: bool) -> None:
    """Answer, and read what still comes: a line closed with bytes unread loses the answer."""
    client.sendall(answer if body else answer[: answer.index(b"\r\n\r\n") + 4])
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        end = time.monotonic() + 2
        client.settimeout(2)
        while time.monotonic() < end and client.recv(65536):
            pass


@contextmanager
def http_proxy_to(port: int) -> Iterator[HttpProxy]:
    """A running proxy to a port of 127.0.0.1."""
    proxy = HttpProxy(port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
