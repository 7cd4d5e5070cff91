"""One thread and one bounded queue per store: the same sealed bytes go to each, and a slow one holds up no other.

Owns the writers of the packs. What is queued is bounded, so memory is a few frames per store whatever is sent. A store
that fails, or takes nothing for its deadline, is left out; nothing is ever sealed again for it.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event, Thread

from replicator.errors import Interrupted, ReplicatorError, StoreUnavailable
from replicator.snapshot.participants import TICK, Participants
from replicator.store.protocol import ObjectWriter, Store
from replicator.tolerance import Clock, Deadline

#: Sealed frames waiting for one store.
_QUEUED = 4
_ABORT_SECONDS = 5.0


class _Commit:
    """Make the object that is open visible."""


class _Close:
    """Nothing more comes."""


_Item = str | bytes | type[_Commit] | type[_Close]


class _Channel:
    """A str opens an object of that name, bytes are written to it."""

    def __init__(self, store: Store) -> None:
        self.queue: Queue[_Item] = Queue(_QUEUED)
        self.error: BaseException | None = None
        self.ended = Event()
        self.abandoned = Event()
        self._store = store
        self._writer: ObjectWriter | None = None
        self._thread = Thread(target=self._run, name=f"snapshot-packs-{store.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self.abandoned.is_set():
                try:
                    item = self.queue.get(timeout=TICK)
                except Empty:
                    continue
                if item is _Close:
                    return
                self._handle(item)
        except BaseException as error:  # noqa: BLE001  # raised again by the producer
            self.error = error
        finally:
            if self._writer is not None:
                with suppress(ReplicatorError):  # what could not be aborted is the store's litter; the error is kept
                    self._writer.abort()
            self.ended.set()

    def _handle(self, item: _Item) -> None:
        if isinstance(item, str):
            self._writer = self._store.writer(item)
            return
        assert self._writer is not None
        if isinstance(item, bytes):
            self._writer.write(item)
        else:
            self._writer.commit()
            self._writer = None


class Channels:
    """Sends objects to every participant. Use as a context manager: leaving it early aborts what is open."""

    def __init__(self, participants: Participants, clock: Clock, deadline_s: float, stop: Event) -> None:
        self._participants = participants
        self._clock = clock
        self._deadline_s = deadline_s
        self._stop = stop
        self._channels = {name: _Channel(store) for name, store in participants.active.items()}

    def __enter__(self) -> Channels:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.abandoned.set()
        deadline = Deadline(self._clock, _ABORT_SECONDS)
        for name, channel in self._channels.items():
            if name in self._participants.active:  # one that was left out may hang for ever
                channel.ended.wait(deadline.remaining())

    def open(self, name: str) -> None:
        """Begin the object `name` in every store."""
        self._send(name)

    def write(self, data: bytes) -> None:
        """Append to the open object."""
        self._send(data)

    def commit(self) -> None:
        """Make the open object visible and durable; returns before it is."""
        self._send(_Commit)

    def finish(self) -> None:
        """Wait until everything sent is durable in every store that still takes part."""
        self._send(_Close)
        for name, channel in list(self._channels.items()):
            deadline = Deadline(self._clock, self._deadline_s)
            left = channel.queue.qsize()
            while name in self._participants.active and not channel.ended.wait(TICK):
                if channel.queue.qsize() != left:
                    left, deadline = channel.queue.qsize(), Deadline(self._clock, self._deadline_s)
                self._look(name, channel, deadline)
            self._look(name, channel, None)

    def _send(self, item: _Item) -> None:
        for name, channel in list(self._channels.items()):
            deadline = Deadline(self._clock, self._deadline_s)
            while name in self._participants.active:
                if self._look(name, channel, deadline):
                    with suppress(Full):
                        channel.queue.put(item, timeout=TICK)
                        break

    def _look(self, name: str, channel: _Channel, deadline: Deadline | None) -> bool:
        """Whether the store still takes part; leaves it out when it failed or its deadline is over."""
        if self._stop.is_set():
            raise Interrupted("the snapshot was stopped")
        error = channel.error
        if error is not None and (isinstance(error, Interrupted) or not isinstance(error, ReplicatorError)):
            raise error
        if error is None and deadline is not None and deadline.over:
            error = StoreUnavailable(f"store {name} took nothing for {self._deadline_s:g} s")
        if error is None or name not in self._participants.active:
            return error is None
        channel.abandoned.set()
        self._participants.leave_out(name, error)
        return False
