"""A driver with retries, a breaker and a bulkhead around each of its requests.

Owns what a lost answer means: after a request of unknown outcome, "already exists" with our own bytes is success.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TypeVar

from blake3 import blake3

from replicator.errors import AlreadyExists, ReplicatorError, StoreUnavailable
from replicator.store import locks
from replicator.store.files import open_body
from replicator.store.names import validate_name
from replicator.store.probe import Observation, probe
from replicator.store.protocol import Driver, ObjectInfo, ObjectWriter, Properties, ReadableStore, Upload
from replicator.store.writer import PartWriter
from replicator.tolerance import Breaker, BreakerStatistics, Bulkhead, BulkheadStatistics, Clock, Retry, RetryStatistics

T = TypeVar("T")

#: Names asked for at once: few first, since many a caller looks at one only, then more with each page.
_FIRST_PAGE = 8
_PAGE = 1000
_WHOLE = 16 << 20
_COMPARED = 8 << 20


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What a store went through since the start."""

    name: str
    retry: RetryStatistics
    breaker: BreakerStatistics
    bulkhead: BulkheadStatistics


class ResilientStore:
    """A Store over a driver. `budget_s` seconds of retrying for each request; `most` requests at once.

    Each request passes the bulkhead first, then the breaker: waiting for a place is no failure of the store. `stop`
    ends the waiting between two tries with Interrupted.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        clock: Clock,
        budget_s: float,
        breaker_failures: int,
        breaker_reset_s: float,
        most: int = 8,
        wait_s: float = 30.0,
        stop: Event | None = None,
    ) -> None:
        self._driver = driver
        label = f"store {driver.name}"
        self._retry = Retry(clock, budget_s, stop=stop)
        self._breaker = Breaker(label, breaker_failures, breaker_reset_s, clock)
        self._bulkhead = Bulkhead(label, most, wait_s=wait_s)

    @property
    def name(self) -> str:
        """The policy's name of the store."""
        return self._driver.name

    @property
    def properties(self) -> Properties:
        """What the store guarantees."""
        return self._driver.properties

    def statistics(self) -> StoreStatistics:
        """What it went through so far."""
        return StoreStatistics(
            self.name, self._retry.statistics(), self._breaker.statistics(), self._bulkhead.statistics()
        )

    def prepare(self) -> None:
        """Make the store usable for the first time, or say clearly why it isn't."""
        self._call(self._driver.prepare, what=f"prepare {self.name}")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes [offset, offset + length), cut at the object's end. Raises ObjectAbsent."""
        return self._call(lambda: self._driver.get(name, offset, length), what=f"read {name}")

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """The last `length` bytes, or all if there are fewer, and the object's size. Raises ObjectAbsent."""
        return self._call(lambda: self._driver.get_tail(name, length), what=f"read {name}")

    def stat(self, name: str) -> ObjectInfo:
        """Facts of one object. Raises ObjectAbsent."""
        return self._call(lambda: self._driver.stat(name), what=f"look at {name}")

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name begins with `prefix` and sorts after `after`. A page that fails is asked for again;
        a fresh start goes on where the last page ended.
        """
        last, most = after, _FIRST_PAGE
        source: Iterator[ObjectInfo] | None = None

        def page() -> tuple[ObjectInfo, ...]:
            nonlocal source
            if source is None:
                source = self._driver.list(prefix, after=last)
            try:
                return tuple(islice(source, most))
            except ReplicatorError:
                source = None
                raise

        while found := self._call(page, what=f"list {prefix or self.name}"):
            yield from found
            last, most = found[-1].name, min(most * 8, _PAGE)

    @property
    def locks(self) -> bool:
        """Whether objects are locked."""
        return locks.locks(self._driver)

    def extend_lock(self, name: str) -> None:
        """Keep an object that is there for the whole lock time from now. Raises ObjectAbsent, StoreDenied."""
        self._call(lambda: locks.extend_lock(self._driver, name), what=f"extend the lock of {name}")

    def earlier(self, name: str) -> Iterator[ReadableStore]:
        """The store with each earlier content of `name` in its place, oldest first; it is for reading."""
        for driver in self._call(lambda: list(locks.earlier(self._driver, name)), what=f"list versions of {name}"):
            found = copy(self)
            found._driver = driver  # type: ignore[assignment]  # nothing is written through it
            yield found

    def probe(self, folder: str) -> Sequence[Observation]:
        """Find out what the store honours, with throw-away objects below `folder`."""
        return self._call(lambda: probe(self._driver, folder), what=f"probe {self.name}")

    def put(self, name: str, body: bytes | Path) -> None:
        """Create an object: visible as a whole, durable on return. Raises AlreadyExists."""
        if isinstance(body, Path) and body.is_file() and body.stat().st_size > _WHOLE:
            self._stream(name, body)
            return
        self._creating(name, lambda: self._driver.put(name, body), ours=lambda: self._same(name, *_facts(body)))

    def writer(self, name: str) -> ObjectWriter:
        """Create an object from a stream; each part is retried by itself."""
        return PartWriter(self._driver, validate_name(name), guard=self._call, put=self.put, complete=self._complete)

    def delete(self, name: str) -> None:
        """Remove an object; well when it isn't there. Raises StoreDenied when refused."""
        self._call(lambda: self._driver.delete(name), what=f"delete {name}")

    def free(self, name: str) -> datetime | None:
        """Remove an object for good; the end of the lock that keeps it in place, None when it is gone."""
        return self._call(lambda: locks.free(self._driver, name), what=f"delete {name}")

    def _stream(self, name: str, body: Path) -> None:
        """A large file goes in parts: a cut line then costs one part, not the file."""
        with open_body(body) as source, self.writer(name) as writer:
            while data := source.read(self._driver.part_size):
                writer.write(data)
            writer.commit()

    def _complete(self, upload: Upload, name: str, *, size: int, digest: bytes) -> None:
        self._creating(name, upload.complete, ours=lambda: self._same(name, size, digest))

    def _call(
        self, request: Callable[[], T], *, what: str, on_failure: Callable[[ReplicatorError], None] | None = None
    ) -> T:
        return self._retry.call(
            lambda: self._bulkhead.call(lambda: self._breaker.call(request)), what=what, on_failure=on_failure
        )

    def _creating(self, name: str, request: Callable[[], None], *, ours: Callable[[], bool]) -> None:
        """Make an object visible. Its being there already is well only when an earlier try of this very call may have
        done it and the bytes are ours.
        """
        unknown = False

        def attempt() -> None:
            nonlocal unknown
            try:
                request()
            except StoreUnavailable as error:
                unknown = unknown or error.retryable
                raise

        try:
            self._call(attempt, what=f"write {name}")
        except AlreadyExists:
            if not (unknown and ours()):
                raise
            self.extend_lock(name)

    def _same(self, name: str, size: int, digest: bytes) -> bool:
        """Whether the object holds exactly the bytes of this BLAKE3 digest."""
        if self.stat(name).size != size:
            return False
        hasher = blake3()
        for offset in range(0, size, _COMPARED):
            hasher.update(self.get(name, offset, _COMPARED))
        return hasher.digest() == digest


def _facts(body: bytes | Path) -> tuple[int, bytes]:
    """Size and BLAKE3 of a body."""
    if not isinstance(body, Path):
        return len(body), blake3(body).digest()
    hasher, size = blake3(), 0
    with open_body(body) as source:
        while data := source.read(_COMPARED):
            hasher.update(data)
            size += len(data)
    return size, hasher.digest()
