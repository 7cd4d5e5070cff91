"""Prunes of real directory stores: what is promised stays at every moment, and what is not goes a day later."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.core.retention import Rule
from replicator.core.windows import Gap
from replicator.errors import Conflict, ReplicatorError, StoreDenied, StoreUnavailable
from replicator.repository.layout import manifest_name, pack_name
from replicator.store import Store
from replicator.upkeep.prune import alone
from tests.upkeep.depot import SYSTEM
from tests.upkeep.pruning import DAY, SEGMENTS, Years

WINDOW = Rule(3 * DAY)
#: Of ten days in a row, three weeks keep a Sunday before the window, whatever day it is today.
GFS = Rule(2 * DAY, daily=1, monthly=12, weekly=3)


class Around:
    """A driver of which some methods are replaced."""

    def __init__(self, inner: Store, methods: dict[str, Callable[..., object]]) -> None:
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> object:
        method = self._methods.get(name)
        return getattr(self._inner, name) if method is None else method


def around(only: str, make: Callable[[Store], dict[str, Callable[..., object]]]) -> Callable[[Store], Store]:
    """A `wrap` that replaces methods of one store."""
    return lambda store: Around(store, make(store)) if store.name == only else store  # type: ignore[return-value]


@pytest.fixture
def years(tmp_path: Path) -> Years:
    """Ten days in one store."""
    made = Years(tmp_path, ("local",))
    made.lived("local")
    return made


def test_window(years: Years) -> None:
    """Manifests go at once, packs and WAL a day later; every moment of the window stays reachable."""
    before = years.catalog("local").windows[-1].end
    first, second = years.until_done(WINDOW)
    kept = {years.label(day) for day in (6, 7, 8, 9)}
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert set(first.stores["local"].kept) == kept
    assert first.stores["local"].kept[years.label(6)] == ("begins the window",)
    assert set(first.stores["local"].gone) == {years.label(day) for day in range(6)}
    assert (first.stores["local"].counts.objects, first.stores["local"].counts.waiting) == (6, 6 * SEGMENTS + 5)
    assert years.labels("local") == kept
    assert years.segments("local") == set(range(6 * SEGMENTS + 1, 10 * SEGMENTS + 1))
    assert second.stores["local"].counts.waiting == 0
    years.check_promises()
    assert [window.end for window in years.catalog("local").windows] == [before]
    assert {name for name in years.held("local") if "begin-" in name and years.label(2) in name} == set()
    assert [name for name in years.held("local") if "retired-going" in name] == []


def test_dry_run_changes_nothing_and_tells_what_goes(years: Years) -> None:
    """The dry run counts what the real one removes in the end."""
    before = years.held("local")
    told = years.prune(WINDOW, dry_run=True).stores["local"]
    assert years.held("local") == before
    done = [result.stores["local"] for result in years.until_done(WINDOW)]
    assert told.gone == done[0].gone
    marks = 5  # those of labels of which no pack is left are found when the packs are gone
    assert told.counts.objects == sum(one.counts.objects for one in done) - marks
    assert told.sentences("1 MB")[-1] == f"local: {told.counts.objects} objects go, 1 MB."


def test_old_snapshots_are_points(years: Years) -> None:
    """A snapshot that a count keeps has its own WAL and packs; the holes between are no gaps."""
    years.until_done(GFS)
    catalog = years.catalog("local")
    old = [window for window in catalog.windows if window.start == window.end or window.end < catalog.windows[-1].start]
    assert old
    assert catalog.gaps == ()
    assert catalog.retired
    years.check_promises()
    reached = {window.snapshot.label for window in catalog.windows}
    assert years.label(9) in years.labels("local")
    assert len(reached) == len(old) + 1


def test_nothing_goes_before_its_day(years: Years) -> None:
    """A second run at once finds nothing more; one after 23 hours neither."""
    years.prune(WINDOW)
    held = years.segments("local"), years.packs("local")
    assert years.prune(WINDOW).stores["local"].counts.objects == 0
    years.age_notes(23)
    assert years.prune(WINDOW).stores["local"].counts.objects == 0
    assert (years.segments("local"), years.packs("local")) == held
    assert sum("retired-going" in name for name in years.held("local")) == 1


def test_a_longer_window_takes_back_what_waits(years: Years) -> None:
    """What is needed again when its day comes stays."""
    years.prune(WINDOW)
    years.age_notes(25)
    years.prune(Rule(30 * DAY))
    assert len(years.segments("local")) == (10 - 6) * SEGMENTS
    assert years.packs("local") >= {name for name in years.packs("local") if years.label(9) in name}
    years.check_promises()


def test_interrupted_at_every_step(tmp_path: Path) -> None:
    """Interrupted anywhere, a store keeps its promises; run again until it ends, it is as after one run."""
    years = Years(tmp_path, ("local",), days=4)
    years.lived("local")
    left = rounds = 0

    class Stop(Exception):
        pass

    def steps(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop

    for aged in (False, True, True):
        if aged:
            years.age_notes(25)
        while True:
            left = 1
            try:
                years.prune(Rule(DAY), steps=steps)
            except Stop:
                rounds += 1
                years.check_promises()
                assert rounds < 60
                continue
            break
    assert rounds > 5
    assert years.labels("local") == {years.label(2), years.label(3)}
    assert years.segments("local") == set(range(2 * SEGMENTS + 1, 4 * SEGMENTS + 1))
    assert len(years.packs("local")) == 3
    assert years.catalog("local").gaps == ()


def test_store_that_fails_at_every_request(tmp_path: Path) -> None:
    """Whichever put or delete fails, the store keeps its promises, the other is pruned, and the code is 6."""
    years = Years(tmp_path, ("local", "offsite"), days=3)
    years.lived("local", "offsite")
    left = 0

    def failing(store: Store) -> dict[str, Callable[..., object]]:
        def guard(request: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise StoreDenied("store offsite: no")
                return request(*arguments)

            return call

        return {"put": guard(store.put), "delete": guard(store.delete)}

    years.wrap = around("offsite", failing)
    failed = 0
    for _ in range(2):
        for allowed in range(1, 60):
            left = allowed
            result = years.prune(Rule(DAY))
            years.check_promises()
            assert "local" in result.stores
            if result.exit_code == 0:
                break
            assert result.exit_code == 6
            assert isinstance(result.silent["offsite"], StoreDenied)
            failed += 1
        years.age_notes(25)
    assert failed > 5
    assert years.labels("offsite") == years.labels("local")
    assert years.segments("offsite") == years.segments("local")


def test_store_that_is_away_or_read_only(tmp_path: Path) -> None:
    """The other store is pruned; the one that refuses deletes has no note that nobody will keep."""
    years = Years(tmp_path, ("local", "offsite"), days=4)
    years.lived("local", "offsite")
    before = years.held("offsite")
    for error in (StoreUnavailable("away"), StoreDenied("no")):

        def refuse(*_: object, error: ReplicatorError = error) -> object:
            raise error

        years.wrap = around("offsite", lambda _, refuse=refuse: {"delete": refuse})  # type: ignore[misc]
        result = years.prune(Rule(DAY))
        assert (result.exit_code, set(result.stores)) == (6, {"local"})
        assert result.as_json()["silent"]["offsite"]["type"] == type(error).__name__
    assert years.held("offsite") == before
    assert years.labels("local") == {years.label(2), years.label(3)}


def test_snapshot_being_taken(years: Years) -> None:
    """A mark whose label is young keeps the label's packs, its parent and the parent's packs."""
    label = "20990101T000000Z"
    years.mark(label, 1, years.label(2), "local")
    pack = years.pack(label, 0, "local", size=3000)
    first, _ = years.until_done(WINDOW)
    assert first.stores["local"].kept[years.label(2)] == ("in use",)
    assert pack_name(SYSTEM, pack) in years.packs("local")
    assert {name for name in years.packs("local") if years.label(1) in name or years.label(2) in name}
    years.check_promises()


def test_parent_that_has_gone_holds_packs(years: Years) -> None:
    """A mark that names a parent that is not there any more: no pack goes, nobody knows which it needs."""
    years.prune(WINDOW)
    years.mark("20990101T000000Z", 1, years.label(2), "local")
    years.age_notes(25)
    packs = years.packs("local")
    result = years.prune(WINDOW).stores["local"]
    assert years.packs("local") == packs
    assert years.label(2) in result.held[0]
    assert result.counts.waiting == 6 - 1
    years.path("local", f"{SYSTEM}/packs/20990101T000000Z/begin-00000001").unlink()
    years.prune(WINDOW)
    assert len(years.packs("local")) == 5


def test_failed_take_leaves_nothing(years: Years) -> None:
    """Packs that no manifest names go with their mark once nothing was put there for a day."""
    label = years.label(9)[:-3] + "59Z"
    mark = years.mark(label, 1, years.label(9), "local")
    pack = pack_name(SYSTEM, years.pack(label, 0, "local", size=3000))
    for name in (mark, pack):
        years.age(name, 8.5, "local")
    years.until_done(Rule(40 * DAY))
    assert not {mark, pack} & set(years.held("local"))
    assert len(years.labels("local")) == 10


def test_without_retention_everything_is_kept(years: Years) -> None:
    """Only what failed takes left goes; WAL from before the first snapshot stays, too."""
    years.segment_at(0, 0, "local")
    before = years.held("local")
    years.until_done(None)
    assert set(before) <= set(years.held("local"))


def test_unreadable_manifest_holds_packs(years: Years) -> None:
    """What a damaged manifest needs is not known: no pack goes, and it is told with exit code 4."""
    snapshot = next(found for found in years.catalog("local").snapshots if found.label == years.label(8))
    path = years.path("local", manifest_name(snapshot))
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    packs = years.packs("local")
    results = years.until_done(WINDOW)
    assert [result.exit_code for result in results] == [4, 4]
    assert years.packs("local") == packs
    assert years.label(8) in years.labels("local")
    assert results[0].findings[0].object == manifest_name(snapshot)


def test_forged_names_remove_nothing(years: Years) -> None:
    """A manifest, an unpin, a segment and a note that no writer signed make nothing go that would have stayed."""
    years.note("pin", years.label(1), {}, "local")
    forged = {
        f"{SYSTEM}/snapshots/20990101T000000Z/00000001-0000000009900000-0000000009A00000": b"x" * 300,
        f"{SYSTEM}/notes/20990101T000000000000Z-unpin-{years.label(1)}-0011223344556677": b"{}\nsigned\n",
        f"{SYSTEM}/notes/20200101T000000000000Z-retired-going.1-0011223344556677": b"{}\nsigned\n",
        f"{SYSTEM}/wal/00000001/00000000/00000001000000000000001F-0011223344556677": b"x" * 300,
    }
    for name, data in forged.items():
        years.plain["local"].put(name, data)
    years.until_done(Rule(0.0))
    assert {years.label(1), years.label(9)} <= years.labels("local")
    assert [name for name in years.held("local") if "/pieces/" in name] != []
    years.check_promises_but(forged)


def test_pins(years: Years) -> None:
    """A pinned snapshot stays with its WAL and packs, whatever its age, until it is unpinned."""
    years.note("pin", years.label(1), {}, "local")
    years.until_done(WINDOW)
    assert years.label(1) in years.labels("local")
    years.check_promises()
    years.note("unpin", years.label(1), {"later": True}, "local")
    years.until_done(WINDOW)
    # Both notes have the same time: the one that keeps counts.
    assert years.label(1) in years.labels("local")


def test_pin_of_another_store_counts(tmp_path: Path) -> None:
    """A store that missed the note keeps the snapshot, too."""
    years = Years(tmp_path, ("local", "offsite"), days=4)
    years.lived("local", "offsite")
    years.note("pin", years.label(0), {}, "offsite")
    years.prune(Rule(DAY))
    assert years.label(0) in years.labels("local") & years.labels("offsite")


def test_restore_under_way(years: Years) -> None:
    """A note of a restore keeps the snapshot and all WAL after it for a day; one of what has gone keeps everything."""
    years.note("restoring", years.label(2), {"target": "latest"}, "local")
    years.until_done_but(WINDOW, "restoring")
    assert years.label(2) in years.labels("local")
    assert min(years.segments("local")) == 2 * SEGMENTS + 1
    years.note("restoring", years.label(0), {"target": "latest"}, "local")
    held = years.held("local")
    result = years.prune(WINDOW)
    assert years.held("local") == held
    assert any(years.label(0) in why for why in result.stores["local"].held)


def test_pieces_of_complete_segments(years: Years) -> None:
    """Pieces that a durable segment replaced go at once; those of a segment whose object is not sound stay."""
    years.piece_at(29, 0, 500, 9.5, "local")
    kept = years.piece_at(30, 0, 500, 9.6, "local")
    wal = next(name for name in years.held("local") if "/wal/" in name and "00000000001E-" in name)
    path = years.path("local", wal)
    path.write_bytes(path.read_bytes()[:-30])
    result = years.prune(Rule(40 * DAY))
    pieces = {name for name in years.held("local") if "/pieces/" in name}
    assert kept in pieces
    assert len(pieces) == 2
    assert result.exit_code == 4


def test_timeline_without_history_holds_everything(years: Years) -> None:
    """Nothing goes while nobody knows what leads to a timeline."""
    years.segment_at(31, 10, "local", timeline=2)
    before = set(years.held("local"))
    result = years.prune(WINDOW)
    assert result.exit_code == 4
    assert set(years.held("local")) == before
    assert set(result.stores["local"].kept) == {years.label(day) for day in range(10)}


def test_two_prunes_at_once(tmp_path: Path) -> None:
    """Two hosts at once do what one does; on one host the second is refused."""
    years = Years(tmp_path, ("local",), days=5)
    years.lived("local")
    results: list[int] = []
    for _ in range(2):
        threads = [
            threading.Thread(target=lambda host=host: results.append(years.prune(Rule(DAY), host=host).exit_code))
            for host in ("a", "b")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        years.age_notes(25)
        years.check_promises()
    assert results == [0] * 4
    assert years.labels("local") == {years.label(3), years.label(4)}
    assert years.segments("local") == set(range(3 * SEGMENTS + 1, 5 * SEGMENTS + 1))
    with alone(tmp_path / "a", "frk"), pytest.raises(Conflict):
        years.prune(Rule(DAY), host="a")


def test_mirror_brings_nothing_back(tmp_path: Path) -> None:
    """What one store let go of is not copied from one that was away, before its day and after."""
    years = Years(tmp_path, ("local", "offsite"), days=5)
    years.lived("local", "offsite")

    def refuse(*_: object) -> object:
        raise StoreUnavailable("away")

    years.wrap = around("offsite", lambda _: {"delete": refuse})
    years.until_done(Rule(DAY))
    held = set(years.held("local"))
    years.wrap = lambda store: store
    years.mirror()
    assert set(years.held("local")) == held
    assert years.labels("offsite") > years.labels("local")


def test_gap_stays_a_gap(years: Years) -> None:
    """WAL that was lost inside what is kept is no hole of retention."""
    lost = next(name for name in years.held("local") if "/wal/" in name and "00000000001A-" in name)
    years.path("local", lost).unlink()
    years.until_done(GFS)
    start = 0x1A * 2**20
    assert years.catalog("local").gaps == (Gap(1, Lsn(start), Lsn(start + 2**20), open=False),)
