"""Records: signed documents that say what a verification checked and found (docs/format.md, section 9).

Owns their writing, listing and reading, and what of them counts as a proof. It judges no finding.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from replicator.core.moment import parse_time
from replicator.errors import IntegrityError, ObjectAbsent, UsageError
from replicator.repository.earlier import read_sound
from replicator.repository.layout import RecordName, parse_name, record_name, records_prefix
from replicator.seal.digest import fingerprint
from replicator.seal.document import MOST_BYTES, canonical, open_document, sign_as_writer
from replicator.seal.keyring import Keyring
from replicator.store.protocol import ReadableStore

_log = logging.getLogger(__name__)
_TIME = "%Y%m%dT%H%M%S%fZ"

#: The kinds of records, which are the levels of `verify`.
KINDS = ("objects", "coverage", "drill", "compare")
#: Kinds that look at every store: what they prove of one store says nothing of another.
PER_STORE = frozenset({"objects", "coverage"})
#: A record holds at most so many findings; `findings_total` says how many there were.
MOST_FINDINGS = 500
#: Records of one kind that are read in search of a proof.
_MOST_READ = 30
#: Clocks of hosts differ by less than this. A record from later was signed by a clock that was wrong.
_CLOCK_SLACK = timedelta(hours=1)


@dataclass(frozen=True)
class Record:
    """One record that verifies. `body` as in docs/format.md."""

    name: RecordName
    body: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The level."""
        return self.name.kind

    @property
    def time(self) -> datetime:
        """When the level ended."""
        return time_of(self.name)

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return self.body["ok"] is True

    @property
    def stores(self) -> tuple[str, ...]:
        """The stores that were looked at."""
        return tuple(self.body["stores"])

    @property
    def proven(self) -> Mapping[str, datetime]:
        """Since when each store is known to be well; empty when it is no proof."""
        return {store: parse_time(text) for store, text in self.body["proven"].items()}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the kind says besides."""
        facts: Mapping[str, Any] = self.body["facts"]
        return facts


def time_of(name: RecordName) -> datetime:
    """The time that a record's name tells."""
    return datetime.strptime(name.time, _TIME).replace(tzinfo=UTC)


def sign_record(
    keyring: Keyring, system_id: int, kind: str, facts: Mapping[str, Any], now: datetime
) -> tuple[RecordName, bytes]:
    """(name, content) of a record, ready to be put into every store. Raises KeysError without a writer key."""
    time = now.astimezone(UTC).strftime(_TIME)
    body = {"kind": kind, "time": time, **facts}
    name = RecordName(system_id, time, kind, fingerprint(keyring.repository_id, canonical(body)))
    return name, sign_as_writer(keyring, "record", record_name(name), body)


def list_records(store: ReadableStore, system_id: int) -> tuple[RecordName, ...]:
    """Every record of a known kind that a store lists, oldest first."""
    places = (parse_name(info.name) for info in store.list(records_prefix(system_id)))
    return tuple(place for place in places if isinstance(place, RecordName) and place.kind in KINDS)


def read_record(store: ReadableStore, name: RecordName, keyring: Keyring) -> Record:
    """One record, verified. Raises ObjectAbsent, IntegrityError."""
    text = record_name(name)
    return read_sound(store, text, lambda found: _read_record(found, name, keyring))


def _read_record(store: ReadableStore, name: RecordName, keyring: Keyring) -> Record:
    text = record_name(name)
    data, size = store.get_tail(text, MOST_BYTES)
    if size > MOST_BYTES:
        raise IntegrityError(f"{text}: too long for a document", object=text)
    return parse_record(data, name, keyring)


def parse_record(data: bytes, name: RecordName, keyring: Keyring) -> Record:
    """A record from its bytes. Raises IntegrityError."""
    text = record_name(name)
    body = open_document(keyring, "record", text, data)
    if fingerprint(keyring.repository_id, canonical(body)) != name.fingerprint:
        raise IntegrityError(f"{text}: its fingerprint is another's", object=text)
    record = Record(name, body)
    try:
        whole = (body["kind"], body["time"]) == (name.kind, name.time)
        whole = whole and isinstance(record.facts, dict) and all(isinstance(store, str) for store in record.stores)
        whole = whole and bool(time_of(name)) and record.proven is not None and record.ok in (True, False)
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise IntegrityError(f"{text}: a record that makes no sense", object=text) from error
    if not whole:
        raise IntegrityError(f"{text}: a record that makes no sense", object=text)
    return record


class RecordReader:
    """The records of one store, each read once: they never change. One thread at a time."""

    def __init__(self, store: ReadableStore, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._known: dict[RecordName, Record | None] = {}

    def newest(self, system_ids: Iterable[int], stores: Collection[str], now: datetime) -> tuple[Record, ...]:
        """Of each kind the newest record, and those older ones that the newest proof of each of `stores` needs. What
        says that it is from the future counts for nothing: it would be the newest for ever.
        """
        until = (now + _CLOCK_SLACK).astimezone(UTC).strftime(_TIME)
        listed = (name for system_id in system_ids for name in list_records(self._store, system_id))
        names = sorted(name for name in listed if name.time <= until)
        self._known = {name: record for name, record in self._known.items() if name in set(names)}
        found: list[Record] = []
        for kind in KINDS:
            of_kind = sorted((name for name in names if name.kind == kind), key=lambda name: name.time, reverse=True)
            found += self._needed(of_kind, kind, stores)
        return tuple(found)

    def _needed(self, names: Iterable[RecordName], kind: str, stores: Collection[str]) -> Iterator[Record]:
        """From the newest back, until every store is proven (any, where a proof of one is a proof of all)."""
        open_stores, first = set(stores), True
        for name, _ in zip(names, range(_MOST_READ), strict=False):
            record = self._read(name)
            if record is None:
                continue
            fresh = open_stores & set(record.proven)
            if first or fresh:
                yield record
            first = False
            open_stores -= fresh
            if not open_stores or (fresh and kind not in PER_STORE):
                return

    def _read(self, name: RecordName) -> Record | None:
        """None for one that does not verify (it is told), or that has gone."""
        if name not in self._known:
            try:
                self._known[name] = read_record(self._store, name, self._keyring)
            except ObjectAbsent:
                return None
            except IntegrityError as error:
                _log.warning("store %s: ignored: %s", self._store.name, error.message)
                self._known[name] = None
        return self._known[name]


def proven_since(
    records: Iterable[Record], kind: str, stores: Collection[str], system_id: int | None
) -> datetime | None:
    """Since when the repository is proven at a level: with `objects` and `coverage` the oldest of its stores' newest
    proofs (None while a store has none), else the newest proof of any by a restore of `system_id`, the present
    cluster's (None: nobody knows): what a former one could do says nothing of it.
    """
    newest: dict[str, datetime] = {}
    for record in records:
        if record.kind == kind and (kind in PER_STORE or system_id in (None, record.name.system_id)):
            for store, moment in record.proven.items():
                newest[store] = max(moment, newest.get(store, moment))
    if kind in PER_STORE:
        return min(newest[store] for store in stores) if stores and set(stores) <= set(newest) else None
    return max(newest.values(), default=None)


def last_of(records: Iterable[Record], kind: str) -> Record | None:
    """The newest record of a kind, whatever it says."""
    of_kind = (record for record in records if record.kind == kind)
    return max(of_kind, key=lambda record: (record.name.time, record.name), default=None)
