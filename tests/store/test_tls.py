"""Credentials and certificates: what a wrong one looks like."""

from __future__ import annotations

import base64
import hashlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import StoreDenied, StoreMisconfigured
from replicator.store import ResilientStore
from replicator.store.s3_store import S3Store
from replicator.store.s3_upload import S3Upload
from replicator.tolerance import SystemClock
from tests.certificates import write_certificate
from tests.servers import rclone_server

pytestmark = pytest.mark.s3


class _Bucket(http.server.BaseHTTPRequestHandler):
    """An S3 server with one bucket and nothing in it."""

    def do_HEAD(self) -> None:
        """Say that everything is there."""
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        """Say that nothing is there."""
        said = b"<Error><Code>NoSuchKey</Code></Error>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_PUT(self) -> None:
        """Take what comes with the right checksum."""
        if "Expect" in self.headers:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = base64.b64encode(hashlib.md5(body).digest()).decode()
        self.send_response(200 if self.headers["Content-MD5"] == right else 400)
        self.send_header("ETag", '"tag"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An https endpoint, and its certificate."""
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Bucket) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}", certificate
        server.shutdown()
        thread.join(10)


def test_a_trusted_certificate(served: tuple[str, Path]) -> None:
    """An endpoint whose certificate `ca` names is used."""
    store = S3Store("offsite", "b", endpoint=served[0], access_key="k", secret_key="s", ca=served[1])
    store.prepare()


def test_bodies_carry_a_checksum(served: tuple[str, Path], tmp_path: Path) -> None:
    """Over TLS each body goes with its Content-MD5, of bytes, of a file, and of a part."""
    store = S3Store("offsite", "b", endpoint=served[0], access_key="k", secret_key="s", ca=served[1])
    path = tmp_path / "body"
    path.write_bytes(b"from a file")
    store.put("a", b"bytes")
    store.put("a", path)
    S3Upload(store, store._client, "b", "a", "a", "id").part(0, 0, b"a part")


def test_an_untrusted_certificate(served: tuple[str, Path]) -> None:
    """An endpoint whose certificate nobody vouches for is a wrong policy, at the first try."""
    driver = S3Store("offsite", "b", endpoint=served[0], access_key="k", secret_key="s")
    store = ResilientStore(driver, clock=SystemClock(), budget_s=30, breaker_failures=5, breaker_reset_s=1)
    with pytest.raises(StoreMisconfigured) as raised:
        store.prepare()
    assert "certificate" in raised.value.message
    assert store.statistics().retry.retries == 0


def test_a_missing_certificate_file(tmp_path: Path) -> None:
    """A `ca` that isn't there is a wrong policy."""
    with pytest.raises(StoreMisconfigured):
        S3Store("offsite", "b", endpoint="https://127.0.0.1:1", access_key="k", secret_key="s", ca=tmp_path / "none")


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_keys(tmp_path: Path, wrong: str) -> None:
    """A wrong secret or access key is a refusal at the first try, with a hint, and its value is nowhere."""
    with rclone_server(tmp_path) as server:
        keys = {"access_key": server.access_key, "secret_key": server.secret_key, wrong: "another-key-than-ours"}
        driver = S3Store("offsite", server.bucket, endpoint=server.endpoint, **keys)  # type: ignore[arg-type]
        store = ResilientStore(driver, clock=SystemClock(), budget_s=30, breaker_failures=5, breaker_reset_s=1)
        for request in (lambda: store.put("a", b"x"), lambda: store.get("a"), lambda: list(store.list(""))):
            with pytest.raises(StoreDenied) as raised:
                request()
            assert raised.value.hint
            assert "another-key" not in f"{raised.value} {raised.value.context}"
        assert store.statistics().retry.retries == 0
