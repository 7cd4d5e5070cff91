"""The spool: durable, comparable, and never holding what was not received."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import HostLacks, WalConflict
from replicator.spool import Describe, Position, SealedFile, Spool, remove_spool, spooled_system_ids
from replicator.spool.limits import Kept, effective_limit, limit_now, to_release
from replicator.spool.marks import SendTimes

S = 2**20
SEGMENT = Segment(1, 3, S)


def describer(_: int) -> Describe:
    """Every name is a document."""
    return SealedFile


def open_spool(tmp_path: Path, size: int | None = S) -> Spool:
    """A spool of cluster 7."""
    return Spool(tmp_path, 7, describer, size)


def fill(spool: Spool, data: bytes, start: int = 3 * S, *, acknowledged: int = 0, timeline: int = 1) -> None:
    """Append and sync, cut at segment ends."""
    while data:
        segment = Segment.holding(timeline, start, S)
        part = data[: segment.end - start]
        views = [memoryview(part[:1000]), memoryview(part[1000:])]
        spool.append(segment, Lsn(start), views, acknowledged=Lsn(acknowledged))
        start, data = start + len(part), data[len(part) :]
    spool.sync()


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    """Complete segments under their names, the rest as a partial file of exactly the bytes received; private files."""
    data = os.urandom(2 * S + 500)
    spool = open_spool(tmp_path)
    fill(spool, data)
    again = open_spool(tmp_path, None)
    assert again.received == again.flushed == Position(1, Lsn(5 * S + 500))
    assert [held.complete for held in again.held()] == [True, True, False]
    assert b"".join(again.read(held.segment, 0, held.end - held.segment.start) for held in again.held()) == data
    assert again.usage == len(data)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert spooled_system_ids(tmp_path) == (7,)


def test_flushed_moves_only_by_sync(tmp_path: Path) -> None:
    """Written is not flushed."""
    spool = open_spool(tmp_path)
    spool.append(SEGMENT, SEGMENT.start, [memoryview(b"x" * 10)], acknowledged=Lsn(0))
    assert spool.received.lsn == 3 * S + 10
    assert spool.flushed.lsn == 0
    assert not spool.wait_for(spool.received, 0.01)
    spool.sync()
    assert spool.flushed == spool.received
    assert spool.wait_for(spool.received, 0.01)


def test_after_a_failed_fsync_the_bytes_are_received_again(tmp_path: Path) -> None:
    """Bytes whose fsync failed are of unknown state: they are cut off, and no later fsync makes them count."""
    spool = open_spool(tmp_path)
    fill(spool, b"a" * 100)
    spool.append(SEGMENT, Lsn(3 * S + 100), [memoryview(b"b" * 50)], acknowledged=Lsn(0))
    path = next(tmp_path.rglob("*.partial"))
    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_symlink() and str(descriptor.readlink()) == str(path):
            os.close(int(descriptor.name))
    with pytest.raises(HostLacks):
        spool.sync()
    assert path.stat().st_size == 100
    assert spool.received == spool.flushed == Position(1, Lsn(3 * S + 100))
    assert spool.usage == 100
    fill(spool, b"b" * 60, 3 * S + 100)
    assert open_spool(tmp_path).read(SEGMENT, 100, 60) == b"b" * 60


@pytest.mark.parametrize("more", [0, 1, S, S + 1, 3 * S])
def test_after_a_segment_that_could_not_be_made_durable_nothing_counts(tmp_path: Path, more: int) -> None:
    """A whole segment's fsync runs beside the next one's bytes: when it fails, neither counts."""
    spool = open_spool(tmp_path)
    data = os.urandom(2 * S + more)
    fill(spool, data[: S + 10])
    partial = next(tmp_path.rglob("*.partial"))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in Path("/proc/self/fd").iterdir():
        if descriptor.is_symlink() and str(descriptor.readlink()) == str(partial):
            os.dup2(null, int(descriptor.name), inheritable=False)  # takes every byte, and no fsync
    os.close(null)
    with pytest.raises(HostLacks):
        fill(spool, data[S + 10 :], 4 * S + 10)
    assert spool.received == spool.flushed == Position(1, Lsn(4 * S + 10))
    assert (
        spool.usage == S + 10 == sum(path.stat().st_size for path in (tmp_path / "7/wal").rglob("*") if path.is_file())
    )
    fill(spool, data[S + 10 :], 4 * S + 10)
    again = open_spool(tmp_path)
    assert again.received == spool.flushed == Position(1, Lsn(5 * S + more))
    assert b"".join(again.read(held.segment, 0, held.end - held.segment.start) for held in again.held()) == data


def test_whole_segments_become_durable_without_a_sync(tmp_path: Path) -> None:
    """The bytes after a whole segment need not be synced for it to count."""
    spool = open_spool(tmp_path)
    for number in range(3, 6):
        spool.append(Segment(1, number, S), Lsn(number * S), [memoryview(bytes(S))], acknowledged=Lsn(0))
    spool.append(Segment(1, 6, S), Lsn(6 * S), [memoryview(b"x")], acknowledged=Lsn(0))
    assert spool.wait_for(Position(1, Lsn(6 * S)), 10)
    assert spool.flushed == Position(1, Lsn(6 * S))


def test_the_same_bytes_again_change_nothing(tmp_path: Path) -> None:
    """Bytes that are here are compared, and what follows them is new."""
    data = os.urandom(5000)
    fill(open_spool(tmp_path), data[:3000])
    spool = open_spool(tmp_path)
    fill(spool, data, acknowledged=3 * S + 3000)
    assert spool.read(SEGMENT, 0, 5000) == data
    fill(spool, data[:100], acknowledged=3 * S + 5000)
    assert spool.received.lsn == 3 * S + 5000


@pytest.mark.parametrize("acknowledged", [0, 1500, 2000])
def test_other_bytes_win_only_above_what_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    """A torn tail is overwritten from the first difference on; below that mark it is a conflict, nothing changed."""
    data = os.urandom(3000)
    torn = data[:1500] + bytes([data[1500] ^ 1]) + os.urandom(1499)
    fill(open_spool(tmp_path), torn)
    spool = open_spool(tmp_path)
    if acknowledged > 1500:
        with pytest.raises(WalConflict):
            fill(spool, data, acknowledged=3 * S + acknowledged)
        assert spool.read(SEGMENT, 0, 3000) == torn
    else:
        fill(spool, data, acknowledged=3 * S + acknowledged)
        assert spool.read(SEGMENT, 0, 3000) == data
        assert spool.flushed.lsn == 3 * S + 3000


def test_a_hole_is_a_programming_error(tmp_path: Path) -> None:
    """The spool never skips bytes of a segment."""
    spool = open_spool(tmp_path)
    with pytest.raises(ValueError, match="not the end"):
        spool.append(SEGMENT, Lsn(3 * S + 1), [memoryview(b"x")], acknowledged=Lsn(0))


def test_the_newest_segment_is_never_let_go(tmp_path: Path) -> None:
    """An older one goes; the newest stays, complete or not."""
    spool = open_spool(tmp_path)
    fill(spool, os.urandom(2 * S))
    spool.let_go(Segment(1, 3, S))
    spool.let_go(Segment(1, 4, S))
    assert [held.segment.number for held in spool.held()] == [4]
    assert spool.usage == S
    assert open_spool(tmp_path).received == Position(1, Lsn(5 * S))


def test_a_new_timeline_is_further(tmp_path: Path) -> None:
    """It begins before the old one's end, and its position counts as further."""
    spool = open_spool(tmp_path)
    fill(spool, b"a" * 500)
    spool.write_history(2, b"1\t0/300100\tno recovery target specified\n")
    fill(spool, b"a" * 100, timeline=2)
    assert spool.received == Position(2, Lsn(3 * S + 100))
    old, new = spool.held()
    assert spool.ended(old)
    assert not spool.ended(new)
    assert open_spool(tmp_path).histories() == {2: b"1\t0/300100\tno recovery target specified\n"}
    assert spool.stretches() == ((1, 3 * S, 3 * S + 500), (2, 3 * S, 3 * S + 100))


def test_another_segment_size_is_refused(tmp_path: Path) -> None:
    """The size is remembered; a spool without one can't be read."""
    open_spool(tmp_path)
    with pytest.raises(WalConflict):
        open_spool(tmp_path, 2 * S)
    with pytest.raises(HostLacks):
        Spool(tmp_path, 8, describer)


def test_sealed_objects_are_durable_before_they_are_seen(tmp_path: Path) -> None:
    """An object that fails while it is sealed never was; one in use goes only when it is let go of."""
    spool = open_spool(tmp_path)

    def failing(write: object) -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        spool.sealed.create(failing)
    assert spool.sealed.files() == ()
    file = spool.sealed.put_document("7/notes/a", b"hello")
    assert spool.usage == file.size == 5
    with spool.sealed.using("7/notes/a") as path:
        spool.sealed.remove("7/notes/a")
        assert path is not None
        assert path.read_bytes() == b"hello"
    assert not path.exists()
    assert spool.usage == 0
    with spool.sealed.using("7/notes/a") as path:
        assert path is None


def test_an_unfinished_object_is_removed_at_the_start(tmp_path: Path) -> None:
    """Temporary files are nobody's; finished ones are found again."""
    open_spool(tmp_path).sealed.put_document("7/notes/a", b"hello")
    left = tmp_path / "7" / "sealed" / "12.new"
    left.write_bytes(b"x")
    assert [file.name for file in open_spool(tmp_path).sealed.files()] == ["7/notes/a"]
    assert not left.exists()


@pytest.mark.parametrize(
    ("usage", "limit", "expected"),
    [(30, 100, ("all",)), (100, 50, ("all", "one")), (100, 95, ("all",)), (100, 90, ("all", "one"))],
)
def test_what_is_let_go(usage: int, limit: int, expected: tuple[str, ...]) -> None:
    """What every store has always; what one store has only at the limit; what none has never."""
    kept = [Kept("none", 10, False, False), Kept("all", 10, True, True), Kept("one", 10, False, True)]
    assert to_release(kept, usage, limit) == expected


def test_a_limit_below_what_can_work_is_raised() -> None:
    """A segment that is being written can't be let go of."""
    assert effective_limit(1, S) == 3 * S
    assert effective_limit(10 * S, S) == 10 * S


def at(lsn: int) -> Position:
    """A position on timeline 1."""
    return Position(1, Lsn(lsn))


def test_send_times() -> None:
    """The first byte's and the last byte's; an upper bound where nothing is known; repeated bytes keep theirs."""
    times = SendTimes()
    assert times.between(at(0), at(10)) is None
    times.add(at(0), at(10), 1_000_000, 1_000_000, 1.0)
    times.add(at(10), at(20), 2_000_000, 2_500_000, 2.0)
    times.add(at(0), at(30), 9_000_000, 9_000_000, 3.0)
    assert times.between(at(0), at(10)) == (1_000_000, 1_000_000)
    assert times.between(at(5), at(20)) == (1_000_000, 2_500_000)
    assert times.between(at(0), at(30)) == (1_000_000, 9_000_000)
    assert times.arrival_after(at(10)) == 2.0
    assert times.arrival_after(at(30)) is None


def test_send_times_are_bounded() -> None:
    """However many runs, memory stays small and times stay upper bounds."""
    times = SendTimes()
    for number in range(50_000):
        times.add(at(number), at(number + 1), number * 100_000, number * 100_000, float(number))
    assert len(times._marks) <= 8192
    for number in (0, 20_000, 49_999):
        known = times.between(at(number), at(number + 1))
        assert known is None or known[1] >= number * 100_000


def test_what_a_crash_of_the_machine_left_is_asked_for_again(tmp_path: Path) -> None:
    """A segment whose last fsync was under way may be torn, and is no newest one: it and all after it never counted.
    The source's bytes win.
    """
    data = os.urandom(2 * S + 500)
    fill(open_spool(tmp_path), data)
    torn = tmp_path / "7/wal/00000001" / Segment(1, 4, S).name
    torn.write_bytes(data[S : S + 100] + bytes(S - 100))
    torn.rename(torn.with_name(torn.name + ".partial"))
    again = open_spool(tmp_path)
    assert again.received.lsn.floor(S) == again.flushed.lsn.floor(S) == 4 * S
    assert [held.segment.number for held in again.held()] == [3, 4]
    fill(again, data[S:], 4 * S, acknowledged=4 * S)
    once_more = open_spool(tmp_path)
    assert once_more.received == Position(1, Lsn(5 * S + 500))
    assert b"".join(once_more.read(held.segment, 0, held.end - held.segment.start) for held in once_more.held()) == data


def test_after_a_gap_nothing_is_doubtful(tmp_path: Path) -> None:
    """A segment that ends early because the source had removed the rest is no torn one: what follows it stays."""
    spool = open_spool(tmp_path)
    fill(spool, b"a" * 100)
    fill(spool, b"b" * 100, 6 * S)
    fill(spool, b"c" * 100, 9 * S)
    fill(spool, b"d" * 100, 9 * S, timeline=2)
    held = spool.held()
    assert open_spool(tmp_path).held() == held
    for old in held[:-1]:
        spool.let_go(old.segment)
    assert [path.name for path in (tmp_path / "7/wal").rglob("*") if path.is_file()] == [
        held[-1].segment.name + ".partial"
    ]


def _descriptor_of(path: Path) -> int:
    return next(
        int(found.name)
        for found in Path("/proc/self/fd").iterdir()
        if found.is_symlink() and str(found.readlink()) == str(path)
    )


def _without_fsync(path: Path) -> None:
    """What has this file open takes every byte from now on, and no fsync."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, _descriptor_of(path), inheritable=False)
    os.close(null)


@pytest.mark.parametrize(("timeline", "start"), [(2, 3 * S), (1, 6 * S)])
def test_what_is_begun_elsewhere_waits_for_what_came_before(tmp_path: Path, timeline: int, start: int) -> None:
    """Another timeline, or bytes after a gap, are only written once all before them is durable; bytes that did not
    become so are cut off, and a later fsync that goes well does not count for them.
    """
    spool = open_spool(tmp_path)
    fill(spool, b"a" * 100)
    spool.append(SEGMENT, Lsn(3 * S + 100), [memoryview(b"b" * 50)], acknowledged=Lsn(0))
    path = next(tmp_path.rglob("*.partial"))
    _without_fsync(path)
    other = Segment.holding(timeline, Lsn(start), S)
    with pytest.raises(HostLacks):
        spool.append(other, Lsn(start), [memoryview(b"c")], acknowledged=Lsn(0))
    assert spool.sync() == spool.received == Position(1, Lsn(3 * S + 100))
    fill(spool, b"c", start, timeline=timeline)
    assert open_spool(tmp_path).received == spool.flushed == Position(timeline, Lsn(start + 1))


def test_what_is_cut_off_is_forgotten_even_where_it_cannot_be_removed(tmp_path: Path) -> None:
    """A file system that became read-only refuses to remove as well: what was not durable does not count."""
    spool = open_spool(tmp_path)
    data = os.urandom(S + 100)
    fill(spool, data[:10])
    _without_fsync(next(tmp_path.rglob("*.partial")))
    following = tmp_path / "7/wal/00000001" / (Segment(1, 4, S).name + ".partial")
    spool.append(SEGMENT, Lsn(3 * S + 10), [memoryview(data[10:S])], acknowledged=Lsn(0))
    spool.append(Segment(1, 4, S), Lsn(4 * S), [memoryview(data[S:])], acknowledged=Lsn(0))
    following.unlink()
    following.mkdir()
    with pytest.raises(HostLacks):
        spool.sync()
    assert spool.received == spool.flushed == Position(1, Lsn(3 * S + 10))
    assert spool.usage == 10
    following.rmdir()
    fill(spool, data[10:], 3 * S + 10)
    assert open_spool(tmp_path).received == spool.flushed == Position(1, Lsn(4 * S + 100))


def test_a_whole_segment_whose_name_could_not_be_made_durable_does_not_count(tmp_path: Path) -> None:
    """It is cut where it was durable before, and what was durable keeps its bytes."""
    spool = open_spool(tmp_path)
    data = os.urandom(S)
    fill(spool, data[:1000])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # what is open stays, and nothing can be opened
        spool.append(SEGMENT, Lsn(3 * S + 1000), [memoryview(data[1000:])], acknowledged=Lsn(0))
        with pytest.raises(HostLacks):
            spool.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert spool.received == spool.flushed == Position(1, Lsn(3 * S + 1000))
    assert spool.read(SEGMENT, 0, 1000) == data[:1000]
    fill(spool, data[1000:], 3 * S + 1000)
    assert spool.flushed == Position(1, SEGMENT.end)
    assert open_spool(tmp_path).read(SEGMENT, 0, S) == data


def test_a_name_that_could_not_be_made_durable_takes_no_byte(tmp_path: Path) -> None:
    """A segment's name is durable before its first byte: when that failed, the next try does it again."""
    spool = open_spool(tmp_path)
    fill(spool, b"a" * S)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # the file itself, and no directory beside it
        for _ in range(2):
            with pytest.raises(HostLacks):
                spool.append(Segment(1, 4, S), Lsn(4 * S), [memoryview(b"b")], acknowledged=Lsn(0))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fill(spool, b"b", 4 * S)
    assert open_spool(tmp_path).received == Position(1, Lsn(4 * S + 1))


def test_a_spool_that_is_removed_is_gone_at_once(tmp_path: Path) -> None:
    """What a removal that was cut short left is no spool, and goes with the next one."""
    fill(open_spool(tmp_path), b"x" * S)
    (tmp_path / "5.gone" / "wal").mkdir(parents=True)
    assert spooled_system_ids(tmp_path) == (7,)
    remove_spool(tmp_path, 7)
    assert list(tmp_path.iterdir()) == []


def test_a_short_disk_lowers_the_limit() -> None:
    """Room to seal a segment and to put it on the same disk stays free, whatever the policy's limit is."""
    assert limit_now(100 * S, S, usage=5 * S, free=1000 * S) == 100 * S
    assert limit_now(100 * S, S, usage=5 * S, free=20 * S) == 15 * S
    assert limit_now(100 * S, S, usage=5 * S, free=S) == 0
    assert limit_now(S, S, usage=5 * S, free=1000 * S) == 3 * S
