"""A store that lies: it leaves objects out of its listings, delivers other bytes than were asked for, or tells another
length. Owns the lies; the bytes on disk stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import ObjectAbsent
from replicator.store.protocol import ObjectInfo, ObjectWriter, Properties, Store
from scripts.lib.campaigns.mutate_names import other_name

#: What a server says instead of the truth.
LIES = ("stale list", "ghost", "wrong range", "short answer", "long answer", "wrong length", "says absent")
#: Of these kinds a listing may show objects that are not there; pieces and begins go by themselves.
GHOSTS = ("wal", "pack", "manifest", "history", "record")


@dataclass(frozen=True)
class Lie:
    """Which lie, in which store, about which name (`prefix` is the repository's folder there), by how many bytes."""

    lie: str
    store: str
    prefix: str
    about: str
    by: int = 1

    def wrap(self, store: Store) -> Store:
        """The store of the lie, lying; any other as it is."""
        return LyingStore(store, self) if store.name == self.store else store


class LyingStore:
    """As the store within, but for the lie."""

    def __init__(self, inner: Store, lie: Lie) -> None:
        self._inner, self._lie = inner, lie

    @property
    def name(self) -> str:
        """As Store."""
        return self._inner.name

    @property
    def properties(self) -> Properties:
        """As Store."""
        return self._inner.properties

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """As Store, or not."""
        lie = self._told(name)
        if lie == "wrong range":
            found = self._inner.get(name, offset + self._lie.by, length)
            missing = 0 if length is None else length - len(found)
            return found + self._inner.get(name, 0, missing) if missing > 0 else found
        return self._cut(lie, self._inner.get(name, offset, length))

    def get_tail(self, name: str, length: int) -> tuple[bytes, int]:
        """As Store, or not."""
        lie = self._told(name)
        data, size = self._inner.get_tail(name, length)
        if lie == "wrong range":
            return data[self._lie.by :] + data[: self._lie.by], size
        return self._cut(lie, data), size + self._lie.by if lie == "wrong length" else size

    def stat(self, name: str) -> ObjectInfo:
        """As Store, or not."""
        lie = self._told(name)
        info = self._inner.stat(name)
        return info._replace(size=info.size + self._lie.by) if lie == "wrong length" else info

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """As Store, or not."""
        found: list[ObjectInfo] = []
        for info in self._inner.list(prefix, after=after):
            lie = self._lie.lie if self._about(info.name) else ""
            if lie != "stale list":
                found.append(info._replace(size=info.size + self._lie.by) if lie == "wrong length" else info)
        ghost = f"{self._lie.prefix}/{self._lie.about}"
        if self._lie.lie == "ghost" and found and ghost.startswith(prefix) and ghost > after:
            found.append(ObjectInfo(ghost, self._lie.by, found[0].modified))
        yield from sorted(found, key=lambda info: info.name)

    def put(self, name: str, body: bytes | Path) -> None:
        """As Store."""
        self._inner.put(name, body)

    def writer(self, name: str) -> ObjectWriter:
        """As Store."""
        return self._inner.writer(name)

    def delete(self, name: str) -> None:
        """As Store."""
        self._inner.delete(name)

    def _about(self, name: str) -> bool:
        return name == f"{self._lie.prefix}/{self._lie.about}"

    def _told(self, name: str) -> str:
        lie = self._lie.lie if self._about(name) else ""
        if lie == "says absent":
            raise ObjectAbsent(f"{name} is not in store {self.name}", name=name, store=self.name)
        return lie

    def _cut(self, lie: str, data: bytes) -> bytes:
        if lie == "short answer":
            return data[: -self._lie.by]
        return data + bytes(self._lie.by) if lie == "long answer" else data


def draw_lie(chance: random.Random, lie: str, store: str, name: str, path: Path, prefix: str) -> Lie:
    """A lie about an object whose file is `path`, by 1 or 16 bytes or many; a ghost has another name."""
    if lie == "ghost":
        return Lie(lie, store, prefix, other_name(chance, name), path.stat().st_size)
    return Lie(lie, store, prefix, name, chance.choice([1, 16, chance.randint(1, path.stat().st_size)]))
