"""Signals set flags and wake the loop; systemd is told, and never a reason to fail."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from threading import Timer

from replicator.daemon.signals import Signals, notify


def test_signals_are_counted_and_wake() -> None:
    """Each SIGTERM or SIGINT counts and ends the wait; the former handlers come back."""
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        began = time.monotonic()
        timer = Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        while not signals.asked and time.monotonic() - began < 60:
            signals.wait(60)
        timer.join()
        assert (signals.asked, signals.last) == (1, "SIGTERM")
        os.kill(os.getpid(), signal.SIGINT)
        signals.wait(60)
        assert (signals.asked, signals.last) == (2, "SIGINT")
        assert time.monotonic() - began < 50
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reload_is_no_end() -> None:
    """SIGHUP ends the wait and asks for one reload, however often it came; nobody is asked to end."""
    with Signals() as signals:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        signals.wait(1)
        assert (signals.take_reload(), signals.take_reload(), signals.asked) == (True, False, 0)


def test_another_thread_wakes() -> None:
    """`wake` ends the wait, however often it is called."""
    with Signals() as signals:
        for _ in range(100_000):
            signals.wake()
        began = time.monotonic()
        signals.wait(60)
        assert time.monotonic() - began < 50


def test_notify(tmp_path: Path) -> None:
    """systemd's socket gets the words; without one, or with a dead one, nothing happens."""
    place = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(place)
        notify("READY=1", {"NOTIFY_SOCKET": place})
        assert listening.recv(100) == b"READY=1"
    notify("READY=1", {"NOTIFY_SOCKET": place})
    notify("READY=1", {})
