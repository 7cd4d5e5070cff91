"""Real S3 servers for tests, over HTTP on free loopback ports: moto_server and `rclone serve s3`."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ACCESS_KEY = "replicatortestaccesskey"
_SECRET_KEY = "replicator-test-secret-key"


@dataclass(frozen=True)
class S3Server:
    """A running server. `honours_create_only`: whether it knows If-None-Match."""

    endpoint: str
    port: int
    bucket: str
    access_key: str
    secret_key: str
    honours_create_only: bool


def _ports() -> Iterator[int]:
    """Numbers below those that the system gives to connections, in an order by chance; each worker of a run draws from
    a part of its own.
    """
    part = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    ports = list(range(12_000 + int(part or 0) % 8, 32_000, 8))
    while True:
        random.SystemRandom().shuffle(ports)
        yield from ports


_drawn = _ports()
_drawing = threading.Lock()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that nobody takes by chance before it is listened on, nor
    while its server is down for a while.
    """
    with _drawing:
        for port in _drawn:
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise AssertionError("there is always another one")


@contextmanager
def moto_server(bucket: str = "bucket") -> Iterator[S3Server]:
    """moto's S3: in memory, honours If-None-Match, asks for no authentication."""
    port = free_port()
    program = Path(sys.executable).parent / "moto_server"
    with _running([str(program), "-H", "127.0.0.1", "-p", str(port)], port):
        make_bucket(port, bucket)
        yield S3Server(f"http://127.0.0.1:{port}", port, bucket, _ACCESS_KEY, _SECRET_KEY, honours_create_only=True)


@contextmanager
def rclone_server(directory: Path, bucket: str = "bucket") -> Iterator[S3Server]:
    """rclone's S3 over files in `directory`: checks signatures, silently ignores If-None-Match."""
    port = free_port()
    (directory / bucket).mkdir(parents=True, exist_ok=True)
    beside = Path(sys.executable).parent / "rclone"
    program = str(beside) if beside.exists() else shutil.which("rclone") or "rclone"
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, str(directory)]
    environment = {**os.environ, "RCLONE_AUTH_KEY": f'"{_ACCESS_KEY},{_SECRET_KEY}"'}
    with _running(command, port, environment):
        yield S3Server(f"http://127.0.0.1:{port}", port, bucket, _ACCESS_KEY, _SECRET_KEY, honours_create_only=False)


def make_bucket(port: int, bucket: str) -> None:
    """Make a bucket in a moto server."""
    _put(port, f"/{bucket}")


def reset_moto(port: int, bucket: str) -> None:
    """Forget everything a moto server holds, and make the bucket anew."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(request, timeout=60).close()
    make_bucket(port, bucket)


def _put(port: int, path: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method="PUT", data=b"")
    urllib.request.urlopen(request, timeout=60).close()


@contextmanager
def _running(command: list[str], port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_answering(process, port)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_until_answering(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not answer")
