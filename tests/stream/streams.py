"""Running streams for tests: threads, waiting with a deadline, and reading back what the stores hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from replicator.core.lsn import Lsn, Segment
from replicator.errors import ObjectAbsent, StoreDenied, StoreUnavailable
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.repository.catalog import StoreCatalog, longest_chain, read_catalog
from replicator.repository.layout import piece_name
from replicator.repository.objects import open_object
from replicator.repository.repository import Repository
from replicator.stream import ClusterStream, StreamSettings
from replicator.tolerance import Clock, Deadline, SystemClock
from tests.clusters import TestCluster

SLOT = "replicator_test"


def settings(**changes: Any) -> StreamSettings:
    """Settings for tests: pieces after 50 ms."""
    return replace(StreamSettings(slot=SLOT, piece_interval=0.05, level=1), **changes)


def connector(cluster: Callable[[], TestCluster], also: str) -> Callable[[], ReplicationConnection]:
    """Connects to whatever cluster is the primary now; `also` is more of the conninfo."""
    return lambda: ReplicationConnection.connect(
        f"{cluster().conninfo()} {also}", None, application_name=SLOT, connect_timeout=20.0, request_timeout=20.0
    )


class Tap:
    """A driver whose requests can be refused or held up: `closed` raises, `slow` waits seconds before each put."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.closed = False
        self.denied: set[str] = set()
        self.slow = 0.0
        self.puts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            if self.closed:
                raise StoreUnavailable(f"{name}: the tap is closed")
            if name in self.denied:
                raise StoreDenied(f"{name}: denied")
            if name == "put":
                time.sleep(self.slow)
                self.puts.append(arguments[0])
            return value(*arguments, **named)

        return call


class RunningStream:
    """A ClusterStream whose workers run in threads. `failures` are what ended a worker, by name."""

    def __init__(
        self,
        repository: Repository,
        spool: Path,
        cluster: Callable[[], TestCluster],
        chosen: StreamSettings | None = None,
        *,
        also: str = "",
        clock: Clock | None = None,
        **arguments: Any,
    ) -> None:
        self.repository = repository
        self.stream = ClusterStream(
            repository,
            spool,
            chosen or settings(),
            connect=connector(cluster, also),
            sql=lambda: SqlConnection(f"{cluster().conninfo()} {also}", None),
            clock=clock or SystemClock(),
            **arguments,
        )
        self.failures: dict[str, BaseException] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(worker.name, worker.run), name=worker.name, daemon=True)
            for worker in self.stream.workers()
        ]

    def _run(self, name: str, run: Callable[[threading.Event], None]) -> None:
        try:
            run(self._stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failures[name] = error

    def start(self) -> RunningStream:
        """Start every worker."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, *, flush: bool = False) -> None:
        """Stop every worker and wait for it."""
        if flush:
            assert self.stream.flush(Deadline(SystemClock(), 60))
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), thread.name

    def wait(self, true: Callable[[Any], bool], what: str, seconds: float = 120) -> Any:
        """Wait until `true` of the statistics; them."""
        until = time.monotonic() + seconds
        while True:
            now = self.stream.statistics()
            if true(now):
                return now
            if time.monotonic() > until:
                raise AssertionError(f"not in {seconds} s: {what}: {now} {self.failures}")
            time.sleep(0.01)

    def wait_near(self, lsn: str) -> Any:
        """Wait until the store "near" has everything up to `lsn`."""
        return self.wait(lambda now: (now.stores["near"].durable_lsn or 0) >= Lsn.parse(lsn), f"near {lsn}")

    def wait_durable(self, lsn: str | Lsn) -> Any:
        """Wait until every store has everything up to `lsn`."""
        wanted = Lsn.parse(str(lsn))
        return self.wait(
            lambda now: all((store.durable_lsn or 0) >= wanted for store in now.stores.values()),
            f"durable {wanted}",
        )


@contextmanager
def streaming(
    repository: Repository, spool: Path, cluster: TestCluster, chosen: StreamSettings | None = None, **arguments: Any
) -> Iterator[RunningStream]:
    """A running stream of `cluster`; no worker may have failed."""
    running = RunningStream(repository, spool, lambda: cluster, chosen, **arguments).start()
    try:
        yield running
    finally:
        running.stop()
    assert not running.failures, running.failures


def catalog(repository: Repository, system_id: int, store: str = "local", size: int = 0) -> StoreCatalog:
    """What a store holds."""
    return read_catalog(repository.store(store), system_id, repository.keyring, segment_size=size)


def stored_wal(repository: Repository, system_id: int, segment: Segment, store: str = "local") -> bytes:
    """A segment's bytes as a restore would read them: whole, or its pieces joined. While a stream runs, pieces may give
    way between the list and the read: then the list is read again.
    """
    for _ in range(10):
        with suppress(ObjectAbsent):
            return _stored_wal(repository, system_id, segment, store)
    raise AssertionError(f"{segment.name} never stands still")


def _stored_wal(repository: Repository, system_id: int, segment: Segment, store: str) -> bytes:
    held = catalog(repository, system_id, store, segment.size)
    whole = held.objects_of(segment)
    if whole:
        return open_object(repository.store(store), whole[0], repository.keyring).read()
    data = bytearray()
    for piece in longest_chain(held.pieces.get(segment.name, ()), segment.start):
        name = piece_name(system_id, segment, piece.start, piece.end, piece.fingerprint)
        body = open_object(repository.store(store), name, repository.keyring).read()
        data[piece.start - segment.start :] = body
    return bytes(data)
