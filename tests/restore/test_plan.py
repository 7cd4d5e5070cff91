"""The planner: a target is reachable if and only if it lies in a window, and the plan names exactly what it needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.lsn import Lsn
from replicator.core.moment import from_microseconds
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import SnapshotNotFound, TargetUnreachable, UsageError, WalConflict
from replicator.restore.plan import PlanRequest, RecoveryPlan, StoreView, plan
from replicator.restore.route import Route
from tests.restore.catalogs import SIZE, Wal, history, snapshot, us_of, view

MB = SIZE
LATEST = RecoveryTarget(TargetKind.LATEST)


def at_lsn(lsn: int, *, inclusive: bool = True, timeline: int | None = None) -> RecoveryTarget:
    """An LSN target."""
    return RecoveryTarget(TargetKind.LSN, lsn=Lsn(lsn), inclusive=inclusive, timeline=timeline)


def at_time(lsn: int, *, inclusive: bool = True, timeline: int | None = None) -> RecoveryTarget:
    """The moment when that byte was written."""
    time = from_microseconds(us_of(lsn))
    return RecoveryTarget(TargetKind.TIME, time=time, inclusive=inclusive, timeline=timeline)


def planned(
    target: RecoveryTarget, *views: StoreView, wal: Wal | None = None, label: str | None = None, action: str = "promote"
) -> RecoveryPlan:
    """A plan over these views."""
    wal = wal or Wal()
    return plan(PlanRequest("frk", target, label, action), views, wal, wal)


FIRST, SECOND = snapshot(1, MB, MB + 500), snapshot(2, 4 * MB + 100, 4 * MB + 900)
STRAIGHT = view([FIRST, SECOND], [(1, number) for number in range(1, 8)], [(1, 8 * MB, 8 * MB + 5000)])
#: Timeline 2 leaves timeline 1 within segment 6; timeline 3 leaves timeline 2 within segment 9.
FORKED = view(
    [FIRST, SECOND, snapshot(3, 7 * MB, 7 * MB + 10, timeline=2)],
    [(1, number) for number in range(1, 6)] + [(2, number) for number in range(6, 10)] + [(3, 9), (3, 10)],
    [(1, 6 * MB, 6 * MB + 3000)],
    [history(2, (1, 6 * MB + 3000)), history(3, (1, 6 * MB + 3000), (2, 9 * MB + 77))],
)


class Abandoned(Wal):
    """Timeline 1 has a record every 64 bytes; timeline 2 none after its fork."""

    def __init__(self, of: Wal) -> None:
        super().__init__(of.commits)

    def record(self, route: Route, start: Lsn) -> Lsn | None:
        """As WalProbe."""
        return Lsn(start + 64) if route.history.timeline == 1 and start + 64 < route.end else None


def test_latest_takes_the_newest_snapshot_and_all_wal() -> None:
    """From the newest snapshot's start to the last byte held, pieces too."""
    found = planned(LATEST, STRAIGHT)
    assert found.snapshot == SECOND
    assert found.until == 8 * MB + 5000
    assert (found.segments, found.pieces, found.missing) == (4, 1, ())
    assert found.stop.kind is TargetKind.LATEST
    assert [file.start for file in found.files] == [number * MB for number in range(4, 9)]
    assert found.bytes == 10**8 + 4 * MB + 5000


def test_an_older_target_takes_an_older_snapshot() -> None:
    """The newest snapshot whose stop is at or before the target, never a later one."""
    wal = Wal(records=range(MB, 8 * MB, 100))
    assert planned(at_lsn(4 * MB + 899), STRAIGHT, wal=wal).snapshot == FIRST
    assert planned(at_lsn(4 * MB + 900), STRAIGHT, wal=wal).snapshot == SECOND


@pytest.mark.parametrize(
    ("lsn", "latest"), [(8 * MB + 4900, False), (8 * MB + 4901, True), (8 * MB + 5000, True), (8 * MB + 5001, None)]
)
def test_an_lsn_with_no_record_after_it_is_latest(lsn: int, latest: bool | None) -> None:
    """A record starting at or after the target stops recovery; without one recovery runs to the end; beyond it: 3."""
    wal = Wal(records=[8 * MB + 4900])
    if latest is None:
        with pytest.raises(TargetUnreachable) as refused:
            planned(at_lsn(lsn), STRAIGHT, wal=wal)
        assert [window["to_lsn"] for window in refused.value.windows] == [str(Lsn(8 * MB + 5000))]
        return
    found = planned(at_lsn(lsn), STRAIGHT, wal=wal)
    assert (found.stop.kind is TargetKind.LATEST) is latest


def test_before_the_first_stop_nothing_is_reachable() -> None:
    """A target before the first snapshot's stop is refused with the windows."""
    with pytest.raises(TargetUnreachable) as refused:
        planned(at_lsn(MB + 499), STRAIGHT)
    assert refused.value.windows[0]["from_lsn"] == str(Lsn(MB + 500))
    assert "Reachable are" in refused.value.hint


def test_a_time_stops_at_the_first_later_commit() -> None:
    """The commit after T decides the snapshot and how much WAL is read."""
    wal = Wal(commits={1: [(lsn, lsn) for lsn in range(MB + 1000, 8 * MB, MB // 2)]})
    found = planned(at_time(3 * MB), STRAIGHT, wal=wal)
    assert found.snapshot == FIRST
    assert found.stop == found.target
    assert found.needed < len(found.files)
    assert planned(at_time(5 * MB), STRAIGHT, wal=wal).snapshot == SECOND


def test_a_time_after_the_last_commit_is_latest_until_the_last_send_time() -> None:
    """Between the last commit and the last send time nothing is missing; after it, something may be: 3."""
    wal = Wal(commits={1: [(2 * MB, 9)]})
    assert planned(at_time(8 * MB + 5000), STRAIGHT, wal=wal).stop.kind is TargetKind.LATEST
    with pytest.raises(TargetUnreachable):
        planned(at_time(8 * MB + 6024), STRAIGHT, wal=wal)


def test_wal_sent_hours_late_is_searched_by_commit() -> None:
    """Send times are upper bounds only: after an outage all WAL carries one late time, and the commits decide."""

    class Late(Wal):
        def sent_us(self, route: object, number: int) -> int:
            return us_of(100 * MB)

    wal = Late(commits={1: [(lsn, lsn) for lsn in range(MB + 1000, 8 * MB, 1000)]})
    found = planned(at_time(2 * MB), STRAIGHT, wal=wal)
    assert found.snapshot == FIRST
    assert found.needed < 5


def test_exclusive_time_stops_before_an_equal_commit() -> None:
    """A commit at exactly T belongs to the inclusive target only."""
    wal = Wal(commits={1: [(5 * MB, 1), (6 * MB, 2)]})
    near, far = (
        planned(at_time(5 * MB, inclusive=False), STRAIGHT, wal=wal),
        planned(at_time(5 * MB), STRAIGHT, wal=wal),
    )
    assert near.needed < far.needed


def test_a_time_within_a_snapshot_is_refused() -> None:
    """Commits between T and the snapshot's stop are in the snapshot already."""
    wal = Wal(commits={1: [(MB + 300, 1), (2 * MB, 2)]})
    with pytest.raises(TargetUnreachable):
        planned(at_time(MB + 200), STRAIGHT, wal=wal)


def test_a_transaction_is_searched_from_the_newest_snapshot_back() -> None:
    """The snapshot is the newest before the transaction's end; an unknown one is refused."""
    wal = Wal(commits={1: [(2 * MB, 77), (5 * MB, 78)]})
    for xid, expected in ((77, FIRST), (78, SECOND)):
        assert planned(RecoveryTarget(TargetKind.XID, xid=xid), STRAIGHT, wal=wal).snapshot == expected
    with pytest.raises(TargetUnreachable):
        planned(RecoveryTarget(TargetKind.XID, xid=79), STRAIGHT, wal=wal)
    with pytest.raises(TargetUnreachable):
        planned(RecoveryTarget(TargetKind.XID, xid=77), STRAIGHT, wal=wal, label=SECOND.label)


def test_an_exclusive_name_becomes_its_lsn() -> None:
    """PostgreSQL knows no exclusive name: recovery is told the restore point's place."""
    wal = Wal(points={"sebelum": 5 * MB + 8})
    found = planned(RecoveryTarget(TargetKind.NAME, name="sebelum", inclusive=False), STRAIGHT, wal=wal)
    assert found.stop == at_lsn(5 * MB + 8, inclusive=False)


def test_immediate_needs_only_the_snapshots_own_wal() -> None:
    """Its WAL ends soon after the snapshot's stop, whatever is held after it."""
    found = planned(RecoveryTarget(TargetKind.IMMEDIATE), STRAIGHT)
    assert (found.snapshot, found.stop.kind) == (SECOND, TargetKind.IMMEDIATE)
    assert found.needed <= 3
    assert planned(RecoveryTarget(TargetKind.IMMEDIATE), STRAIGHT, label=FIRST.label).snapshot == FIRST


@pytest.mark.parametrize("kind", [TargetKind.LATEST, TargetKind.IMMEDIATE])
def test_exclusive_makes_no_sense_without_a_place(kind: TargetKind) -> None:
    """--exclusive with --latest or --immediate is a usage error."""
    with pytest.raises(UsageError):
        planned(RecoveryTarget(kind, inclusive=False), STRAIGHT)


def test_latest_with_a_pause_aims_at_the_last_record() -> None:
    """Recovery without a target would promote: to pause or shut down at the end it is told the last record."""
    wal = Wal(records=[8 * MB + 100, 8 * MB + 4000])
    assert planned(LATEST, STRAIGHT, wal=wal, action="pause").stop == at_lsn(8 * MB + 4000)
    assert planned(LATEST, STRAIGHT, wal=wal).stop.kind is TargetKind.LATEST


def test_latest_follows_the_newest_timeline() -> None:
    """The path goes through every fork, each timeline cut at its switch point, each file under one name."""
    found = planned(LATEST, FORKED)
    assert (found.timeline, found.timelines) == (3, (2, 3))
    names = [file.name[:8] for file in found.files]
    assert names == ["00000002", "00000002", "00000003", "00000003"]
    assert found.until == 11 * MB


def test_a_named_timeline_ends_where_it_ends() -> None:
    """--timeline 1 stops at what timeline 1 holds; --timeline 2 knows nothing of timeline 3."""
    one = planned(RecoveryTarget(TargetKind.LATEST, timeline=1), FORKED)
    assert (one.timeline, one.timelines, one.until) == (1, (1,), 6 * MB + 3000)
    two = planned(RecoveryTarget(TargetKind.LATEST, timeline=2), FORKED)
    assert (two.timeline, two.timelines, two.until) == (2, (2,), 10 * MB)
    with pytest.raises(TargetUnreachable):
        planned(RecoveryTarget(TargetKind.LATEST, timeline=4), FORKED)


def test_a_target_before_the_fork_lies_on_the_newest_timeline_too() -> None:
    """The newest timeline whose path holds the target is followed, with an explicit number."""
    wal = Wal(records=range(MB, 11 * MB, 64))
    found = planned(at_lsn(5 * MB), FORKED, wal=wal)
    assert (found.timeline, found.snapshot) == (3, SECOND)
    assert planned(at_lsn(5 * MB, timeline=1), FORKED, wal=wal).timeline == 1


def test_an_abandoned_future_never_wins_over_the_newest_timeline() -> None:
    """A target at the idle end of the newest timeline stays there, though the old one has records and commits after
    it: those are a future that was left behind.
    """
    held = view(
        [FIRST], [(1, number) for number in range(1, 6)], [(2, 3 * MB, 3 * MB + 900)], [history(2, (1, 3 * MB + 550))]
    )
    wal = Wal(commits={1: [(lsn, lsn) for lsn in range(2 * MB, 6 * MB, 100)]}, records=[2 * MB])
    for target in (at_lsn(3 * MB + 900), at_time(3 * MB + 850)):
        found = planned(target, held, wal=Abandoned(wal))
        assert (found.timeline, found.stop.kind, found.until) == (2, TargetKind.LATEST, 3 * MB + 900)


def test_a_transaction_is_found_by_its_number_with_epoch() -> None:
    """pg_current_xact_id() counts on where xids wrap around; WAL and recovery_target_xid know its low 32 bits."""
    wal = Wal(commits={1: [(2 * MB, 77)]})
    assert planned(RecoveryTarget(TargetKind.XID, xid=3 * 2**32 + 77), STRAIGHT, wal=wal).snapshot == FIRST


def test_the_forks_segment_stands_on_both_timelines() -> None:
    """Where the new timeline's first segment is not held from its start, the old one's bytes fill it up to the fork."""
    held = view(
        [FIRST], [(1, 1), (1, 2)], [(1, 3 * MB, 3 * MB + 600), (2, 3 * MB + 500, 3 * MB + 900)],
        [history(2, (1, 3 * MB + 550))],
    )  # fmt: skip
    found = planned(LATEST, held)
    last = found.files[-1]
    assert last.name.startswith("00000002")
    assert [(source.start - last.start, source.end - last.start) for source in last.sources] == [(0, 550), (550, 900)]


def test_a_gap_ends_the_run_and_a_later_snapshot_begins_another() -> None:
    """Nothing in the gap is reachable; both sides are."""
    wal = Wal(records=range(MB, 9 * MB, 64))
    held = view([FIRST, snapshot(2, 6 * MB, 6 * MB + 50)], [(1, 1), (1, 2), (1, 6), (1, 7)])
    assert planned(at_lsn(2 * MB), held, wal=wal).snapshot == FIRST
    assert planned(at_lsn(7 * MB), held, wal=wal).until == 8 * MB
    with pytest.raises(TargetUnreachable) as refused:
        planned(at_lsn(4 * MB), held, wal=wal)
    assert len(refused.value.windows) == 2


def test_the_store_that_reaches_furthest_is_taken() -> None:
    """--latest takes the store with the most; a target that a lagging store can't settle is taken from the other."""
    ahead = view([FIRST], [(1, number) for number in range(1, 6)], store="offsite")
    behind = view([FIRST], [(1, 1), (1, 2)])
    assert planned(LATEST, behind, ahead).store == "offsite"
    wal = Wal(records=range(MB, 6 * MB, 64))
    assert planned(at_lsn(2 * MB), behind, ahead, wal=wal).store == "local"
    assert planned(at_lsn(4 * MB), behind, ahead, wal=wal).store == "offsite"


def test_a_snapshot_without_its_packs_is_passed_over() -> None:
    """A store that lacks a pack can't restore that snapshot; when nothing else is left, the pack is named."""
    broken = view([FIRST], [(1, 1), (1, 2)], packs=frozenset())
    assert planned(LATEST, broken, view([FIRST], [(1, 1)], store="offsite")).store == "offsite"
    with pytest.raises(TargetUnreachable) as refused:
        planned(LATEST, broken)
    assert "packs/" in refused.value.hint


def test_a_conflict_on_the_way_is_loud() -> None:
    """Two contents for one segment: never a silent choice."""
    with pytest.raises(WalConflict):
        planned(LATEST, view([FIRST], [(1, 1), (1, 2), (1, 2)]))
    with pytest.raises(WalConflict):
        planned(LATEST, view([FIRST], [(1, 1)], [(1, 2 * MB, 2 * MB + 9), (1, 2 * MB, 2 * MB + 9)]))


def test_no_snapshot_and_an_unknown_label_are_not_found() -> None:
    """Both say what can be done."""
    for label in (None, "20250101T000000Z"):
        with pytest.raises(SnapshotNotFound) as refused:
            planned(LATEST, view([], [(1, 1)]) if label is None else STRAIGHT, label=label)
        assert refused.value.hint


def test_a_new_system_is_taken_before_an_old_one() -> None:
    """After pg_upgrade --latest means the new cluster, and older moments are still found in the old one."""
    new = view([snapshot(9, MB, MB + 10, system=8)], [(1, 1)], system=8)
    wal = Wal(commits={1: [(2 * MB, 77)]})
    assert planned(LATEST, new, STRAIGHT).snapshot.system_id == 8
    assert planned(RecoveryTarget(TargetKind.XID, xid=77), new, STRAIGHT, wal=wal).snapshot == FIRST


def test_bytes_missing_at_a_segments_start_are_named() -> None:
    """A server reads a segment's first page before anything else of it: without it the file is missing."""
    held = view([snapshot(1, MB + 9000, MB + 9100)], [(1, 2)], [(1, MB + 8192, 2 * MB)])
    assert planned(LATEST, held).missing == ("000000010000000000000001",)


@given(
    segments=st.sets(st.integers(1, 12), min_size=1),
    starts=st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True),
    target=st.integers(0, 14 * MB),
)
def test_reachable_if_and_only_if_in_a_window(segments: set[int], starts: list[int], target: int) -> None:
    """For any coverage and snapshots, an LSN has a plan exactly when a window holds it, and the plan misses nothing."""
    taken = [snapshot(number, start * MB, start * MB + 5000) for number, start in enumerate(sorted(starts), 1)]
    held = view(taken, [(1, number) for number in segments])
    inside = any(window.start <= target <= window.end for window in held.windows)
    wal = Wal(records=range(MB, 14 * MB, 4096))
    try:
        found = planned(at_lsn(target), held, wal=wal)
    except TargetUnreachable:
        assert not inside
        return
    assert inside
    assert found.missing == ()
    assert found.snapshot.stop <= target <= found.until
    assert not any(found.snapshot.stop < other.stop <= target <= found.until for other in taken)
    assert found.files[0].start <= found.snapshot.start
    assert found.files[found.needed - 1].end >= min(found.until, target)


@given(
    commits=st.sets(st.integers(MB + 5001, 9 * MB - 1), min_size=1, max_size=60), target=st.integers(MB + 5000, 9 * MB)
)
def test_bisection_finds_the_first_later_commit(commits: set[int], target: int) -> None:
    """For any commits, the plan reads up to the first one after T and no further than the read-ahead."""
    ordered = sorted(commits)
    held = view([FIRST], [(1, number) for number in range(1, 9)])
    found = planned(at_time(target), held, wal=Wal(commits={1: [(lsn, lsn) for lsn in ordered]}))
    later = [lsn for lsn in ordered if us_of(lsn) > us_of(target)]
    assert (found.stop.kind is TargetKind.LATEST) == (not later)
    if later:
        assert found.files[found.needed - 1].start <= later[0] + 2 * MB
        assert found.files[found.needed - 1].end >= min(later[0] + 1, found.until)
