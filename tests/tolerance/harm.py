"""What shows harm: calls that never end, and servers that never answer.

Off is a limit beyond all reach: an hour, a billion failures, ten thousand places. Harm is a call that has not ended, or
a number of calls, never a measured time.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from tests.clusters import have_binaries

#: Beyond all reach.
NEVER = 3600.0
SOON = 0.1


def server(test: Callable[..., None]) -> Callable[..., None]:
    """A test that needs PostgreSQL."""
    marked: Callable[..., None] = pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")(test)
    done: Callable[..., None] = pytest.mark.server(marked)
    return done


class Attempt:
    """A call in a thread of its own, which may never end."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def hangs(self) -> bool:
        """Whether it has not ended after more than three times what it would take with the mechanism."""
        self._thread.join(4 * SOON)
        return self.going_on

    @property
    def going_on(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def failed(self) -> BaseException | None:
        """What it ended with; it does end."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.error


@contextmanager
def deaf_server() -> Iterator[int]:
    """A port where connections stand and nothing is ever said; what waits for it is let go at the end."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        held: list[socket.socket] = []
        listener.settimeout(0.05)
        over = Event()

        def accept() -> None:
            while not over.is_set():
                try:
                    held.append(listener.accept()[0])
                except TimeoutError:
                    continue

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()[1]
        over.set()
        accepting.join()
        for line in held:
            line.close()
