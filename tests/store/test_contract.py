"""The contract, against every driver and wrapper; the S3 half over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from replicator.errors import AlreadyExists
from replicator.store import Driver, Prefixed, ResilientStore, Store
from replicator.store.directory import DirectoryStore
from replicator.store.s3_store import S3Store
from replicator.tolerance import SystemClock
from tests.servers import S3Server, moto_server, rclone_server
from tests.store.contract import StoreContract

_prefixes = count(1)


def resilient(driver: Driver) -> ResilientStore:
    """The driver in its wrapper, with short patience."""
    return ResilientStore(driver, clock=SystemClock(), budget_s=60, breaker_failures=5, breaker_reset_s=1)


def s3_store(server: S3Server) -> S3Store:
    """A store in a server. Making a client takes 0.3 s, so a file shares one and each test has a folder of it."""
    return S3Store(
        "offsite",
        server.bucket,
        "a/prefix",
        endpoint=server.endpoint,
        access_key=server.access_key,
        secret_key=server.secret_key,
    )


def folder(store: Store) -> Store:
    """A folder of the store that no other test has."""
    return Prefixed(store, f"{next(_prefixes)}/")


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Store]:
    """A store in a moto server."""
    with moto_server() as server:
        yield s3_store(server)


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """A store in an rclone server."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as server:
        yield s3_store(server)


def directory_store(root: Path) -> DirectoryStore:
    """A prepared directory."""
    store = DirectoryStore("local", root / "repository")
    store.prepare()
    return store


class RacingContract(StoreContract):
    """For stores that refuse to overwrite also between two writers at once."""

    def test_one_of_many_writers_wins(self, store: Store) -> None:
        """Of eight puts of one name exactly one succeeds, and its bytes stay."""
        won: list[bytes] = []
        start = threading.Barrier(8, timeout=60)

        def work(body: bytes) -> None:
            start.wait()
            try:
                store.put("race", body)
            except AlreadyExists:
                return
            won.append(body)

        threads = [threading.Thread(target=work, args=(bytes([number]) * 1000,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(won) == 1
        assert store.get("race") == won[0]


class TestDirectory(RacingContract):
    """The directory driver."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """An empty directory."""
        return directory_store(tmp_path)


class TestResilientDirectory(RacingContract):
    """The wrapper over the directory driver."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """An empty directory, wrapped."""
        return resilient(directory_store(tmp_path))


class TestPrefixed(RacingContract):
    """A folder of a store, with names of others beside it."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """The folder frk/ of a store that holds fed/ and frk-old/ too."""
        inner = resilient(directory_store(tmp_path))
        for name in ("fed/a", "frk-old/a", "frk0"):
            inner.put(name, b"other")
        return Prefixed(inner, "frk/")


@pytest.mark.s3
class TestMoto(RacingContract):
    """S3 over HTTP where If-None-Match is honoured."""

    @pytest.fixture
    def store(self, moto: S3Store) -> Store:
        """A fresh folder."""
        return folder(moto)


@pytest.mark.s3
class TestRclone(StoreContract):
    """S3 over HTTP where If-None-Match is silently ignored: still nothing is overwritten."""

    @pytest.fixture
    def store(self, rclone: S3Store) -> Store:
        """A fresh folder."""
        return folder(rclone)


@pytest.mark.s3
class TestResilientRclone(StoreContract):
    """The wrapper over S3."""

    @pytest.fixture
    def store(self, rclone: S3Store) -> Store:
        """A fresh folder, wrapped."""
        return folder(resilient(rclone))
