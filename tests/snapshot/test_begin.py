"""Marks of takes: who is alive, who goes on, which label is free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.errors import Conflict, Interrupted, ObjectAbsent
from replicator.repository.layout import PackId, begin_name, manifest_name, pack_name
from replicator.repository.repository import Repository
from replicator.seal.document import sign_as_writer
from replicator.snapshot.begin import Begun, attempt, exclude_others, free_label, put_mark
from replicator.snapshot.participants import Participants
from replicator.snapshot.processes import Life, host_name, life_of, process_mark
from replicator.store.protocol import ObjectInfo
from replicator.tolerance import SystemClock
from tests.clock import FakeClock
from tests.snapshot.faults import FaultyStore

SYSTEM = 77
OURS = Begun(SYSTEM, "20261122T000005Z", 5)


def participants(repository: Repository) -> Participants:
    """Every store."""
    return Participants(repository.stores, SystemClock(), 10, Event())


def put_other(
    repository: Repository, tmp_path: Path, label: str, number: int = 9, *, age_s: float = 0, **body: Any
) -> None:
    """A mark of another take, by default one of another host, whose label got its last object `age_s` ago."""
    name = begin_name(SYSTEM, label, number)
    facts = {"host": "db9", "parent": None, "pid": 1, "process_start": "a/b/1", "started": "x", **body}
    repository.stores["local"].put(name, sign_as_writer(repository.keyring, "begin", name, facts))
    if age_s:
        then = time.time() - age_s
        os.utime(tmp_path / "local/frk" / name, (then, then))


def exclude(repository: Repository) -> list[Finding]:
    """Put our mark, then look."""
    with attempt() as number:
        ours = Begun(SYSTEM, OURS.label, number)
        put_mark(participants(repository), repository.keyring, ours, None, SystemClock().now())
        return exclude_others(participants(repository), repository.keyring, ours)


def test_an_earlier_take_of_another_host_goes_on(repository: Repository, tmp_path: Path) -> None:
    """A younger mark with a lower label: Conflict (8) that names it."""
    put_other(repository, tmp_path, "20261122T000004Z")
    with pytest.raises(Conflict) as failure:
        exclude(repository)
    assert failure.value.exit_code == 8
    assert "20261122T000004Z" in failure.value.message
    assert "db9" in failure.value.message


def test_a_later_take_gives_way(repository: Repository, tmp_path: Path) -> None:
    """A living mark with a higher label doesn't stop us: it will see ours."""
    put_other(repository, tmp_path, "20261122T000006Z", age_s=-60)  # however long it takes us to put ours
    exclude(repository)


def test_a_take_under_way_goes_on(repository: Repository, tmp_path: Path) -> None:
    """A living mark that was there half a minute before ours looked before we came, whatever its host's clock says."""
    put_other(repository, tmp_path, "20261122T000006Z", age_s=30)
    with pytest.raises(Conflict):
        exclude(repository)


def test_a_silent_take_of_another_host_is_dead(repository: Repository, tmp_path: Path) -> None:
    """Nothing new under its label for more than an hour: we go on."""
    put_other(repository, tmp_path, "20261122T000004Z", age_s=3700)
    exclude(repository)


def test_a_young_pack_keeps_a_mark_alive(repository: Repository, tmp_path: Path) -> None:
    """An old mark whose label just got a pack is alive."""
    put_other(repository, tmp_path, "20261122T000004Z", age_s=3700)
    repository.stores["local"].put(pack_name(SYSTEM, PackId("20261122T000004Z", 9, 0)), b"pack")
    with pytest.raises(Conflict):
        exclude(repository)


def test_a_finished_take_is_no_take(repository: Repository, tmp_path: Path) -> None:
    """A mark whose label has a manifest is of the past, whatever its process does."""
    put_other(repository, tmp_path, "20261122T000004Z")
    done = Snapshot("20261122T000004Z", SYSTEM, 1, Lsn(1), Lsn(2))
    repository.stores["local"].put(manifest_name(done), b"manifest")
    exclude(repository)


class CountingStore(FaultyStore):
    """Counts the lists asked for."""

    lists = 0

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As the inner store."""
        self.lists += 1
        return super().list(prefix, after=after)


def test_the_past_costs_few_requests(repository: Repository, tmp_path: Path) -> None:
    """Many finished takes, one of more packs than a list has in a page: a few lists in all, not some for each; the one
    that is alive among them is seen.
    """
    for number in range(40):
        label = f"20261121T0000{number:02}Z"
        names = [pack_name(SYSTEM, PackId(label, 9, pack)) for pack in range(1100 if number == 20 else 2)]
        for name in (*names, begin_name(SYSTEM, label, 9), manifest_name(Snapshot(label, SYSTEM, 1, Lsn(1), Lsn(2)))):
            path = tmp_path / "local/frk" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"object")
    counting = CountingStore(repository.stores["local"])
    seen = Repository("frk", repository.keyring, {"local": counting})
    exclude(seen)
    assert counting.lists < 10
    put_other(repository, tmp_path, "20261121T000030Z", number=8)
    put_other(repository, tmp_path, "20261121T000100Z")
    with pytest.raises(Conflict, match="20261121T000100Z"):
        exclude(seen)


class LateStore(FaultyStore):
    """What it lists under `gone` is gone when it is read."""

    gone = "no name has this"

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As the inner store, or absent."""
        if self.gone in name:
            raise ObjectAbsent(f"{name} is absent")
        return super().get_tail(name, length)


def test_a_mark_removed_meanwhile_stops_nobody(repository: Repository, tmp_path: Path) -> None:
    """A mark that a prune elsewhere removes between listing and reading it is of the past; one beside it counts."""
    put_other(repository, tmp_path, "20261122T000004Z")
    late = LateStore(repository.stores["local"])
    late.gone = "20261122T000004Z"
    seen = Repository("frk", repository.keyring, {"local": late})
    assert exclude(seen) == []
    put_other(repository, tmp_path, "20261122T000003Z")
    with pytest.raises(Conflict, match="20261122T000003Z"):
        exclude(seen)


def test_a_process_of_this_host(repository: Repository, tmp_path: Path) -> None:
    """Alive while it runs, dead at once when it is gone."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    mark = process_mark(child.pid)
    put_other(
        repository, tmp_path, "20261122T000004Z", host=host_name(), pid=child.pid, process_start=mark
    )  # fmt: skip
    with pytest.raises(Conflict):
        exclude(repository)
    child.communicate(timeout=60)
    exclude(repository)


def test_a_forged_mark_is_refused(repository: Repository, tmp_path: Path) -> None:
    """A mark that no writer signed stops nobody and is a finding."""
    name = begin_name(SYSTEM, "20261122T000004Z", 9)
    repository.stores["local"].put(name, b'{"no":"mark"}\nsigned x y\n')
    assert [(finding.code, finding.object) for finding in exclude(repository)] == [("mark_unusable", name)]


def test_what_is_said_of_processes() -> None:
    """Ourselves: alive. Another start: dead. Another boot: dead. Another host, namespace or nothing: unknown."""
    mark = process_mark(os.getpid())
    boot, namespace, start = mark.split("/")
    ours = (host_name(), os.getpid())
    assert life_of(*ours, mark) is Life.ALIVE
    assert life_of(*ours, f"{boot}/{namespace}/{int(start) + 1}") is Life.DEAD
    assert life_of(*ours, f"other/{namespace}/{start}") is Life.DEAD
    assert life_of(*ours, f"{boot}/1/{start}") is Life.UNKNOWN
    assert life_of(*ours, "") is Life.UNKNOWN
    assert life_of("elsewhere", os.getpid(), mark) is Life.UNKNOWN
    assert process_mark(2**22 + 1) == ""


def test_a_free_label(repository: Repository) -> None:
    """This second's label, unless a store knows it: then that of the next."""
    clock = FakeClock()
    assert free_label(participants(repository), SYSTEM, clock, Event()) == "20261122T000000Z"
    repository.stores["offsite"].put(pack_name(SYSTEM, PackId("20261122T000000Z", 1, 0)), b"pack")
    assert free_label(participants(repository), SYSTEM, clock, Event()) == "20261122T000001Z"
    assert clock.waits == [1.0]
    stop = Event()
    repository.stores["local"].put(pack_name(SYSTEM, PackId("20261122T000001Z", 1, 0)), b"pack")
    stop.set()
    with pytest.raises(Interrupted):
        free_label(participants(repository), SYSTEM, clock, stop)
