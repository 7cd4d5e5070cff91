"""Ranges and summaries as a prune writes them: readers see what a full listing shows, in few requests."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.retention import Rule
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import StoreUnavailable, WalConflict
from replicator.repository.catalog import StoreCatalog, read_catalog
from replicator.repository.known import NOTHING, KnownReader
from replicator.repository.layout import (
    RangeName,
    SummaryName,
    history_name,
    manifest_name,
    parse_name,
    range_name,
    ranges_prefix,
    wal_name,
)
from replicator.repository.notes import GONE, conflict_note, retired_note
from replicator.repository.ranges import Held, sign_range
from replicator.restore.gather import gather, plan_from
from replicator.restore.plan import PlanRequest, RecoveryPlan
from replicator.seal.signature import base64url
from replicator.snapshot.view import list_rows
from replicator.status.catalogs import CatalogReader
from replicator.store import Store
from replicator.store.protocol import ObjectInfo
from replicator.tolerance import SystemClock
from replicator.upkeep.prune import PruneJob, PruneResult, prune
from replicator.upkeep.range_plan import Worth, merged
from tests.clock import FakeClock
from tests.repositories import make_repository
from tests.upkeep.depot import NOW, SIZE, SYSTEM
from tests.upkeep.pruning import DAY, SEGMENTS, Years

FOREVER = Rule(3650 * DAY)
#: Of ten days in a row, three weeks keep a Sunday before the window, whatever day it is today.
GFS = Rule(2 * DAY, daily=1, monthly=12, weekly=3)
FEW = Worth(3, 3)


class Counting:
    """A store that counts its requests, a listing one for each thousand names."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.requests: list[str] = []

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As the store's."""
        self.requests.append(f"list {prefix}")
        yield from self._inner.list(prefix, after=after)

    def __getattr__(self, name: str) -> Any:
        if name in ("get", "get_tail", "stat"):
            return self._counted(name)
        return getattr(self._inner, name)

    def _counted(self, method: str) -> Callable[..., Any]:
        def call(name: str, *args: Any) -> Any:
            self.requests.append(f"{method} {name}")
            return getattr(self._inner, method)(name, *args)

        return call


def pruned(years: Years, rule: Rule | None = FOREVER, worth: Worth = FEW, **job: Any) -> PruneResult:
    """Prune as a host does for which few segments are worth a range, and few snapshots a summary."""
    state = years.base / "host"
    state.mkdir(exist_ok=True)
    repository = make_repository(years.base, names=years.names, wrap=years.wrap)
    return prune(PruneJob(repository, SystemClock(), state, rule, worth=worth, **job))


def ranges(years: Years, store: str = "local") -> list[RangeName]:
    """The ranges of a store."""
    places = [parse_name(name) for name in years.held(store)]
    return sorted(place for place in places if isinstance(place, RangeName))


def summaries(years: Years, store: str = "local") -> list[SummaryName]:
    """The summaries of a store."""
    places = [parse_name(name) for name in years.held(store)]
    return sorted(place for place in places if isinstance(place, SummaryName))


def quick(years: Years, store: str = "local") -> StoreCatalog:
    """The catalog that ranges tell."""
    plain = years.plain[store]
    return read_catalog(plain, SYSTEM, years.repository.keyring, ranges=KnownReader(plain, years.repository.keyring))


def check_same(years: Years, store: str = "local") -> StoreCatalog:
    """The quick catalog, after making sure that it says what the listing says."""
    found = quick(years, store)
    assert replace(found, known=NOTHING) == years.catalog(store)
    return found


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days in one store, once for all tests."""
    made = Years(tmp_path_factory.mktemp("lived"), ("local",))
    made.lived("local")
    return made.base


@pytest.fixture
def years(lived: Path, tmp_path: Path) -> Years:
    """A copy of the ten days."""
    shutil.copytree(lived, tmp_path / "copy", copy_function=shutil.copy2)
    return Years(tmp_path / "copy", ("local",))


def plan_of(years: Years, target: RecoveryTarget, **request: Any) -> RecoveryPlan:
    """A plan as `restore --dry-run` makes it."""
    repository = years.repository
    return plan_from(repository, PlanRequest("frk", target, **request), gather(repository, quick=True), None)


def test_a_prune_writes_one_range_and_one_summary(years: Years) -> None:
    """After a prune one range names every complete segment, one summary every snapshot, and the catalog is the same."""
    pruned(years)
    (span,) = ranges(years)
    assert (span.start, span.end) == (SIZE, (10 * SEGMENTS + 1) * SIZE)
    assert [(one.first, one.last) for one in summaries(years)] == [(years.label(0), years.label(9))]
    found = check_same(years)
    assert len(found.known.spans[0]) == 10 * SEGMENTS
    assert set(found.known.summaries) == set(found.snapshots)


def test_few_requests(years: Years) -> None:
    """With ranges and summaries no complete segment but each timeline's newest and no manifest is looked at."""
    pruned(years)
    counting = Counting(years.plain["local"])
    repository = replace(years.repository, stores={"local": counting})
    assert len(gather(repository, quick=True).views) == 1
    looked = [request for request in counting.requests if not request.startswith("list")]
    assert len([request for request in looked if "/wal/" in request]) == 1
    assert [request for request in looked if "/snapshots/" in request] == []
    counting.requests.clear()
    assert len(list_rows(repository).rows) == 10
    assert [request for request in counting.requests if "/snapshots/2" in request] == []


def test_a_reader_keeps_what_it_read(years: Years) -> None:
    """A view that is read again and again fetches each range once."""
    pruned(years)
    counting = Counting(years.plain["local"])
    reader = CatalogReader(replace(years.repository, stores={"local": counting}), "local", SystemClock())
    first = reader.refresh()
    counting.requests.clear()
    assert reader.refresh().windows == first.windows
    assert [request for request in counting.requests if "get_tail" in request and "/ranges/" in request] == []


def test_status_is_the_same(years: Years) -> None:
    """Windows with their times, gaps and the end are the same with ranges and without."""
    before = CatalogReader(years.repository, "local", SystemClock()).refresh()
    pruned(years)
    after = CatalogReader(years.repository, "local", SystemClock()).refresh()
    assert replace(after, read_at=None) == replace(before, read_at=None)


def test_the_same_prune_again_changes_nothing(years: Years) -> None:
    """A second prune puts no object and removes none."""
    pruned(years)
    before = years.held("local")
    pruned(years)
    assert years.held("local") == before


def test_ranges_grow_and_merge(years: Years) -> None:
    """New segments get a range of their own, and many small ones become one larger."""
    pruned(years)
    last = 10 * SEGMENTS
    for step in range(6):
        for number in range(3):
            years.segment_at(last + 1 + 3 * step + number, 9.9, "local")
        pruned(years)
        check_same(years)
        assert len(ranges(years)) <= 3
    assert sum(len(span) for span in quick(years).known.spans) == last + 18


def test_too_few_segments_are_left_to_the_listing(years: Years) -> None:
    """A range is written for as many segments as are worth one."""
    pruned(years, worth=Worth(1000, 1000))
    assert (ranges(years), summaries(years)) == ([], [])
    check_same(years)


def test_what_retention_took_is_not_there_whatever_a_range_says(years: Years) -> None:
    """A range of before a prune that took WAL says nothing of what went, also when it is put again."""
    pruned(years)
    old = {range_name(name): years.plain["local"].get(range_name(name)) for name in ranges(years)}
    pruned(years, GFS)
    years.age_notes(25)
    pruned(years, GFS)
    assert len(years.segments("local")) < 10 * SEGMENTS
    check_same(years)
    for name, content in old.items():
        if name not in years.held("local"):
            years.plain["local"].put(name, content)
    check_same(years)
    years.check_promises()


def test_what_two_prunes_took_at_once_counts_together(years: Years) -> None:
    """Two hosts that prune at once each sum up what they saw go: no reader takes the one's for a gap because the
    other's note is newer.
    """
    pruned(years)
    for number, minute in ((4, 1), (5, 2)):
        segment = Segment(1, number, SIZE)
        part = LsnRange(1, segment.start, segment.end)
        moment = NOW + timedelta(minutes=minute)
        years.put(*retired_note(years.repository.keyring, SYSTEM, GONE, (), [part], moment), ["local"])
        years.path("local", next(name for name in years.held("local") if segment.name in name)).unlink()
    found = check_same(years)
    assert found.retired == (LsnRange(1, Lsn(4 * SIZE), Lsn(6 * SIZE)),)
    assert found.gaps == ()


def test_ranges_go_on_over_what_retention_took(years: Years) -> None:
    """Points that are kept alone stand in one range with what follows."""
    pruned(years, GFS)
    years.age_notes(25)
    pruned(years, GFS)
    (span,) = ranges(years)
    found = check_same(years).known.spans[0]
    assert len(found.runs) > 1
    assert span.end == (10 * SEGMENTS + 1) * SIZE


def test_a_range_that_claims_what_was_lost_goes(years: Years) -> None:
    """A segment that somebody deleted is believed until the next prune at most; then the gap is seen again."""
    pruned(years)
    lost = next(name for name in years.held("local") if Segment(1, 14, SIZE).name in name)
    years.path("local", lost).unlink()
    assert quick(years).gaps == ()
    pruned(years)
    found = check_same(years)
    assert [(gap.start, gap.stop) for gap in found.gaps] == [(14 * SIZE, 15 * SIZE)]


def test_a_plan_stands_on_what_is_there(years: Years) -> None:
    """A plan whose WAL a range claims and the store has lost is made anew from the listing."""
    pruned(years)
    lost = next(name for name in years.held("local") if Segment(1, 10 * SEGMENTS, SIZE).name in name)
    whole = plan_of(years, RecoveryTarget(TargetKind.LATEST))
    years.path("local", lost).unlink()
    found = plan_of(years, RecoveryTarget(TargetKind.LATEST))
    assert lost in {source.name for file in whole.files for source in file.sources}
    assert lost not in {source.name for file in found.files for source in file.sources}
    assert found.until == 10 * SEGMENTS * SIZE


def test_a_plan_stands_on_no_segment_with_two_contents(years: Years) -> None:
    """A second content that came after the range, and that no note tells of, is seen by a plan that needs it."""
    pruned(years)
    number = 10 * SEGMENTS
    whole = plan_of(years, RecoveryTarget(TargetKind.LATEST))
    second = years.wal(number, "local", content=77)
    assert quick(years).conflicts == ()
    with pytest.raises(WalConflict, match=Segment(1, number, SIZE).name):
        plan_of(years, RecoveryTarget(TargetKind.LATEST))
    years.path("local", second).write_bytes(b"a name is only a claim")
    assert plan_of(years, RecoveryTarget(TargetKind.LATEST)).files == whole.files


@pytest.mark.parametrize("harm", ["lost", "second content"])
def test_a_daemon_compares_ranges_with_a_full_listing(years: Years, harm: str) -> None:
    """Without any prune a view sees what a range says wrong when it is read first and then now and then, and goes on
    seeing it in between.
    """
    pruned(years)
    clock = FakeClock()
    place = "local", SystemClock()
    daemon = CatalogReader(years.repository, "local", clock, listed_every_s=DAY)
    assert (daemon.refresh().gaps, daemon.refresh().conflicts) == ((), ())
    segment = Segment(1, 14, SIZE)
    if harm == "lost":
        years.path("local", next(name for name in years.held("local") if segment.name in name)).unlink()
    else:
        years.wal(14, "local", content=77)

    def seen(reader: CatalogReader) -> bool:
        view = reader.refresh()
        return bool(view.gaps if harm == "lost" else view.conflicts)

    assert not seen(daemon)
    assert seen(CatalogReader(years.repository, *place, listed_every_s=DAY))
    clock.pass_(DAY)
    assert [seen(daemon), seen(daemon)] == [True, True]
    assert not seen(CatalogReader(years.repository, *place))


def test_a_plan_leaves_out_a_damaged_manifest(years: Years) -> None:
    """A summary is no proof of a manifest: the plan takes another snapshot than one whose manifest is damaged."""
    pruned(years)
    newest = max(quick(years).snapshots)
    path = years.path("local", manifest_name(newest))
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    found = plan_of(years, RecoveryTarget(TargetKind.LATEST))
    assert found.snapshot.label == years.label(8)
    assert any("left out" in warning for warning in found.warnings)


def test_a_plan_looks_for_the_packs_that_it_needs(years: Years) -> None:
    """A pack that was lost after its manifest was put makes a plan take another snapshot."""
    pruned(years)
    newest = max(quick(years).snapshots)
    own = next(name for name in sorted(years.packs("local")) if newest.label in name)
    assert plan_of(years, RecoveryTarget(TargetKind.LATEST)).snapshot == newest
    assert plan_of(years, RecoveryTarget(TargetKind.LATEST)).summary.packs != ()
    years.path("local", own).unlink()
    found = plan_of(years, RecoveryTarget(TargetKind.LATEST))
    assert found.snapshot.label == years.label(8)


@pytest.mark.parametrize("harm", ["flip", "truncate", "rename", "empty", "other store"])
def test_what_is_not_as_it_was_signed_is_ignored(years: Years, harm: str) -> None:
    """A damaged, renamed or foreign range or summary changes nothing of what readers see."""
    pruned(years)
    for name in [name for name in years.held("local") if "/ranges/" in name]:
        path = years.path("local", name)
        data = path.read_bytes()
        match harm:
            case "flip":
                at = random.Random(1).randrange(len(data))
                path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            case "truncate":
                path.write_bytes(data[: len(data) // 2])
            case "empty":
                path.write_bytes(b"")
            case "rename":
                path.rename(path.with_name(path.name[:-1] + ("0" if path.name[-1] != "0" else "1")))
            case _ if "/wal-" in name:
                years.put(*_claimed(years, "offsite", range(1, 40)), ["local"])
    found = check_same(years)
    if harm != "other store":
        assert (found.known.spans, found.known.summaries) == ((), {})
    assert len(list_rows(years.repository).rows) == 10


def test_a_prune_tells_what_is_damaged_and_writes_anew(years: Years) -> None:
    """A damaged range is named as a remark and left for a verification; a good one is there beside it."""
    pruned(years)
    (name,) = ranges(years)
    years.path("local", range_name(name)).write_bytes(b"nothing")
    result = pruned(years)
    assert [(finding.code, finding.object, finding.affects) for finding in result.findings] == [
        ("object_damaged", range_name(name), None)
    ]
    assert result.exit_code == 0
    check_same(years)


@pytest.mark.parametrize("apart", [False, True])
def test_forged_names_in_numbers_cost_little(years: Years, apart: bool) -> None:
    """Whoever only puts bytes can't make readers read without end: after some wrong ranges, each within the next or
    all apart, all is listed.
    """
    pruned(years)
    for number in range(40):
        start, end = (2**40 + 2 * number, 2**40 + 2 * number + 1) if apart else (0, 2**40 + number)
        years.put(f"{ranges_prefix(SYSTEM)}wal-00000001-{start:016X}-{end:016X}-{number:016x}", b"x", ["local"])
    counting = Counting(years.plain["local"])
    keyring = years.repository.keyring
    found = read_catalog(counting, SYSTEM, keyring, ranges=KnownReader(counting, keyring))
    assert replace(found, known=NOTHING) == years.catalog("local")
    read = [request for request in counting.requests if "get_tail" in request and "/ranges/" in request]
    assert len(read) <= 16 + len(ranges(years)) - 40


def test_a_conflict_is_listed_anew(years: Years) -> None:
    """A segment with two contents, put after its range, is seen by its note."""
    pruned(years)
    second = years.wal(5, "local", content=77)
    note = conflict_note(years.repository.keyring, SYSTEM, Segment(1, 5, SIZE).name, [second], NOW)
    years.put(*note, ["local"])
    assert check_same(years).conflicts == (Segment(1, 5, SIZE).name,)
    pruned(years)
    assert check_same(years).conflicts == (Segment(1, 5, SIZE).name,)
    assert all(span.times(5, second[-16:]) is None for span in quick(years).known.spans)


def test_only_signed_tables_get_into_a_range(years: Years) -> None:
    """A name that somebody put with other bytes is not lifted into a signed range."""
    forged = wal_name(SYSTEM, Segment(1, 10 * SEGMENTS + 1, SIZE), "00" * 8)
    years.put(forged, b"forged", ["local"])
    for number in range(10 * SEGMENTS + 2, 10 * SEGMENTS + 8):
        years.segment_at(number, 9.9, "local")
    pruned(years)
    named = {name for span in quick(years).known.spans for _, name in span.objects(Coverage.of())}
    assert forged not in named
    assert len(ranges(years)) == 2
    check_same(years)


def test_gaps_are_between_ranges(years: Years) -> None:
    """A range never bridges a gap that retention did not make: what arrives there later is listed."""
    for number in (13, 14):
        for name in [name for name in years.held("local") if Segment(1, number, SIZE).name in name]:
            years.path("local", name).unlink()
    pruned(years)
    assert [(one.start, one.end) for one in ranges(years)] == [(SIZE, 13 * SIZE), (15 * SIZE, 31 * SIZE)]
    assert len(check_same(years).gaps) == 1
    years.segment_at(13, 4.0, "local")
    years.segment_at(14, 4.3, "local")
    assert check_same(years).gaps == ()
    pruned(years)
    assert len(ranges(years)) == 1
    check_same(years)


def test_timelines_have_ranges_of_their_own(years: Years) -> None:
    """A second timeline's segments stand in its own range."""
    body: dict[str, object] = {"timeline": 2, "content": base64url(b"1\t0/1E00000\tno recovery target specified\n")}
    years.document("history", history_name(SYSTEM, 2), body, "local")
    for number in range(30, 36):
        years.segment_at(number, 9.95, "local", timeline=2)
    pruned(years)
    assert [name.timeline for name in ranges(years)] == [1, 2]
    check_same(years)


@pytest.mark.parametrize("step", ["put range", "delete range"])
def test_killed_between_steps(years: Years, step: str) -> None:
    """A prune that ends at one of its steps leaves what readers see, and the next one completes it."""

    class Killed(BaseException):
        pass

    def steps(name: str) -> None:
        if name == step:
            raise Killed

    pruned(years)
    for number in range(10 * SEGMENTS + 1, 10 * SEGMENTS + 30):
        years.segment_at(number, 9.9, "local")
    with pytest.raises(Killed):
        pruned(years, steps=steps)
    assert len(ranges(years)) == (1 if step == "put range" else 2)
    check_same(years)
    pruned(years)
    assert len(ranges(years)) == 1
    check_same(years)


def test_a_store_that_goes_away_during_ranges_is_silent(years: Years) -> None:
    """A store that does not take a range is told as one that did not answer; nothing else suffers."""

    def refuses(store: Store) -> Store:
        class Refusing:
            def put(self, name: str, body: bytes) -> None:
                if "/ranges/" in name:
                    raise StoreUnavailable("no")
                store.put(name, body)

            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

        return Refusing()  # type: ignore[return-value]

    years.wrap = refuses
    result = pruned(years)
    assert (list(result.silent), result.exit_code) == (["local"], 6)
    check_same(years)


def _claimed(years: Years, store: str, numbers: range) -> tuple[str, bytes]:
    held = [Held(number, bytes(8), 1, 2) for number in numbers]
    name, content = sign_range(years.repository.keyring, store, SYSTEM, 1, SIZE, held)
    return range_name(name), content


def test_merging_keeps_few() -> None:
    """However segments arrive, there are few ranges, none is too large, and each is written again a few times."""
    chance = random.Random(7)
    blocks: list[int] = []
    written = total = 0
    for _ in range(400):
        blocks.append(chance.choice([256, 300, 1000, 5000]))
        total += blocks[-1]
        groups = merged(blocks)
        written += sum(sum(blocks[index] for index in group) for group in groups if len(group) > 1)
        blocks = [sum(blocks[index] for index in group) for group in groups]
        assert max(blocks) <= 16384
        assert len(blocks) <= 8 + 2 * total // 8192
    assert written < 8 * total
