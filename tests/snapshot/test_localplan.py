"""Stamps, pieces and the rate limit: what is read beside the server, in which parts, and how fast."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import pytest

from replicator.errors import Interrupted
from replicator.postgres.datadir import FoundFile
from replicator.snapshot.pace import Pace
from replicator.snapshot.stamps import TRUSTED_S, comparison_due, make_stamp, unchanged
from tests.clock import FakeClock

NOW = 1_800_000_000.0
FOUND = FoundFile("base/5/1", 16384, 0o600, int((NOW - 100) * 1e9), int((NOW - 50) * 1e9), 4711, 0)


def test_a_stamp_speaks_for_a_file_left_alone() -> None:
    """The same size, times and inode: the checksum comes back. Any difference, and what is no stamp: none."""
    stamp = make_stamp(FOUND, 0xDEADBEEF, NOW, 10.0)
    assert unchanged(FOUND, stamp) == 0xDEADBEEF
    for other in (
        replace(FOUND, size=8192), replace(FOUND, mtime_ns=FOUND.mtime_ns + 1),
        replace(FOUND, ctime_ns=FOUND.ctime_ns - 1), replace(FOUND, inode=4712),
    ):  # fmt: skip
        assert unchanged(other, stamp) is None
    assert unchanged(FOUND, b"") is None
    assert unchanged(FOUND, bytes([9]) + stamp[1:]) is None


@pytest.mark.parametrize(("ago", "stamped"), [(11, True), (9, False), (-900, False)])
def test_a_file_changed_lately_gets_no_stamp(ago: float, stamped: bool) -> None:
    """It could change again within the same tick of the clock, and a time from the future says nothing."""
    when = int((NOW - ago) * 1e9)
    for found in (replace(FOUND, mtime_ns=when), replace(FOUND, ctime_ns=when)):
        assert bool(make_stamp(found, 1, NOW, 10.0)) == stamped


def test_everything_is_read_once_a_week() -> None:
    """Due without a time, with garbage, after a week, and when the clock went back."""
    assert not comparison_due(str(NOW).encode(), NOW)
    assert not comparison_due(str(NOW).encode(), NOW + TRUSTED_S - 1)
    for compared, now in ((None, NOW), (b"", NOW), (b"x", NOW), (str(NOW).encode(), NOW + TRUSTED_S)):
        assert comparison_due(compared, now)
    assert comparison_due(str(NOW).encode(), NOW - 60)


def test_the_rate_is_kept() -> None:
    """So many bytes a second over the whole; a pause is not made up for; without a rate nobody waits."""
    clock = FakeClock()
    pace = Pace(1000, clock, Event())
    began = clock.monotonic()
    for _ in range(10):
        pace.take(500)
    assert clock.monotonic() - began == pytest.approx(4.5)
    clock.pass_(60)
    resumed = clock.monotonic()
    pace.take(500)
    pace.take(500)
    assert clock.monotonic() - resumed == pytest.approx(0.5)
    Pace(None, clock, Event()).take(10**12)
    assert clock.monotonic() - resumed == pytest.approx(0.5)


def test_a_stop_ends_the_wait() -> None:
    """Asked to stop while it waits for its turn: Interrupted."""
    stop = Event()
    stop.set()
    pace = Pace(1, FakeClock(), stop)
    pace.take(100)
    with pytest.raises(Interrupted):
        pace.take(100)
