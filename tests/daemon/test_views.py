"""How fresh the views of the stores are: a real repository in a directory, whose store can go away or be slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

from replicator.daemon.views import Views
from replicator.errors import StoreUnavailable
from replicator.store import ObjectInfo, Prefixed, Store
from replicator.tolerance import Deadline, SystemClock
from tests.repositories import make_repository

CLOCK = SystemClock()


class Moody(Prefixed):
    """A store whose listings `mood` is called before."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner, "")
        self.listed = 0
        self.mood: Callable[[], object] = lambda: None

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As Store."""
        self.listed += 1
        self.mood()
        return super().list(prefix, after=after)


@contextmanager
def reading(base: Path) -> Iterator[tuple[Views, Moody]]:
    """The views of a new repository, read by a worker once already."""
    made = make_repository(base)
    store = Moody(made.store("local"))
    views, stop = Views(replace(made, stores={"local": store}), CLOCK), Event()
    worker = Thread(target=views.read, args=("local", stop))
    worker.start()
    try:
        views.freshen()(Deadline(CLOCK, 30))
        yield views, store
    finally:
        stop.set()
        worker.join(60)
        assert not worker.is_alive()


def test_who_asks_sees_what_is_there_now(tmp_path: Path) -> None:
    """A view is read again for each who asks, and not while nobody does."""
    with reading(tmp_path) as (views, store):
        before, listed = views.latest()["local"].read_at, store.listed
        time.sleep(0.3)
        assert store.listed == listed
        views.freshen()(Deadline(CLOCK, 30))
        after = views.latest()["local"].read_at
        assert before is not None
        assert after is not None
        assert after > before


def test_failure_is_in_the_view(tmp_path: Path) -> None:
    """A store that is away keeps its last view, with the error beside it."""

    def away() -> None:
        raise StoreUnavailable("store local: away")

    with reading(tmp_path) as (views, store):
        store.mood = away
        views.freshen()(Deadline(CLOCK, 30))
        view = views.latest()["local"]
        assert isinstance(view.error, StoreUnavailable)
        assert view.read_at is not None


def test_a_store_that_hangs_holds_up_nobody_for_long(tmp_path: Path) -> None:
    """The first who asks waits until the deadline; while that listing goes on nobody waits at all."""
    hang = Event()
    with reading(tmp_path) as (views, store):
        store.mood = lambda: hang.wait(60)
        began = time.monotonic()
        views.freshen()(Deadline(CLOCK, 0.7))
        first = time.monotonic() - began
        views.freshen()(Deadline(CLOCK, 30))
        second = time.monotonic() - began - first
        hang.set()
        assert 0.6 < first < 15
        assert second < 15
