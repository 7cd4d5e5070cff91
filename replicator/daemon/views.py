"""What a cluster's stores hold, as last read, and when it is read again.

Owns the views' age: now and then, when something changed, and when somebody asks. Each store has a worker of its own,
so a dead one holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Condition, Event

from replicator.repository.repository import Repository
from replicator.status.catalogs import CatalogReader, StoreView
from replicator.tolerance import Clock, Deadline

#: A view is about this old at most while nobody asks and the store answers soon.
VIEW_S = 30.0
#: After a failure.
AGAIN_S = 5.0
#: A store that takes longer to list is not listed for everybody who asks.
SOON_S = 0.5
#: What signed ranges say is compared with a full listing when the daemon starts, and this often.
LISTED_S = 86400.0
_TICK_S = 0.1
#: How late a worker that waits for something else notices that it is to stop.
_STOP_S = 0.5


@dataclass
class _Place:
    reader: CatalogReader
    stale: Event = field(default_factory=Event)
    reading: float | None = None
    began: float = float("-inf")
    took: float = 0.0


class Views:
    """All views of one cluster. `read` is a store's worker; everything else may be called from any thread."""

    def __init__(self, repository: Repository, clock: Clock) -> None:
        self._clock = clock
        self._places = {
            name: _Place(CatalogReader(repository, name, clock, listed_every_s=LISTED_S)) for name in repository.stores
        }
        self._changed = Condition()

    def latest(self) -> Mapping[str, StoreView]:
        """As last read."""
        return {name: place.reader.view for name, place in self._places.items()}

    def read(self, name: str, stop: Event) -> None:
        """Read one store's view again and again, until `stop` is set."""
        place = self._places[name]
        while not stop.is_set():
            place.stale.clear()
            began = place.reading = self._clock.monotonic()
            view = place.reader.refresh()
            now = self._clock.monotonic()
            with self._changed:
                place.began, place.took, place.reading = began, now - began, None
                self._changed.notify_all()
            # A store that lists slowly is not listed all the time; one that failed is soon asked whether it is back.
            due = now + (VIEW_S if view.error is None else AGAIN_S) + 2 * place.took
            while self._clock.monotonic() < due and not stop.is_set():
                if self._clock.wait(place.stale, min(_STOP_S, due - self._clock.monotonic())):
                    break

    def stale(self) -> None:
        """Something changed: read all again soon, and don't wait for it."""
        for place in self._places.values():
            place.stale.set()

    def freshen(self) -> Callable[[Deadline], None]:
        """Ask that all be read again; what is returned waits for it. A store that lists slowly waits its turn."""
        asked = self._clock.monotonic()
        waited = [place for place in self._places.values() if self._worth_it(place, asked)]
        for place in waited:
            place.stale.set()

        def wait(deadline: Deadline) -> None:
            with self._changed:
                while any(place.began < asked for place in waited) and not deadline.over:
                    self._changed.wait(min(_TICK_S, deadline.remaining()))

        return wait

    def _worth_it(self, place: _Place, now: float) -> bool:
        if place.reading is not None and now - place.reading > SOON_S:
            return False
        return place.took <= SOON_S or now - place.began > 3 * place.took
