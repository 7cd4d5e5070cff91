"""What the stores let go of on purpose, as their signed notes say: its absence is no damage. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from replicator.core.coverage import Coverage
from replicator.errors import IntegrityError, ObjectAbsent, StoreUnavailable
from replicator.repository.layout import ManifestName, Name, NoteName, WalName, parse_name
from replicator.repository.notes import GONE, RESTORING, RETIRED, ranges_of_note, read_note
from replicator.repository.repository import Repository
from replicator.verify.affects import range_of
from replicator.verify.inventory import Inventory

#: Notes about the store that holds them: another store needs none of them.
OF_ONE_STORE = frozenset({RETIRED, RESTORING})


@dataclass(frozen=True)
class LetGo:
    """`names` are objects, `wal` by system id what retention took; `retention`: whether it was ever at work."""

    names: Set[str] = frozenset()
    wal: Mapping[int, Coverage] = field(default_factory=dict)
    retention: bool = False

    def holds(self, name: str, place: Name | None, segment_size: int) -> bool:
        """Whether an object was let go of."""
        if name in self.names:
            return True
        if not isinstance(place, WalName) or place.system_id not in self.wal:
            return False
        reach = range_of(place, segment_size)
        return reach is not None and self.wal[place.system_id].holds(place.timeline, *reach)

    @property
    def labels(self) -> Set[str]:
        """Of the snapshots among the names."""
        places = map(parse_name, self.names)
        return {place.snapshot.label for place in places if isinstance(place, ManifestName)}


def read_let_go(repository: Repository, inventories: Iterable[Inventory]) -> LetGo:
    """From the notes of all stores together. One that does not verify counts for nothing."""
    names: set[str] = set()
    wal: dict[int, Coverage] = {}
    retention = False
    for inventory in inventories:
        store = repository.store(inventory.store)
        for place in inventory.places().values():
            if not isinstance(place, NoteName) or place.kind != RETIRED:
                continue
            try:
                body = read_note(store, place, repository.keyring)
                parts = ranges_of_note(body) if "ranges" in body else ()
            except (IntegrityError, ObjectAbsent, StoreUnavailable):  # the look at it tells what is wrong
                continue
            retention = retention or place.subject == GONE
            names.update(str(name) for name in body.get("names", ()))
            found = Coverage.of((part.timeline, part.start, part.end) for part in parts)
            wal[place.system_id] = wal.get(place.system_id, Coverage.of()).union(found)
    return LetGo(names, wal, retention)
