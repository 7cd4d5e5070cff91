"""A restore says what it uses, again and again while it lasts, where it may; elsewhere a long one is warned of."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.repository.catalog import list_snapshots
from replicator.repository.notes import RESTORING, all_notes, read_note
from replicator.restore.announce import announced
from tests.repositories import make_repository

SNAPSHOT = Snapshot("20261101T000000Z", 7, 1, Lsn(16), Lsn(32))


def plan(seconds: float) -> Any:
    """The facts of a plan that are looked at."""
    return SimpleNamespace(snapshot=SNAPSHOT, target="latest", expected_s=seconds)


def test_note_is_put_and_renewed(tmp_path: Path) -> None:
    """One at once, more while it lasts, none after its end; each is signed."""
    repository = make_repository(tmp_path)
    store = repository.store("local")
    with announced(store, repository.keyring, plan(5.0), again_s=0.01) as warnings:
        assert warnings == []
        deadline = time.monotonic() + 60
        while sum(1 for _ in all_notes(store, 7)) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
    notes = [note for note, _ in all_notes(store, 7)]
    assert len(notes) >= 3
    assert {(note.kind, note.subject) for note in notes} == {(RESTORING, SNAPSHOT.label)}
    assert read_note(store, notes[0], repository.keyring)["target"] == "latest"
    assert list_snapshots(store, 7) == ()


@pytest.mark.parametrize(("seconds", "warned"), [(100.0, 0), (100_000.0, 1)])
def test_who_may_not_put_is_warned(tmp_path: Path, seconds: float, warned: int) -> None:
    """Without a writer key nothing is put, and a restore of more than a day says so."""
    repository = make_repository(tmp_path)
    keyring = replace(repository.keyring, writer=None)
    with announced(repository.store("local"), keyring, plan(seconds)) as warnings:
        assert len(warnings) == warned
    assert list(all_notes(repository.store("local"), 7)) == []
