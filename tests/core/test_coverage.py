"""Coverage, windows and gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.core.timeline import TimelineHistory
from replicator.core.windows import gaps, windows
from replicator.errors import IntegrityError

TRIPLES = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 60), st.integers(0, 60)), max_size=12)


def snap(label: str, timeline: int, start: int, stop: int) -> Snapshot:
    """A snapshot at small LSNs."""
    return Snapshot(label, 7, timeline, Lsn(start), Lsn(stop))


@given(TRIPLES)
def test_holds_exactly_the_bytes_that_were_added(triples: list[tuple[int, int, int]]) -> None:
    """Byte for byte the same as a set of bytes, however the ranges overlap and in whatever order they come."""
    model = {(timeline, byte) for timeline, start, end in triples for byte in range(start, end)}
    coverage = Coverage.of(triples)
    grown = Coverage.of()
    for triple in triples:
        grown = grown.add(*triple)
    assert grown == coverage
    for timeline in (1, 2):
        for byte in range(61):
            assert coverage.holds(timeline, byte, byte + 1) == ((timeline, byte) in model)
    missing = {(r.timeline, byte) for t in (1, 2) for r in coverage.missing(t, 0, 60) for byte in range(r.start, r.end)}
    assert missing == {(t, byte) for t in (1, 2) for byte in range(60)} - model


def test_reach_stops_at_a_hole() -> None:
    """A run ends where the first byte is missing."""
    coverage = Coverage.of([(1, 10, 20), (1, 21, 30)])
    assert coverage.reach(1, 12) == 20
    assert coverage.reach(1, 20) == 20
    assert coverage.reach(1, 25) == 30
    assert coverage.end(1) == 30
    assert coverage.end(2) is None


HISTORY = TimelineHistory(3, ((1, Lsn(50)), (2, Lsn(80))))


@pytest.mark.parametrize(
    ("ranges", "start", "expected"),
    [
        ([(1, 0, 60), (2, 48, 90), (3, 80, 120)], 10, (3, 120)),
        ([(1, 0, 48), (2, 48, 90), (3, 80, 120)], 10, (3, 120)),  # the new timeline's copy of the shared prefix
        ([(1, 0, 40), (2, 48, 90), (3, 80, 120)], 10, (1, 40)),
        ([(1, 0, 60), (2, 48, 79), (3, 80, 120)], 10, (2, 79)),
        ([(1, 0, 60)], 10, (2, 50)),  # bytes of timeline 1 beyond the switch are an abandoned future
        ([(3, 80, 120)], 90, (3, 120)),
        ([], 10, (1, 10)),
    ],
)
def test_reach_along_a_path(ranges: list[tuple[int, int, int]], start: int, expected: tuple[int, int]) -> None:
    """Runs cross timelines at their switch points and nowhere else."""
    assert Coverage.of(ranges).reach_along(HISTORY, start) == expected


def test_windows_by_run_and_timeline() -> None:
    """One window per gapless run with a snapshot; a fork has one of its own; a lone snapshot is a point."""
    histories = {2: TimelineHistory(2, ((1, Lsn(50)),))}
    coverage = Coverage.of([(1, 0, 70), (1, 80, 100), (2, 48, 90)])
    snapshots = [snap("a", 1, 5, 10), snap("b", 1, 20, 30), snap("c", 1, 82, 100), snap("d", 1, 71, 75)]
    found = [(w.timeline, int(w.start), int(w.end), w.snapshot.label) for w in windows(snapshots, coverage, histories)]
    assert found == [(1, 10, 70, "a"), (1, 100, 100, "c"), (2, 10, 90, "a")]


def test_gaps_close_by_a_later_snapshot() -> None:
    """A hole is open until a snapshot begins after it; a recorded gap counts, and what was found again does not."""
    coverage = Coverage.of([(1, 0, 10), (1, 20, 30)])
    recorded = [LsnRange(1, Lsn(30), Lsn(40)), LsnRange(1, Lsn(2), Lsn(5))]
    found = gaps([snap("a", 1, 22, 25)], coverage, recorded)
    assert [(int(g.start), int(g.stop), g.open) for g in found] == [(10, 20, False), (30, 40, True)]


def test_history_files() -> None:
    """Histories are PostgreSQL's: comments and blank lines pass, disorder does not."""
    parsed = TimelineHistory.parse(3, b"1\t0/50\tno recovery target specified\n\n# x\n2\t0/80\tbefore 2000-01-01\n")
    assert parsed.parents == ((1, Lsn(0x50)), (2, Lsn(0x80)))
    assert parsed.switchpoint(1) == 0x50
    assert parsed.switchpoint(3) is None
    assert parsed.timeline_of(Lsn(0x7F)) == 2
    assert [stretch.timeline for stretch in parsed.path()] == [1, 2, 3]
    for bad in (b"x\n", b"2\t0/80\n1\t0/90\n", b"5\t0/1\n"):
        with pytest.raises(IntegrityError):
            TimelineHistory.parse(3, bad)
