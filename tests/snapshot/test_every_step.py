"""Every step of a take fails: a snapshot exists only if it can be restored, and nothing is in the next one's way."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock

import pytest

from replicator.core.progress import silent
from replicator.errors import HostLacks, ReplicatorError, SourceUnavailable, StoreUnavailable
from replicator.repository.catalog import list_snapshots, read_catalog
from replicator.repository.repository import Repository
from replicator.snapshot.job import STEPS
from replicator.snapshot.take import take
from replicator.store.protocol import Store
from tests.clusters import TestCluster
from tests.snapshot.faults import FaultyStore
from tests.snapshot.support import Shipping, shipping, take_job
from tests.stream.promises import check_snapshots

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]
#: What can go wrong as a step is reached.
KINDS: tuple[type[ReplicatorError], ...] = (SourceUnavailable, HostLacks, StoreUnavailable)
#: From here on the snapshot exists.
EXISTS = STEPS[STEPS.index("manifest") :]
Objects = dict[tuple[str, str], bytes]


class Failing:
    """A step callable that fails when a step is reached for the `at`th time, and counts."""

    def __init__(self, step: str = "", kind: type[ReplicatorError] = HostLacks, at: int = 1) -> None:
        self.reached: Counter[str] = Counter()
        self._step, self._kind, self._at = step, kind, at
        self._lock = Lock()

    def __call__(self, name: str) -> None:
        """Reached a step."""
        with self._lock:
            self.reached[name] += 1
            now = self.reached[name]
        if name == self._step and now == self._at:
            raise self._kind("for the test")


@pytest.fixture
def streaming(primary: TestCluster, repository: Repository) -> Iterator[Shipping]:
    """A stream into both stores."""
    with shipping(primary, repository) as found:
        yield found


def objects(stores: dict[str, Store]) -> Objects:
    """Every object's bytes."""
    return {(name, info.name): store.get(info.name) for name, store in stores.items() for info in store.list("")}


def check_promises(repository: Repository, stores: dict[str, Store], system_id: int, before: Objects) -> int:
    """Promises 3 to 6 in each store: how many snapshots there are in all."""
    now = objects(stores)
    assert {key: now.get(key) for key in before} == before
    for store in stores.values():
        held = read_catalog(store, system_id, repository.keyring)
        check_snapshots(store, held, repository.keyring)
        assert held.recorded_gaps == ()
    return sum(len(list_snapshots(store, system_id)) for store in stores.values())


def test_the_steps_are_enumerated(
    primary: TestCluster, repository: Repository, streaming: Shipping, tmp_path: Path
) -> None:
    """A take passes every step of STEPS and no other, and the code names no other."""
    named: set[str] = set()
    for path in (ROOT / "replicator/snapshot").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("steps", "step", "_step")
            ):
                named |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    assert named == set(STEPS)
    steps = Failing()
    take(take_job(primary, repository, tmp_path / "state", steps=steps), silent, Event())
    assert set(steps.reached) == set(STEPS)


@pytest.mark.parametrize("steps", list(zip(STEPS[::2], STEPS[1::2], strict=True)), ids="-".join)
def test_what_fails_at_a_step_is_made_good(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path,
    steps: tuple[str, str],
) -> None:  # fmt: skip
    """A take that fails at a step, and the one after it at the next, leave a snapshot only behind its manifest; the
    third is whole, and no object of the first two was touched.
    """
    expected = 0
    before: Objects = {}
    for name in steps:
        failing = Failing(name, KINDS[STEPS.index(name) % len(KINDS)], at=50 if name == "file" else 1)
        with pytest.raises(ReplicatorError):
            take(take_job(primary, repository, tmp_path / "state", steps=failing), silent, Event())
        expected += len(stores) * (name in EXISTS)
        assert check_promises(repository, stores, primary.system_id, before) == expected
        before = objects(stores)
    result = take(take_job(primary, repository, tmp_path / "state"), silent, Event())
    assert (result.exit_code, set(result.row.stores)) == (0, set(stores))
    assert check_promises(repository, stores, primary.system_id, before) == expected + len(stores)
    assert [path.name for path in (tmp_path / "state/snapshot").iterdir()] == ["parent.sqlite"]


class Forgetful(FaultyStore):
    """A store whose answers to puts are lost: the object is there, and the caller hears that it failed."""

    def put(self, name: str, body: bytes | Path) -> None:
        """Done, and said to have failed."""
        super().put(name, body)
        if "/snapshots/" in name:
            raise StoreUnavailable(f"store {self.name}: the answer was lost")


def test_a_manifest_whose_answer_was_lost(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path
) -> None:
    """A manifest that is there counts, whatever its put was said to be: the store has all that it names."""
    seen = Repository("frk", repository.keyring, {**stores, "offsite": Forgetful(stores["offsite"])})
    result = take(take_job(primary, seen, tmp_path / "state"), silent, Event())
    assert result.exit_code == 6
    assert check_promises(repository, stores, primary.system_id, {}) == 2


@pytest.mark.parametrize("at", [0, 5])
def test_a_pack_half_written(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], streaming: Shipping, tmp_path: Path, at: int
) -> None:
    """Every store fails within a pack: no snapshot, no half pack under a pack's name; the next take is whole."""
    broken = {name: FaultyStore(store, fail_write_at=at) for name, store in stores.items()}
    with pytest.raises(StoreUnavailable):
        take(
            take_job(primary, Repository("frk", repository.keyring, dict(broken)), tmp_path / "state"), silent, Event()
        )
    assert check_promises(repository, stores, primary.system_id, {}) == 0
    before = objects(stores)
    take(take_job(primary, repository, tmp_path / "state"), silent, Event())
    assert check_promises(repository, stores, primary.system_id, before) == len(stores)
