"""Signals: handlers that only set flags, and the wait that a signal, or another thread, ends.

SIGTERM and SIGINT ask for an orderly end; a second one cuts it short. SIGHUP asks that the policies be read again.
Also tells systemd how we are.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Self

_ASKING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """As a context manager in the main thread: counts the signals that ask for an end, remembers that one asked for a
    reload, and wakes `wait`.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.last = ""
        self._reload = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._former: dict[signal.Signals, object] = {}
        self._former_fd = -1

    def __enter__(self) -> Self:
        self._former = {number: signal.signal(number, self._handle) for number in (*_ASKING, signal.SIGHUP)}
        self._former_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._former_fd)
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave, it takes
        os.close(self._read)
        os.close(self._write)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
            return
        self.asked += 1
        self.last = signal.Signals(number).name

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last call; several count as one."""
        asked, self._reload = self._reload, False
        return asked

    def wake(self) -> None:
        """End the present or next `wait`; any thread may call it."""
        try:
            os.write(self._write, b"\0")
        except OSError:  # it is full, so the wait ends anyway; or closed, so nobody waits
            return

    def wait(self, seconds: float) -> None:
        """Wait until woken, for at most `seconds`."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if ready:
            os.read(self._read, 4096)


def notify(state: str, environ: dict[str, str] | None = None) -> None:
    """Tell systemd ("READY=1", "STOPPING=1"), when it asked to be told. Never fails: it is a courtesy."""
    place = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    address = f"\0{place[1:]}" if place.startswith("@") else place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        try:
            told.sendto(state.encode(), address)
        except OSError:
            return
