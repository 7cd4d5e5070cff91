"""S3 through a line that is cut, deaf or slow: what is retried, what is settled, what opens the breaker."""

from __future__ import annotations

import http.client
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest

from replicator.errors import (
    AlreadyExists,
    ObjectAbsent,
    StoreMisconfigured,
    StoreUnavailable,
)
from replicator.store import ResilientStore
from replicator.store.s3_store import S3Store
from replicator.tolerance import BreakerState, Clock, SystemClock
from tests.proxy import Proxy, proxy_to
from tests.servers import S3Server, free_port, moto_server

pytestmark = pytest.mark.s3
_prefixes = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A moto server for this file."""
    with moto_server() as server:
        yield server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    """A line to the server."""
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture
def driver(proxy: Proxy, server: S3Server) -> S3Store:
    """A driver whose requests pass the proxy."""
    return through(proxy, server)


def through(proxy: Proxy, server: S3Server, patience_s: float = 30.0) -> S3Store:
    """A driver that waits so long for a line, and for bytes."""
    return S3Store(
        "offsite",
        server.bucket,
        f"test/{next(_prefixes)}",
        endpoint=f"http://127.0.0.1:{proxy.port}",
        access_key=server.access_key,
        secret_key=server.secret_key,
        connect_timeout=patience_s,
        read_timeout=patience_s,
    )


class ShiftedClock(SystemClock):
    """A clock of which a test lets time pass."""

    shift = 0.0

    def monotonic(self) -> float:
        """Later than it is."""
        return super().monotonic() + self.shift


def wrapped(
    driver: S3Store, *, budget_s: float = 60, failures: int = 50, reset_s: float = 1, clock: Clock | None = None
) -> ResilientStore:
    """The driver in its wrapper."""
    return ResilientStore(
        driver, clock=clock or SystemClock(), budget_s=budget_s, breaker_failures=failures, breaker_reset_s=reset_s
    )


def test_refused(driver: S3Store, proxy: Proxy) -> None:
    """Nobody listening is unavailable, at once, and comes back by itself."""
    driver.put("a", b"x")
    proxy.refuse()
    with pytest.raises(StoreUnavailable) as raised:
        driver.get("a")
    assert raised.value.retryable
    proxy.resume()
    assert driver.get("a") == b"x"


def test_hanging(server: S3Server, proxy: Proxy) -> None:
    """A server that hangs is given up after the timeout, whatever was asked."""
    driver = through(proxy, server, 0.5)
    proxy.deafen()
    for request in (
        lambda: driver.get("a"),
        lambda: driver.stat("a"),
        lambda: driver.put("b", b"x"),
        lambda: list(driver.list("")),
    ):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            request()
        assert time.monotonic() - started < 20


def test_half_a_body_is_gone_on_with(driver: S3Store, proxy: Proxy) -> None:
    """A body that breaks off is read on from there; no byte is missing or doubled."""
    body = bytes(range(256)) * 60_000
    driver.put("a", body)
    before = driver.get("a")
    proxy.cut_answer_after(9_000_000)
    assert driver.get("a") == body == before
    proxy.cut_answer_after(9_000_000)
    assert driver.get("a", 1_000_001, 12_000_000) == body[1_000_001:13_000_001]
    proxy.cut_answer_after(9_000_000)
    assert driver.get_tail("a", 12_000_000) == (body[-12_000_000:], len(body))


def test_a_short_body_is_an_error(driver: S3Store, proxy: Proxy) -> None:
    """A body that breaks off and can't be gone on with is unavailable, never a short answer."""
    driver.put("a", b"x" * 100_000)
    for cut in (10, 100, 200, 2_000):
        proxy.cut_answer_after(cut, then_lose=1)
        with pytest.raises(StoreUnavailable):
            driver.get("a")
    proxy.cut_answer_after(2_000, then_lose=1)
    assert wrapped(driver).get("a") == b"x" * 100_000


def test_a_cut_head_is_no_answer(driver: S3Store, proxy: Proxy) -> None:
    """An answer that breaks off anywhere in its head says nothing: never absent, never empty, never another size."""
    driver.put("n/a", b"x" * 12_345)
    requests: tuple[Callable[[], int], ...] = (
        lambda: sum(info.size for info in driver.list("n/")),
        lambda: driver.stat("n/a").size,
        lambda: len(driver.get("n/a")),
        lambda: driver.get_tail("n/a", 100)[1],
    )
    failed = 0
    for request in requests:
        for cut in range(1, 420, 17):
            proxy.cut_answer_after(cut)
            try:
                assert request() == 12_345
            except StoreUnavailable as error:
                failed += error.retryable
    assert failed > 50


def test_lost_answer_of_a_put(driver: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    """A put that was done and whose answer was lost is success: its bytes are there."""
    store = wrapped(driver)
    store.put("warm", b"")
    path = tmp_path / "body"
    path.write_bytes(b"from a file")
    for name, body in (("bytes", b"hello"), ("file", path)):
        store.stat("warm")
        driver._proven |= {"put", "complete"}
        proxy.lose_answers(1)
        store.put(name, body)
    assert store.get("bytes") == b"hello"
    assert store.get("file") == b"from a file"
    assert store.statistics().retry.retries >= 2


def test_a_foreign_object_is_not_ours(driver: S3Store, proxy: Proxy) -> None:
    """After a lost answer, other bytes under the name are a conflict, of the same size too."""
    store = wrapped(driver)
    for name, there in (("a", b"other"), ("b", b"longer than ours")):
        driver.put(name, there)
        driver._proven |= {"put", "complete"}
        proxy.lose_answers(1)
        with pytest.raises(AlreadyExists):
            store.put(name, b"hello")
        assert store.get(name) == there


def test_the_same_bytes_without_doubt_are_a_refusal(driver: S3Store) -> None:
    """Without a lost answer the same content is refused: the caller decides whether that is well."""
    store = wrapped(driver)
    store.put("a", b"x")
    with pytest.raises(AlreadyExists):
        store.put("a", b"x")


def test_lost_answer_of_a_commit(driver: S3Store, proxy: Proxy) -> None:
    """A multipart upload whose last answer was lost is success."""
    store = wrapped(driver)
    body = bytes(range(256)) * 40_000
    with store.writer("a") as writer:
        writer.write(body)
        driver._proven |= {"put", "complete"}
        upload = writer._upload  # type: ignore[attr-defined]
        complete, lost = upload.complete, iter([1])

        def lose_first() -> None:
            proxy.lose_answers(next(lost, 0))
            complete()

        upload.complete = lose_first
        writer.commit()
    assert store.get("a") == body
    assert store.statistics().retry.retries == 1


def test_parts_are_retried(driver: S3Store, proxy: Proxy) -> None:
    """A cut line during a stream costs a part, not the stream."""
    store = wrapped(driver)
    body = bytes(range(256)) * 80_000
    with store.writer("a") as writer:
        writer.write(body[:9_000_000])
        proxy.lose_answers(1)
        writer.write(body[9_000_000:])
        proxy.cut()
        writer.commit()
    assert store.get("a") == body


def test_large_files_go_in_parts(driver: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    """A large file survives a cut line too."""
    body = bytes(range(256)) * 70_000
    path = tmp_path / "body"
    path.write_bytes(body)
    proxy.lose_answers(2)
    wrapped(driver).put("a", path)
    assert driver.get("a") == body


def test_listing_survives(driver: S3Store, proxy: Proxy) -> None:
    """A listing goes on after a cut line: every name once, in order."""
    names = [f"n/{number:03}" for number in range(20)]
    for name in names:
        driver.put(name, b"x")
    proxy.lose_answers(1)
    assert [info.name for info in wrapped(driver).list("n/")] == names


def test_breaker_opens_and_closes(driver: S3Store, proxy: Proxy) -> None:
    """A dead store is left alone after its failures, and found again after the reset time."""
    clock = ShiftedClock()
    store = wrapped(driver, budget_s=0, failures=3, reset_s=300, clock=clock)
    store.put("a", b"x")
    proxy.refuse()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.get("a")
    assert store.statistics().breaker.state is BreakerState.OPEN
    proxy.resume()
    before = proxy.connections
    with pytest.raises(StoreUnavailable, match="left alone"):
        store.get("a")
    assert proxy.connections == before
    clock.shift = 301
    assert store.get("a") == b"x"
    assert store.statistics().breaker.state is BreakerState.CLOSED


def test_waits_for_an_open_breaker(driver: S3Store, proxy: Proxy) -> None:
    """Within its budget a call outlasts an open breaker."""
    store = wrapped(driver, failures=2, reset_s=0.3)
    store.put("a", b"x")
    proxy.refuse()
    with pytest.raises(StoreUnavailable):
        wrapped(driver, budget_s=0).get("a")
    proxy.resume()
    proxy.lose_answers(3)
    assert store.get("a") == b"x"
    assert store.statistics().breaker.opened >= 1


def test_a_missing_bucket_is_not_absence(server: S3Server) -> None:
    """A bucket that isn't there is a wrong policy for every request, never an absent object."""
    store = S3Store("offsite", "nowhere", endpoint=server.endpoint, access_key="key", secret_key="secret")
    for request in (
        store.prepare,
        lambda: store.get("a"),
        lambda: store.stat("a"),
        lambda: store.put("a", b"x"),
        lambda: list(store.list("")),
        lambda: store.upload("a"),
    ):
        with pytest.raises(StoreMisconfigured) as raised:
            request()
        assert "bucket" in raised.value.hint


class _Picky(BaseHTTPRequestHandler):
    """Passes requests on to the server, and refuses If-None-Match as something it does not know."""

    protocol_version = "HTTP/1.1"
    target = 0
    refused = 0

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "If-None-Match" in self.headers:
            type(self).refused += 1
            said, status, headers = b"<Error><Code>NotImplemented</Code></Error>", 501, {}
        else:
            line = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
            line.request(self.command, self.path, body, dict(self.headers))
            answer = line.getresponse()
            said, status, headers = answer.read(), answer.status, dict(answer.headers)
            line.close()
        self.send_response_only(status)
        for key, value in headers.items():
            if key.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_server_that_refuses_the_header(server: S3Server) -> None:
    """Where If-None-Match is not implemented the driver does without, once told, and still overwrites nothing."""
    handler = type("Handler", (_Picky,), {"target": server.port, "refused": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        store = S3Store(
            "offsite",
            server.bucket,
            "picky",
            endpoint=f"http://127.0.0.1:{listener.server_port}",
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
        big = b"x" * (17 << 20)
        store.put("a", b"x")
        store.put("big", big)
        for name in ("a", "big"):
            for body in (b"y", big):
                with pytest.raises(AlreadyExists):
                    store.put(name, body)
        assert store.get("a") == b"x"
        assert store.get("big") == big
        assert handler.refused == 1  # type: ignore[attr-defined]
        assert not store.properties.create_only
        store._client.close()
        listener.shutdown()


def test_not_an_s3_server(tmp_path: Path) -> None:
    """A wrong port is unavailable with a hint at the endpoint, not a traceback."""
    store = S3Store("offsite", "b", endpoint=f"http://127.0.0.1:{free_port()}", access_key="k", secret_key="s")
    with pytest.raises(StoreUnavailable) as raised:
        store.prepare()
    assert "endpoint" in raised.value.hint


@pytest.mark.parametrize("endpoint", ["not a url", "http://", "http://a b/"])
def test_a_wrong_endpoint(endpoint: str) -> None:
    """An endpoint that is none is a wrong policy."""
    with pytest.raises(StoreMisconfigured):
        S3Store("offsite", "b", endpoint=endpoint, access_key="k", secret_key="s")


def test_nothing_visible_after_a_failed_stream(driver: S3Store, proxy: Proxy) -> None:
    """A stream that fails for good leaves nothing under its name."""
    store = wrapped(driver, budget_s=0)
    with store.writer("a") as writer:
        writer.write(b"x" * (9 << 20))
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            writer.write(b"x" * (9 << 20))
    proxy.resume()
    with pytest.raises(ObjectAbsent):
        store.stat("a")


def test_a_stream_takes_bounded_memory(driver: S3Store) -> None:
    """A writer's memory is a few parts, however long the stream is."""
    block = b"x" * (1 << 20)
    tracemalloc.start()
    try:
        with wrapped(driver).writer("a") as writer:
            for _ in range(64):
                writer.write(block)
            writer.commit()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 40 << 20
