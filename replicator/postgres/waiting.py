"""The only place of this package that waits on a socket.

Protocol steps are generators: they yield what they wait for and are resumed with what became ready. `drive` runs
one to its end under a deadline. No protocol knowledge here.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Generator
from enum import IntFlag
from typing import TypeVar

from replicator.errors import Interrupted, SourceUnavailable

T = TypeVar("T")
#: How often a wait looks at the stop flag and its deadline, in seconds.
TICK = 0.1


class Wait(IntFlag):
    """What a step waits for, and what it is told became ready. NOW: look, do not wait."""

    NONE = 0
    READ = 1
    WRITE = 2
    NOW = 4


Conversation = Generator[Wait, Wait, T]


def wait_socket(fd: int, interest: Wait, seconds: float) -> Wait:
    """Wait at most `seconds` until `fd` is ready; NONE when it is not. An error on the socket counts as readable."""
    poller = select.poll()
    mask = (select.POLLIN if interest & Wait.READ else 0) | (select.POLLOUT if interest & Wait.WRITE else 0)
    poller.register(fd, mask)
    ready = Wait.NONE
    for _, events in poller.poll(max(0, round(seconds * 1000))):
        if events & select.POLLOUT:
            ready |= Wait.WRITE
        if events & ~select.POLLOUT:
            ready |= Wait.READ
    return ready


def drive(steps: Conversation[T], fd: int, seconds: float, *, doing: str, stop: threading.Event | None = None) -> T:
    """Run `steps` to their end. `seconds` is how long the other side may stay silent at one step.

    Raises SourceUnavailable when it is silent longer, Interrupted when `stop` is set.
    """
    ready = Wait.NONE
    try:
        wanted = next(steps)
        while True:
            ready = _wait(fd, wanted, seconds, doing, stop)
            wanted = steps.send(ready)
    except StopIteration as end:
        value: T = end.value
        return value


def _wait(fd: int, wanted: Wait, seconds: float, doing: str, stop: threading.Event | None) -> Wait:
    if wanted & Wait.NOW:
        return wait_socket(fd, wanted, 0)
    until = time.monotonic() + seconds
    while True:
        if stop is not None and stop.is_set():
            raise Interrupted(f"{doing}: stopped")
        left = until - time.monotonic()
        if left <= 0:
            raise SourceUnavailable(f"{doing}: the server did not answer within {seconds:g} s")
        ready = wait_socket(fd, wanted, min(TICK, left))
        if ready:
            return ready
