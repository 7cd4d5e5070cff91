"""The stores that take part in one snapshot: a store that fails is left out of it, and remembered with its reason.

Owns who still takes part. Never decides whether a failure can be retried: the stores given are already resilient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

from replicator.errors import Interrupted, ReplicatorError, StoreUnavailable
from replicator.store.protocol import Store
from replicator.tolerance import Clock, Deadline

T = TypeVar("T")

#: How often a wait looks at the stop flag, in seconds.
TICK = 0.1
_Answer = tuple[str, object, BaseException | None]


class Participants:
    """Begins with every store. One slow store costs at most `deadline_s` at each step, and holds up no other."""

    def __init__(self, stores: Mapping[str, Store], clock: Clock, deadline_s: float, stop: Event) -> None:
        self.active: dict[str, Store] = dict(stores)
        self.left_out: dict[str, ReplicatorError] = {}
        self._clock = clock
        self._deadline_s = deadline_s
        self._stop = stop

    def half_time(self) -> Deadline:
        """When what is asked of every store from now on should end by itself, if it can be of any length."""
        return Deadline(self._clock, self._deadline_s / 2)

    def leave_out(self, name: str, error: ReplicatorError) -> None:
        """Go on without this store. Raises its error when it was the last one."""
        if self.active.pop(name, None) is not None:
            self.left_out[name] = error
        if not self.active:
            raise self._all_failed(error)

    def each(self, ask: Callable[[str, Store], T], *, what: str, to_the_end: bool = False) -> dict[str, T]:
        """Ask every store at once; those that fail are left out. Raises the error of the last store, and Interrupted
        when asked to stop, unless it goes `to_the_end`.
        """
        if self._stop.is_set() and not to_the_end:
            raise Interrupted(f"stopped: {what}")  # nobody is asked any more
        answers: SimpleQueue[_Answer] = SimpleQueue()

        def run(name: str, store: Store) -> None:
            try:
                answers.put((name, ask(name, store), None))
            except BaseException as error:  # noqa: BLE001  # raised again by the waiter
                answers.put((name, None, error))

        asked = dict(self.active)
        for name, store in asked.items():
            # A daemon thread: one that hangs beyond its deadline must not keep the process.
            Thread(target=run, args=(name, store), name=f"snapshot-{what}-{name}", daemon=True).start()
        return self._gather(set(asked), answers, what, to_the_end)

    def _gather(self, waiting: set[str], answers: SimpleQueue[_Answer], what: str, to_the_end: bool) -> dict[str, T]:
        found: dict[str, T] = {}
        failed: dict[str, ReplicatorError] = {}
        deadline = Deadline(self._clock, self._deadline_s)
        while waiting and not deadline.over:
            if self._stop.is_set() and not to_the_end:
                raise Interrupted(f"stopped: {what}")
            try:
                name, value, error = answers.get(timeout=TICK)
            except Empty:
                continue
            waiting.discard(name)
            if error is None:
                found[name] = value  # type: ignore[assignment]  # what `ask` returned
            elif isinstance(error, ReplicatorError) and not isinstance(error, Interrupted):
                failed[name] = error
            else:
                raise error
        for name in sorted(waiting):
            failed[name] = StoreUnavailable(f"store {name} did not answer within {self._deadline_s:g} s: {what}")
        for name, reason in failed.items():
            self.leave_out(name, reason)
        return found

    def _all_failed(self, last: ReplicatorError) -> ReplicatorError:
        if len(self.left_out) == 1 or not isinstance(last, StoreUnavailable):
            return last
        reasons = "; ".join(error.message for error in self.left_out.values())
        return StoreUnavailable(f"no store takes the snapshot: {reasons}", hint=last.hint)
