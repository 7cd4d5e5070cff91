"""All objects of one store looked at, oldest unverified first, by a few threads, as far as the time allows.

Owns the order, the threads and what each object's look brought. Says nothing of what it means.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from replicator.core.moment import to_microseconds
from replicator.errors import (
    DeadlineExceeded,
    IntegrityError,
    KeysError,
    ObjectAbsent,
    StoreUnavailable,
)
from replicator.repository.repository import Repository
from replicator.tolerance import Clock, Deadline
from replicator.verify.examine import Examined, examine
from replicator.verify.inventory import Inventory, group_of, modified_us
from replicator.verify.ledger import Ledger
from replicator.verify.shapes import Shapes

#: Threads for one store that read objects, which hides the way to an S3 server, and those that open what was read.
LOOKS = 4
OPENERS = max(2, min(8, os.cpu_count() or 1))
#: More than what a thread lets go of with a part.
_KEPT = 24 << 20
#: A store that fails so often in a row is left alone.
_MOST_FAILURES = 3


@dataclass
class Swept:
    """What the look at one store brought. `moments`: since when each object is known to be well, in microseconds.
    `trouble`: the objects that could not be read; `given_up`: the store stopped answering; `complete`: this run left
    nothing out.
    """

    store: str
    moments: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, IntegrityError | KeysError] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    trouble: dict[str, StoreUnavailable] = field(default_factory=dict)
    segment_sizes: dict[str, int] = field(default_factory=dict)
    checked: int = 0
    opened: int = 0
    bytes: int = 0
    complete: bool = False
    given_up: StoreUnavailable | None = None


class Sweep:
    """One store. `tick` is told the bytes of each read, by any thread, and may raise Interrupted."""

    def __init__(
        self, repository: Repository, inventory: Inventory, ledger: Ledger, clock: Clock, deadline: Deadline,
        tick: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._repository = repository
        self._inventory = inventory
        self._clock = clock
        self._deadline = deadline
        self._tick = tick
        self._shapes = Shapes()
        self._lock = Lock()
        self._failures = 0
        self.swept = Swept(inventory.store)
        names = inventory.known
        objects = inventory.objects
        self._before = {name: ledger.moment_of(name, modified_us(objects[name])) for name in names}
        # What was never looked at, then the oldest look; of those what everything else stands on first.
        self.order = sorted(
            names, key=lambda name: (self._before[name], group_of(name) != "root", modified_us(objects[name]))
        )
        self.total = sum(objects[name].size for name in names)

    def run(self) -> Swept:
        """Look at all of them. Raises Interrupted; what a store does is in the result."""
        swept = self.swept
        swept.moments = dict(self._before)
        names: Iterator[str] = iter(self.order)
        _keep_freed_memory()
        with (
            ThreadPoolExecutor(OPENERS, thread_name_prefix=f"open {swept.store}") as self._openers,
            ThreadPoolExecutor(LOOKS, thread_name_prefix=f"verify {swept.store}") as pool,
        ):
            running: set[Future[bool]] = set()
            try:
                while self._feed(pool, names, running):
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            finally:
                for future in running:
                    future.cancel()
        left = swept.checked + len(swept.damaged) + len(swept.absent) + len(swept.trouble)
        swept.complete = swept.given_up is None and left == len(self.order)
        return swept

    def _feed(self, pool: ThreadPoolExecutor, names: Iterator[str], running: set[Future[bool]]) -> bool:
        """Keep every thread busy; whether there is anything to wait for."""
        while len(running) < 2 * LOOKS and not self._deadline.over and self.swept.given_up is None:
            name = next(names, None)
            if name is None:
                break
            running.add(pool.submit(self._look, name))
        return bool(running)

    def _look(self, name: str) -> bool:
        if self.swept.given_up is not None or self._deadline.over:
            return False
        began = to_microseconds(self._clock.now())
        try:
            found = examine(
                self._repository, self.swept.store, name, self._ticked,
                size=self._inventory.objects[name].size, pool=self._openers, shapes=self._shapes,
            )  # fmt: skip
        except DeadlineExceeded:
            return False
        except (IntegrityError, KeysError, ObjectAbsent, StoreUnavailable) as error:
            self._failed(name, error)
            return False
        self._well(name, found, began)
        return True

    def _ticked(self, size: int) -> None:
        self._tick(size)
        self._deadline.check("the verification")

    def _well(self, name: str, found: Examined, began: int) -> None:
        listed = self._inventory.objects[name].size
        if found.size != listed:
            text = f"{name}: {found.size} bytes where the store's listing says {listed}"
            self._failed(name, IntegrityError(text, object=name))
            return
        with self._lock:
            self._failures = 0
            self.swept.moments[name] = began
            self.swept.checked += 1
            self.swept.opened += found.opened
            self.swept.bytes += found.size
            if found.segment_size:
                self.swept.segment_sizes[name] = found.segment_size

    def _failed(self, name: str, error: IntegrityError | KeysError | ObjectAbsent | StoreUnavailable) -> None:
        with self._lock:
            self.swept.moments.pop(name, None)
            self._failures = self._failures + 1 if isinstance(error, StoreUnavailable) else 0
            if isinstance(error, ObjectAbsent):
                self.swept.absent.add(name)
            elif isinstance(error, StoreUnavailable):
                self.swept.trouble[name] = error
                if self._failures >= _MOST_FAILURES:
                    self.swept.given_up = error
            else:
                self.swept.damaged[name] = error


def _keep_freed_memory() -> None:
    """The C library gives a large block back to the system when it is freed, and the system clears it anew for the next
    part. Once a larger block was freed glibc keeps blocks up to that size; elsewhere this does nothing.
    """
    bytes(_KEPT)  # from calloc: never touched
