"""Every step of the stream fails or dies: before, during, after, at the first time and later, and in the repair too."""

from __future__ import annotations

import ast
import resource
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from replicator.core.lsn import Lsn, Segment
from replicator.errors import HostLacks, SourceUnavailable, SpoolFull, StoreUnavailable
from replicator.stream.settings import SLOT_STEPS, STEPS
from replicator.tolerance import SystemClock
from tests.clusters import TestCluster, cluster_base, have_binaries, make_cluster, own
from tests.repositories import make_repository
from tests.stream.promises import MB, Site, check_promises
from tests.stream.streams import SLOT, RunningStream, Tap, catalog, settings

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
ROOT = Path(__file__).parents[2]
NAMES = [f"{when} {step}" for step in STEPS for when in ("before", "after")]
#: What can go wrong at a step, as errors that the step itself could raise.
KINDS: dict[str, tuple[type[Exception], ...]] = {
    "receive": (SourceUnavailable,),
    "write": (SpoolFull, HostLacks),
    "fsync": (HostLacks,),
    "acknowledge": (SourceUnavailable,),
    "seal": (SpoolFull, HostLacks),
    "history": (StoreUnavailable,),
    "put": (StoreUnavailable, HostLacks),
    "delete": (StoreUnavailable,),
    "remove": (HostLacks,),
}


class Hurried(SystemClock):
    """Nobody here has ten seconds to wait for the next try."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """At most 50 ms."""
        return super().wait(event, min(seconds, 0.05))


class Faults:
    """A step callable that counts what is reached, and does something bad where it was told to."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()
        self.fired = threading.Event()
        self._lock = threading.Lock()
        self._step = ""
        self._when = range(0)
        self._seen = 0
        self._act: Callable[[], None] = lambda: None

    def arm(self, step: str, act: Callable[[], None], *, at: int = 1, times: int = 1) -> Faults:
        """Do `act` when `step` is reached for the `at`th time from now on, and so `times` times."""
        with self._lock:
            self._step, self._act, self._seen = step, act, 0
            self._when = range(at, at + times)
            self.fired.clear()
        return self

    def __call__(self, name: str) -> None:
        """Reached a step."""
        with self._lock:
            self.reached[name] += 1
            self._seen += name == self._step
            fires = name == self._step and self._seen in self._when
            last = fires and self._seen == self._when[-1]
        try:
            if fires:
                self._act()
        finally:
            if last:
                self.fired.set()


class Doom(Faults):
    """The process dies at the step: nothing of it does anything any more."""

    def __init__(self, step: str, at: int = 1) -> None:
        super().__init__()
        self.arm(step, raising(KeyboardInterrupt), at=at)

    def __call__(self, name: str) -> None:
        """Reached a step."""
        if self.fired.is_set():
            raise KeyboardInterrupt(name)
        super().__call__(name)


def raising(kind: type[BaseException]) -> Callable[[], None]:
    """Fails with an error of that kind."""

    def act() -> None:
        raise kind("for the test")

    return act


@pytest.fixture(scope="module")
def source() -> Iterator[TestCluster]:
    """A primary on its second timeline, with segments of 1 MB, which keeps all its WAL to be compared with."""
    keeping = {"wal_keep_size": "1GB"}
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1, conf=keeping) as made:
        made.write_wal(10)
        made.stop()
        (made.directory / "standby.signal").touch()
        own(made.directory / "standby.signal")
        made.start().promote()
        yield made


@pytest.fixture
def site(source: TestCluster, tmp_path: Path) -> Iterator[Site]:
    """A new slot and a new repository in two stores."""
    repository = make_repository(tmp_path, names=("near", "far"))
    source.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    at = source.value("SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
    yield Site(source, repository, tmp_path, Lsn.parse(at))
    source.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    source.drop_slots(SLOT)


@contextmanager
def running(site: Site, steps: Callable[[str], None], **changes: Any) -> Iterator[RunningStream]:
    """A stream that is stopped at the end, whatever became of its workers."""
    chosen = settings(acknowledge=site.acknowledge, **{"piece_interval": 0.02, **changes})
    stream = RunningStream(site.repository, site.spool, lambda: site.cluster, chosen, clock=Hurried(), steps=steps)
    stream.start()
    try:
        yield stream
    finally:
        stream.stop()


def work(site: Site, until: threading.Event) -> str:
    """Some WAL at a time, the end of a segment in it, until something happened: the WAL's end."""
    for turn in range(160):
        site.cluster.write_wal(300)
        site.cluster.switch_wal()
        end = site.cluster.write_wal(10)
        if until.wait(0.1 if turn < 40 else 0.5):
            return end
    raise AssertionError("the step was never reached")


def test_the_steps_are_enumerated() -> None:
    """Every step that the code names is enumerated, and every one that is enumerated is named by the code."""
    named: set[str] = set()
    for path in (ROOT / "replicator/stream").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "steps":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path.name}:{node.lineno}: a step's name is no word"
                named.add(str(name.value))
    assert named == {*NAMES, *SLOT_STEPS}
    assert set(KINDS) == set(STEPS)


def test_every_step_is_reached(site: Site) -> None:
    """A stream at work passes every step that is enumerated, and no other."""
    faults = Faults()
    with running(site, faults) as stream:
        for rare in ("after delete", "after remove"):
            faults.arm(rare, lambda: None)
            stream.wait_durable(work(site, faults.fired))
        check_promises(site)
    assert not stream.failures
    assert set(faults.reached) == set(NAMES)


@pytest.mark.parametrize("step", [step for step in STEPS if step != "history"])
def test_what_fails_at_a_step_is_made_good(site: Site, step: str) -> None:
    """Whatever fails before or after a step, at the first time, later, or again in the repair: the promises hold while
    it fails, and everything is there afterwards.
    """
    faults = Faults()
    with running(site, faults) as stream:
        for name in (f"before {step}", f"after {step}"):
            for kind, (at, times) in zip((KINDS[step] * 2)[:2], ((1, 1), (3, 3)), strict=True):
                faults.arm(name, raising(kind), at=at, times=times)
                end = work(site, faults.fired)
                check_promises(site)
                stream.wait_durable(end)
        stream.wait(lambda now: not now.problems and not now.back_pressure, "well again")
        check_promises(site)
        assert not stream.stream.statistics().gaps
    assert not stream.failures


@pytest.mark.parametrize(("name", "times"), [("before history", 5), ("after history", 1)])
def test_a_history_that_fails_is_put_again(site: Site, name: str, times: int) -> None:
    """No store has WAL of a timeline whose history it lacks, however often putting that fails."""
    faults = Faults().arm(name, raising(StoreUnavailable), times=times)
    with running(site, faults) as stream:
        stream.wait_durable(work(site, faults.fired))
        check_promises(site)
    assert not stream.failures


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_dies_at_a_step_loses_nothing(site: Site, step: str) -> None:
    """Dead before a step, and after one in the repair: the next process goes on without a hole, a conflict or a gap,
    whether it finds the spool or not.
    """
    later = "put" if step == "history" else step  # a history is put once
    for doom in (Doom(f"before {step}"), Doom(f"after {later}", at=2)):
        with running(site, doom):
            work(site, doom.fired)
        check_promises(site)
    if STEPS.index(step) % 2:
        shutil.rmtree(site.spool)
    with running(site, Faults()) as stream:
        stream.wait_durable(site.cluster.write_wal(10))
        now = stream.wait(lambda now: not now.problems, "well")
        assert not now.gaps
    assert not stream.failures
    check_promises(site)


@contextmanager
def no_file_longer(size: int) -> Iterator[None]:
    """This process writes no file beyond `size` bytes: the write that would is cut short there, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 700, 20_000])
def test_writes_that_end_half_way(site: Site, size: int) -> None:
    """Segments, sealed objects and objects in a store are cut in the middle of a write: what is half there counts for
    nothing, and is whole afterwards.
    """
    with running(site, Faults()) as stream:
        stream.wait_durable(site.cluster.write_wal(300))
        with no_file_longer(size):
            end = site.cluster.write_wal(3000)
            stream.wait(lambda now: bool(now.problems), "said")
            check_promises(site)
        stream.wait_durable(end)
        stream.wait(lambda now: not now.problems, "well again")
        check_promises(site)
    assert not stream.failures


@pytest.mark.parametrize("step", ["receive", "acknowledge"])
def test_a_connection_that_dies_during_a_step(site: Site, step: str) -> None:
    """The source ends the connection while we read from it or write to it."""

    def kill() -> None:
        site.cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")

    faults = Faults()
    with running(site, faults) as stream:
        for at in (1, 4):
            faults.arm(f"before {step}", kill, at=at)
            stream.wait_durable(work(site, faults.fired))
            check_promises(site)
    assert not stream.failures


@pytest.mark.parametrize("place", ["store", "stores"])
def test_acknowledged_in_the_stores(site: Site, place: str) -> None:
    """Where the stores count, a death leaves nothing acknowledged that they lack, and the spool can go at any time."""
    site.acknowledge = place
    for name in ("after put", "after acknowledge"):
        doom = Doom(name, at=3)
        with running(site, doom):
            work(site, doom.fired)
        check_promises(site)
        shutil.rmtree(site.spool)
        check_promises(site, repaired=False)
    with running(site, Faults()) as stream:
        stream.wait_durable(site.cluster.write_wal(10))
    check_promises(site)


class Refusing(Tap):
    """A store that takes nothing of one segment."""

    refused = ""

    def put(self, name: str, body: bytes | Path) -> None:
        """Put it, or not."""
        if self.refused and self.refused in name:
            raise StoreUnavailable("put: refused for the test")
        self.__getattr__("put")(name, body)


@pytest.mark.parametrize("place", ["spool", "store"])
def test_a_hole_that_puts_side_by_side_left_is_filled(source: TestCluster, tmp_path: Path, place: str) -> None:
    """A store has later segments, not an earlier one, and the spool is lost: what the source still has is asked for
    again, also below what was acknowledged.
    """
    taps: list[Refusing] = []

    def wrap(driver: Any) -> Any:
        taps.append(Refusing(driver))
        return taps[-1]

    source.sql("SELECT pg_create_physical_replication_slot(%s, true)", (SLOT,))
    lost = Site(source, make_repository(tmp_path, wrap=wrap), tmp_path, Lsn(0), place)
    try:
        with running(lost, Faults(), piece_interval=600.0) as stream:
            stream.wait_durable(lost.cluster.switch_wal())
            taps[-1].closed = True
            for _ in range(3):
                source.write_wal(10)
                source.switch_wal()
            end = Lsn.parse(source.write_wal(10))
            stream.wait(lambda now: (now.received_lsn or 0) >= end, "received")
            taps[-1].refused = Segment.holding(2, end.floor(MB) - 3 * MB, MB).name
            taps[-1].closed = False
            stream.wait(lambda _: bool(catalog(lost.repository, source.system_id, "local", MB).gaps), "a hole")
        assert len(catalog(lost.repository, source.system_id, "local", MB).gaps) == 1
        shutil.rmtree(lost.spool)
        taps[-1].refused = ""
        with running(lost, Faults()) as stream:
            stream.wait_durable(source.write_wal(10))
        held = catalog(lost.repository, source.system_id, "local", MB)
        assert held.gaps == ()
    finally:
        source.drop_slots(SLOT)
