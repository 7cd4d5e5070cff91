"""Mirrors of real directory stores: equal afterwards, true at every moment, and nothing damaged is ever copied."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.core.progress import Progress
from replicator.errors import Conflict, Interrupted, StoreUnavailable, UsageError
from replicator.repository.layout import PackId, PackName, WalName, pack_name, parse_name
from replicator.store import Store
from replicator.store.protocol import ObjectInfo
from replicator.tolerance import SystemClock
from replicator.upkeep.mirror import MirrorJob, mirror
from tests.repositories import make_repository
from tests.upkeep.depot import SIZE, SYSTEM, Depot


class Around:
    """A driver with one of its methods replaced; `only` the store of this name."""

    def __init__(self, inner: Store, **methods: Callable[..., object]) -> None:
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> object:
        method = self._methods.get(name)
        return getattr(self._inner, name) if method is None else method


def around(only: str, make: Callable[[Store], dict[str, Callable[..., object]]]) -> Callable[[Store], Store]:
    """A `wrap` for a depot that replaces methods of one store."""
    return lambda store: Around(store, **make(store)) if store.name == only else store  # type: ignore[return-value]


@pytest.fixture
def depot(tmp_path: Path) -> Depot:
    """Everything in one store, nothing in the other."""
    made = Depot(tmp_path)
    made.fill("local")
    return made


@pytest.mark.parametrize("mode", ["aes-256-gcm", "none"])
def test_new_store_is_filled(tmp_path: Path, mode: str) -> None:
    """A store newly added gets everything, byte for byte; a second run finds nothing to do."""
    depot = Depot(tmp_path, mode=mode)
    depot.fill("local")
    result = depot.mirror()
    assert (result.exit_code, result.findings) == (0, ())
    assert depot.held("offsite") == depot.held("local")
    counts = result.stores["offsite"]
    assert (counts["wal"], counts["pieces"], counts["packs"], counts["snapshots"]) == (9, 2, 5, 2)
    depot.check_promises()
    again = depot.mirror()
    assert not any(sum(counts.values()) for counts in again.stores.values())


def test_both_ways(tmp_path: Path) -> None:
    """What each store missed comes from the other, in one run; three stores too."""
    depot = Depot(tmp_path, ("a", "b", "c"))
    for number in range(1, 7):
        depot.wal(number, "abc"[number % 3])
    pack = depot.pack("20260101T000000Z", 0, "a")
    depot.snapshot("20260101T000000Z", 2, 4, [pack], "b")
    depot.history(2, "c")
    result = depot.mirror()
    assert result.exit_code == 0, result
    assert depot.held("a") == depot.held("b") == depot.held("c")
    assert len(depot.held("a")) == len(depot.made)
    depot.check_promises()


def test_interrupted_at_every_step(depot: Depot) -> None:
    """Interrupted anywhere, both stores keep their promises; run again until it ends, they are equal."""
    rounds = left = 0

    class Stop(Exception):
        pass

    def steps(_: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop

    while True:
        left = 3
        try:
            depot.mirror(steps=steps)
        except Stop:
            rounds += 1
            depot.check_promises()
            assert rounds < 50
            continue
        break
    assert rounds > 8
    assert depot.held("offsite") == depot.held("local")


def test_stop_ends_it(depot: Depot) -> None:
    """Being asked to stop ends it with Interrupted at the next read, and leaves no lock."""
    stop = threading.Event()
    repository = make_repository(depot.base, names=depot.names)
    job = MirrorJob(repository, SystemClock(), depot.base, depot.names, depot.names)

    def report(progress: Progress) -> None:
        if progress.done:
            stop.set()

    with pytest.raises(Interrupted):
        mirror(job, report, stop)
    depot.check_promises()
    assert mirror(job).exit_code == 0
    assert depot.held("offsite") == depot.held("local")


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("at", [40, 200_000, -10, -100], ids=["head", "frame", "trailer", "table"])
def test_damaged_source_is_never_copied(depot: Depot, at: int) -> None:
    """A damaged pack is named and not copied, and no manifest that needs it; the rest is."""
    bad = pack_name(SYSTEM, next(iter_packs(depot, "20260102T000000Z")))
    flip(depot.path("local", bad), at)
    result = depot.mirror()
    assert result.exit_code == 4
    damaged = [finding for finding in result.findings if finding.code == "object_damaged"]
    assert [(finding.object, finding.store) for finding in damaged] == [(bad, "local")]
    held = depot.held("offsite")
    assert bad not in held
    assert [name.split("/")[2] for name in held if "/snapshots/" in name] == ["20260101T000000Z"]
    depot.check_promises("offsite")


def iter_packs(depot: Depot, label: str) -> Iterator[PackId]:
    """The packs of a label."""
    for place in map(parse_name, sorted(depot.made)):
        if isinstance(place, PackName) and place.pack.label == label:
            yield place.pack


def test_another_source_is_taken(tmp_path: Path) -> None:
    """What is damaged in one store comes from the next one that has it well."""
    depot = Depot(tmp_path, ("a", "b", "c"))
    depot.fill("a", "b")
    damaged = [name for name in depot.made if isinstance(parse_name(name), WalName)][::2]
    for name in damaged:
        flip(depot.path("a", name), 5000)
    result = depot.mirror()
    assert depot.held("c") == depot.held("b")
    assert {finding.object for finding in result.findings} == set(damaged)
    assert result.exit_code == 4


def test_target_that_keeps_something_else(tmp_path: Path) -> None:
    """Bytes that the target does not give back as they were put don't count, and are not left there."""

    def lying(store: Store) -> dict[str, Callable[..., object]]:
        def get(name: str, offset: int = 0, length: int | None = None) -> bytes:
            data = store.get(name, offset, length)
            return data[:-1] + bytes([data[-1] ^ 1]) if "/packs/20260102" in name and len(data) > 90_000 else data

        return {"get": get}

    depot = Depot(tmp_path, wrap=around("offsite", lying))
    depot.fill("local")
    result = depot.mirror()
    assert result.exit_code == 4
    assert {finding.store for finding in result.findings} == {"offsite"}
    assert not any("20260102" in name for name in depot.held("offsite"))
    assert any("20260101" in name for name in depot.held("offsite"))


def test_damaged_pack_in_the_target_withholds_the_manifest(depot: Depot) -> None:
    """A manifest is not put where a pack that it names is there, but not as it was signed."""
    bad = next(iter_packs(depot, "20260102T000000Z"))
    name = pack_name(SYSTEM, bad)
    depot.plain["offsite"].put(name, depot.made[name][:-50])
    result = depot.mirror()
    assert result.exit_code == 4
    assert [(finding.object, finding.affects) for finding in result.findings] == [(name, "20260102T000000Z")]
    assert not any("/snapshots/20260102" in held for held in depot.held("offsite"))


def test_missing_wal_withholds_the_manifest(depot: Depot) -> None:
    """A snapshot whose own WAL no store has is not completed elsewhere."""
    lost = next(name for name in depot.made if f"/{1:08X}{0:08X}{2:08X}-" in name)
    depot.path("local", lost).unlink()
    result = depot.mirror()
    assert [(finding.code, finding.affects) for finding in result.findings] == [("wal_missing", "20260101T000000Z")]
    assert [name.split("/")[2] for name in depot.held("offsite") if "/snapshots/" in name] == ["20260102T000000Z"]


def test_two_contents_of_a_segment(depot: Depot) -> None:
    """A signed conflict is spread nowhere and loud; a forged name is no conflict."""
    good = next(name for name in depot.made if "/wal/" in name)
    depot.put(good[:-16] + "f" * 16, depot.made[good], ["offsite"])  # renamed: its table names another object
    first = depot.mirror()
    assert first.exit_code == 4
    assert good in depot.held("offsite")
    other = depot.wal(20, "offsite", content=99)
    mine = depot.wal(20, "local")
    result = depot.mirror()
    assert result.exit_code == 8
    assert mine not in depot.held("offsite")
    assert other not in depot.held("local")


def test_retired_is_not_copied(depot: Depot) -> None:
    """What a note of any store says is to go is copied to none; the note stays where it is."""
    label = "20260101T000000Z"
    gone = [name for name in depot.made if f"/{label}/" in name and "begin" not in name][:1] + [
        name for name in depot.made if f"/snapshots/{label}" in name
    ]
    note = depot.note("retired", label, {"names": gone}, "local")
    depot.mirror()
    held = depot.held("offsite")
    assert not set(gone) & set(held) - {gone[0]}
    assert note not in held
    assert not any(f"/snapshots/{label}" in name for name in held)
    depot.check_promises()


def test_what_retention_took_is_not_copied(depot: Depot) -> None:
    """WAL within the ranges that went from one store comes back to none; a note about a store's restore stays there."""
    ranges = [[1, str(Lsn(SIZE)), str(Lsn(2 * SIZE))], [1, str(Lsn(5 * SIZE)), str(Lsn(6 * SIZE + 9))]]
    note = depot.note("retired", "gone", {"names": [], "ranges": ranges}, "offsite")
    restoring = depot.note("restoring", "20260101T000000Z", {"target": "latest"}, "local")
    assert depot.mirror().exit_code == 0
    missing = set(depot.held("local")) - set(depot.held("offsite"))
    segments = {place.segment for name in missing if isinstance(place := parse_name(name), WalName)}
    assert segments == {f"{1:08X}{0:08X}{number:08X}" for number in (1, 5)}
    assert restoring in missing
    assert note not in depot.held("local")
    depot.check_promises()


@pytest.mark.parametrize("store", ["local", "offsite"])
def test_list_that_lags(tmp_path: Path, store: str) -> None:
    """A list that does not show the newest objects yet makes the mirror lack or repeat something, never lie."""
    hidden = {"on": True}

    def lagging(inner: Store) -> dict[str, Callable[..., object]]:
        def list_(prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
            for info in inner.list(prefix, after=after):
                if not (hidden["on"] and ("-000001" in info.name or info.name.endswith("0" * 4 + "1388"))):
                    yield info

        return {"list": list_}

    depot = Depot(tmp_path, wrap=around(store, lagging))
    depot.fill("local")
    if store == "offsite":
        for name in [name for name in depot.made if "-000001" in name]:
            depot.plain["offsite"].put(name, depot.made[name])
    assert depot.mirror().exit_code == 0
    depot.check_promises()
    hidden["on"] = False
    assert depot.mirror().exit_code == 0
    assert depot.held("offsite") == depot.held("local")


def test_two_mirrors(depot: Depot) -> None:
    """On one host the second is refused; from two hosts both do the work and nothing is wrong."""
    hosts = ("here", "there")
    barrier = threading.Barrier(2)
    results: list[int] = []

    def run(host: str) -> None:
        first = iter([True])

        def steps(_: str) -> None:
            if next(first, False):
                barrier.wait(60)
                if host == "here":
                    with pytest.raises(Conflict):
                        depot.mirror(host="here")

        results.append(depot.mirror(host=host, steps=steps, workers=1).exit_code)

    threads = [threading.Thread(target=run, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
    assert depot.held("offsite") == depot.held("local")
    depot.check_promises()


def test_store_away(tmp_path: Path) -> None:
    """A store that does not answer is named with exit 6; the others are completed from each other."""
    depot = Depot(tmp_path, ("a", "b", "c"))
    depot.fill("a")
    make_repository(tmp_path, names=("a", "b", "c"))

    def gone(_: Store) -> dict[str, Callable[..., object]]:
        def fail(*_: object, **__: object) -> object:
            raise StoreUnavailable("store c does not answer")

        return dict.fromkeys(("get", "get_tail", "list", "stat"), fail)

    depot.wrap = around("c", gone)
    result = depot.mirror()
    assert (result.exit_code, set(result.silent)) == (6, {"c"})
    assert depot.held("b") == depot.held("a")


def test_store_with_a_damaged_identity(tmp_path: Path) -> None:
    """A store whose `replicator.json` is not as it was signed is left out and named; the others are completed."""
    depot = Depot(tmp_path, ("a", "b", "c"))
    depot.fill("a")
    depot.wrap = around("c", lambda store: {"get_tail": lambda name, length: (b"{}", 2)})
    result = depot.mirror()
    assert (result.exit_code, set(result.silent)) == (4, {"c"})
    assert depot.held("b") == depot.held("a")


def test_source_that_goes_away(depot: Depot) -> None:
    """A source that stops answering half way is silent, and no manifest was put without what it needs."""

    def dies(store: Store) -> dict[str, Callable[..., object]]:
        left = iter(range(8))

        def get(name: str, offset: int = 0, length: int | None = None) -> bytes:
            if next(left, None) is None:
                raise StoreUnavailable("store local does not answer")
            return store.get(name, offset, length)

        return {"get": get}

    depot.wrap = around("local", dies)
    result = depot.mirror()
    assert (result.exit_code, set(result.silent)) == (6, {"local"})
    depot.check_promises()
    depot.wrap = lambda store: store
    depot.mirror()
    assert depot.held("offsite") == depot.held("local")


def test_coverage_never_shows_a_hole(tmp_path: Path) -> None:
    """WAL becomes visible newest first and in order, also with several workers."""
    seen: list[str] = []

    def recording(store: Store) -> dict[str, Callable[..., object]]:
        def put(name: str, body: bytes | Path) -> None:
            store.put(name, body)
            seen.append(name)

        return {"put": put, "upload": lambda name: Recorded(store.upload(name), name)}  # type: ignore[attr-defined]

    class Recorded:
        def __init__(self, upload: object, name: str) -> None:
            self._upload, self._name = upload, name

        def __getattr__(self, attribute: str) -> object:
            return getattr(self._upload, attribute)

        def complete(self) -> None:
            self._upload.complete()  # type: ignore[attr-defined]
            seen.append(self._name)

    depot = Depot(tmp_path, wrap=around("offsite", recording))
    depot.fill("local")
    depot.mirror(workers=4)
    wal = [place.segment for name in seen if isinstance(place := parse_name(name.removeprefix("frk/")), WalName)]
    assert wal == sorted(wal, reverse=True)
    assert len(wal) == 9
    newest = next(at for at, name in enumerate(seen) if "/snapshots/20260102" in name)
    assert newest < next(at for at, name in enumerate(seen) if "/packs/20260101T000000Z/00000001-000000" in name)


def test_pieces_that_nobody_needs(tmp_path: Path) -> None:
    """Pieces of a segment that is complete are not copied, nor what the target's own pieces cover."""
    depot = Depot(tmp_path)
    depot.piece(1, 0, 500, "local")
    depot.wal(1, "offsite")
    depot.piece(2, 0, 500, "local")
    wanted = depot.piece(2, 500, 900, "local")
    depot.piece(2, 0, 700, "offsite")
    depot.mirror()
    pieces = {name for name in depot.held("offsite") if "/pieces/" in name}
    assert len(pieces) == 2
    assert wanted in pieces


def test_from_and_to(depot: Depot, tmp_path: Path) -> None:
    """Only what was asked for is read and completed; a dry run puts nothing and counts the same."""
    depot.wal(30, "offsite")
    repository = make_repository(tmp_path, names=depot.names)

    def job(**options: object) -> MirrorJob:
        return MirrorJob(repository, SystemClock(), tmp_path, ("local",), ("offsite",), **options)  # type: ignore[arg-type]

    planned = mirror(job(dry_run=True))
    assert set(depot.held("offsite")) == {name for name in depot.made if "00000000000001E" in name}
    done = mirror(job())
    assert done.stores["offsite"]["bytes"] > 10 * SIZE // 2
    assert {kind: count for kind, count in planned.stores["offsite"].items() if kind != "documents"} == {
        kind: count for kind, count in {**done.stores["offsite"]}.items() if kind != "documents"
    } | {"bytes": planned.stores["offsite"]["bytes"]}
    assert set(depot.held("offsite")) - set(depot.held("local"))
    with pytest.raises(UsageError):
        mirror(MirrorJob(repository, SystemClock(), tmp_path, ("local",), ("local",)))


def test_a_large_object_takes_bounded_memory(tmp_path: Path) -> None:
    """A pack of 48 MB is copied and checked on both sides within some megabytes."""
    depot = Depot(tmp_path)
    for number in range(2, 5):
        depot.wal(number, "local")
    header = "20260101T000000Z"
    pack = depot.pack(header, 0, "local", size=24 * 2**21, frames=24)
    depot.snapshot(header, 2, 3, [pack], "local")
    depot.made.clear()
    tracemalloc.start()
    assert depot.mirror().exit_code == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
    depot.check_promises()
