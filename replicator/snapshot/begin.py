"""The mark that a snapshot was begun, and how two takes exclude each other by it.

Both put their mark first and look then, so at least one sees the other; the lower label goes on, unless the other one
was clearly there before by the store's clock (hosts' clocks differ): it has looked already. A mark is dead when its
process is gone on this host, or, elsewhere, when nothing was put under its label for an hour by the store's clock.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Lock
from typing import Any

from replicator.core.finding import Finding
from replicator.core.moment import rfc3339
from replicator.core.snapshot import label_of
from replicator.errors import Conflict, IntegrityError, Interrupted, ObjectAbsent
from replicator.repository.catalog import list_snapshots
from replicator.repository.earlier import read_document
from replicator.repository.layout import BeginName, begin_name, packs_prefix, parse_name, snapshots_prefix
from replicator.seal.document import open_document, sign_as_writer
from replicator.seal.keyring import Keyring
from replicator.snapshot.job import MARK_UNUSABLE
from replicator.snapshot.participants import Participants
from replicator.snapshot.processes import Life, host_name, life_of, process_mark
from replicator.store.protocol import ReadableStore, Store
from replicator.tolerance import Clock

#: A mark of another host is dead when its label got no new object for so long.
_SILENT = timedelta(hours=1)
#: Marks put within so long were put at once, as far as a store's clock can tell.
_AT_ONCE = timedelta(seconds=5)

_FORGED = "The mark was damaged, or put by someone who is no writer of the repository; find out who can put there."

#: Names that one LIST gives: beyond so many of one label another LIST, behind them, costs less.
_PAGE = 1000
#: Attempts of this very process, which a mark's process id can't tell apart.
_running: set[int] = set()
_running_lock = Lock()


@dataclass(frozen=True, slots=True)
class Begun:
    """A take's own place."""

    system_id: int
    label: str
    attempt: int

    @property
    def name(self) -> str:
        """Its mark's name."""
        return begin_name(self.system_id, self.label, self.attempt)


@contextmanager
def attempt() -> Iterator[int]:
    """A random attempt, known to this process as running while the context lasts."""
    number = secrets.randbits(32)
    with _running_lock:
        _running.add(number)
    try:
        yield number
    finally:
        with _running_lock:
            _running.discard(number)


def free_label(participants: Participants, system_id: int, clock: Clock, stop: Event) -> str:
    """The label of this second, or of the first one after it that no store knows yet. Raises Interrupted."""
    while True:
        label = label_of(clock.now())

        def taken(_: str, store: Store, label: str = label) -> bool:
            prefixes = (packs_prefix(system_id, label), snapshots_prefix(system_id, label))
            return any(next(iter(store.list(prefix)), None) is not None for prefix in prefixes)

        if not any(participants.each(taken, what="looking for a free label").values()):
            return label
        if clock.wait(stop, 1.0 - clock.now().microsecond / 1e6):
            raise Interrupted("stopped while waiting for a free label")


def put_mark(
    participants: Participants, keyring: Keyring, begun: Begun, parent: str | None, now: datetime,
    continues: Sequence[str] = (),
) -> None:  # fmt: skip
    """Put the mark into every participating store; `parent` is the label of the snapshot that must be kept meanwhile,
    `continues` are those under which takes that died left packs.
    """
    body: dict[str, Any] = {
        "host": host_name(),
        "parent": parent,
        "pid": os.getpid(),
        "process_start": process_mark(os.getpid()),
        "started": rfc3339(now),
    }
    if continues:
        body["continues"] = list(continues)
    document = sign_as_writer(keyring, "begin", begun.name, body)
    participants.each(lambda _, store: store.put(begun.name, document), what="putting the begin")


def exclude_others(participants: Participants, keyring: Keyring, begun: Begun) -> list[Finding]:
    """Raise Conflict when another take is alive that was there before, or has a lower label (or attempt, in the same
    second).

    A mark that no writer signed stops nobody: it is returned as a finding.
    """
    findings: list[Finding] = []

    def others(_: str, store: Store) -> list[tuple[BeginName, bool, dict[str, Any]]]:
        return list(_living(store, keyring, begun, findings))

    for name, found in participants.each(others, what="looking for other takes").items():
        for place, earlier, body in found:
            if earlier or (place.label, place.attempt) < (begun.label, begun.attempt):
                raise Conflict(
                    f"snapshot {place.label} is being taken by process {body.get('pid')} on {body.get('host')}",
                    hint="Wait until it has ended; a take whose process is gone on another host counts for an hour.",
                    store=name,
                    label=place.label,
                )
    return findings


def _living(
    store: ReadableStore, keyring: Keyring, begun: Begun, findings: list[Finding]
) -> Iterator[tuple[BeginName, bool, dict[str, Any]]]:
    """Marks of takes that are alive, whether each was put before ours, and what it says."""
    now = store.stat(begun.name).modified
    ended = {snapshot.label for snapshot in list_snapshots(store, begun.system_id)}
    for label in _labels(store, begun.system_id):
        if label in ended or next(iter(store.list(snapshots_prefix(begun.system_id, label))), None) is not None:
            continue  # it has ended well
        newest: datetime | None = None
        marks: dict[BeginName, datetime] = {}
        for info in store.list(packs_prefix(begun.system_id, label)):
            place = parse_name(info.name)
            if isinstance(place, BeginName) and place.attempt != begun.attempt:
                marks[place] = info.modified
            newest = info.modified if newest is None else max(newest, info.modified)
        for place, put in marks.items():
            name = begin_name(place.system_id, place.label, place.attempt)
            try:
                body = open_document(keyring, "begin", name, read_document(store, name))
            except ObjectAbsent:
                continue  # a prune removed it since it was listed: it was dead
            except IntegrityError as error:
                findings.append(
                    Finding(MARK_UNUSABLE, error.message, error.hint or _FORGED, object=name, store=store.name)
                )
                continue
            if _alive(body, place.attempt, newest or put, now):
                yield place, put < now - _AT_ONCE, body


def _alive(body: dict[str, Any], number: int, newest: datetime, now: datetime) -> bool:
    life = life_of(str(body.get("host")), int(body.get("pid", 0)), str(body.get("process_start")))
    if life is Life.ALIVE and body.get("pid") == os.getpid():
        with _running_lock:
            return number in _running
    if life is Life.UNKNOWN:
        return now - newest < _SILENT
    return life is Life.ALIVE


def _labels(store: ReadableStore, system_id: int) -> Iterator[str]:
    """Every label that has a begin or a pack. Labels of few objects share a LIST; of many, most are passed over."""
    prefix = packs_prefix(system_id)
    last, count, jump = "", 0, True
    while jump:
        jump = False
        for info in store.list(prefix, after=f"{prefix}{last}/~" if last else ""):
            label = info.name.removeprefix(prefix).partition("/")[0]
            if label != last:
                last, count = label, 0
                yield label
            count += 1
            if count >= _PAGE:
                jump = True
                break
