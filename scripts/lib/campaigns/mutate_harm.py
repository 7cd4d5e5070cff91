"""What can be done to the objects of a store by who can write there, and what of it a verification must name.

Owns the mutations and their effect on files. Judges nothing. Every mutation replaces files and
never writes into one: the copies share them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from replicator.core.lsn import Segment
from replicator.repository.layout import PieceName, WalName, parse_name
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.digest import digest
from replicator.seal.document import UnverifiedDocument, sign_document
from replicator.seal.header import HEADER_SIZE, Compression, Header
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import parse_tail
from replicator.seal.signature import SigningKey
from replicator.seal.table import TRAILER_SIZE, trailer
from scripts.lib.campaigns.mutate_ground import CLUSTER, STORES, Ground, link_tree, names_in
from scripts.lib.campaigns.mutate_names import KINDS, SEALED, kind_of, other_name, parts_of


@dataclass
class Harm:
    """What was done to `stores`. `changed`: names whose content is wrong now, or that were not there; `gone`: names
    that are no longer there. `whole`: a store was put back to an older state.
    """

    mutation: str
    kind: str
    stores: tuple[str, ...]
    how: str = ""
    changed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    whole: bool = False

    def __str__(self) -> str:
        names = ", ".join(sorted(self.changed | self.gone)[:4])
        return f"{self.mutation} {self.kind} {self.how} in {'+'.join(self.stores)}: {names}"


class Hand:
    """Does one thing to the copy at hand, as `chance` draws it."""

    def __init__(self, ground: Ground, chance: random.Random, keyring: Keyring) -> None:
        self._ground, self._chance = ground, chance
        #: Who can only put: knows everything public, and signs with a key of its own.
        self._stranger = keyring.without_secrets().with_writer(SigningKey(chance.randbytes(32)))
        self._names: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for name in names_in(ground.original(STORES[0])):
            self._names[kind_of(name)].append(name)

    def names(self, kind: str) -> list[str]:
        """The objects of a kind."""
        return self._names[kind]

    def do(self, mutation: str, kind: str, stores: tuple[str, ...]) -> Harm:
        """Harm an object of this kind in these stores, all in the same way."""
        harm = Harm(mutation, kind, stores)
        MUTATIONS[mutation](self, harm)
        return harm

    # What follows is called through MUTATIONS.

    def flip(self, harm: Harm) -> None:
        """One bit, in a part of the object that is drawn first: the small ones count too."""
        name = self._one(harm)
        data = bytearray(self._read(name))
        harm.how, (low, high) = self._chance.choice(list(parts_of(name, bytes(data)).items()))
        bit = self._chance.choice([5, self._chance.randrange(8)])  # the fifth is the case of a letter
        data[self._chance.randrange(low, high)] ^= 1 << bit
        self._change(harm, name, bytes(data))

    def truncate(self, harm: Harm) -> None:
        """The end is missing, or all of it."""
        name = self._one(harm)
        data = self._read(name)
        keep = self._chance.choice([0, len(data) - 1, len(data) - TRAILER_SIZE, self._chance.randrange(len(data))])
        self._change(harm, name, data[:keep])

    def extend(self, harm: Harm) -> None:
        """Bytes are added at the end, or before the beginning."""
        name = self._one(harm)
        data = self._read(name)
        more = self._chance.choice([b"\0", b"\n", self._chance.randbytes(100), data])
        self._change(harm, name, self._chance.choice([data + more, more + data]))

    def delete(self, harm: Harm) -> None:
        """An object goes."""
        self._remove(harm, self._one(harm))

    def swap(self, harm: Harm) -> None:
        """Two objects of a kind change places."""
        one, two = self._two(harm)
        first, second = self._read(one), self._read(two)
        self._change(harm, one, second)
        self._change(harm, two, first)

    def replay(self, harm: Harm) -> None:
        """An older object of the same kind stands in a newer one's place."""
        one, two = sorted(self._two(harm))
        self._change(harm, two, self._read(one))

    def rename(self, harm: Harm) -> None:
        """An object gets another name of its kind: another segment, label, range, time or id."""
        name = self._one(harm)
        self._change(harm, self._renamed(name), self._read(name))
        self._remove(harm, name)

    def copy(self, harm: Harm) -> None:
        """The same, and the object stays too."""
        name = self._one(harm)
        self._change(harm, self._renamed(name), self._read(name))

    def foreign(self, harm: Harm) -> None:
        """An object of another repository that has the same writer: in ours' place, or under its own name."""
        root = self._ground.foreign / CLUSTER
        theirs = [name for name in names_in(root) if kind_of(name) == harm.kind]
        name = self._chance.choice(theirs)
        own = self._chance.choice([True, False]) and name not in self.names(harm.kind)
        harm.how = "own name" if own else "our name"
        self._change(harm, name if own else self._one(harm), (root / name).read_bytes())

    def forge(self, harm: Harm) -> None:
        """Of the right shape, signed by a key that the root never signed: in an object's place, or under a new name."""
        name = self._one(harm)
        if harm.kind in ("wal", "piece") and self._chance.random() < 0.5:
            harm.how = "new name"
            name, data = self._forged_wal(name)
        elif harm.kind in SEALED:
            data = self._signed_anew(name)
        else:
            data = self._forged_document(name, harm)
        self._change(harm, name, data)

    def rollback(self, harm: Harm) -> None:
        """A whole store as it was some time ago."""
        for store in harm.stores:
            shutil.rmtree(self._ground.root(store))
            link_tree(self._ground.older / store / CLUSTER, self._ground.root(store))
            for name in names_in(self._ground.root(store)):
                shutil.copystat(self._ground.original(store) / "replicator.json", self._ground.root(store) / name)
        older = set(names_in(self._ground.root(harm.stores[0])))
        harm.gone = {name for names in self._names.values() for name in names} - older
        harm.whole = True

    def _forged_wal(self, name: str) -> tuple[str, bytes]:
        """Sealed properly, to this repository, of bytes that no server wrote."""
        place = parse_name(name)
        assert isinstance(place, WalName | PieceName)
        segment = Segment.parse(place.segment, 2**20)
        start, end = (place.start, place.end) if isinstance(place, PieceName) else (segment.start, segment.end)
        part = WalPart(place.system_id, segment, start, end, 1, 2, isinstance(place, WalName))
        plain, body = self._chance.randbytes(1024) * 1024, bytearray()
        made = seal_part(
            self._stranger, Compression.ZSTD, 1, part, lambda offset, size: plain[offset : offset + size], body.extend
        )
        return made, bytes(body)

    def _signed_anew(self, name: str) -> bytes:
        """The object with another header's digest in its table, signed by the stranger."""
        data, stranger = self._read(name), self._stranger.writer
        assert stranger is not None
        found = parse_tail(data, len(data), name)
        assert not isinstance(found, int)
        table = found[0]
        claimed = self._chance.choice([stranger.id, Header.parse(data, name).writer_id])
        head = replace(Header.parse(data, name), writer_id=claimed).to_bytes() + data[HEADER_SIZE : table.head_size]
        signed = replace(table, header_digest=digest(head)).to_bytes()
        frames = data[table.head_size : table.offsets[-1]]
        signature = stranger.sign(b"replicator table 1\0" + self._stranger.repository_id + signed)
        return head + frames + signed + signature + trailer(len(signed), len(head))

    def _forged_document(self, name: str, harm: Harm) -> bytes:
        document = UnverifiedDocument(self._read(name), name)
        stranger = self._stranger.writer
        assert stranger is not None
        body = dict(document.body)
        harm.how = self._chance.choice(["as another", "as itself"])
        if body.get("created") and self._chance.random() < 0.5:
            body["created"] = "2030-01-01T00:00:00.000000Z"
        data = sign_document(stranger, self._stranger.repository_id, document.kind, name, body)
        line, _, signed = data.partition(b"\nsigned ")
        signer = stranger.id.hex() if harm.how == "as itself" else document.signer
        return line + b"\nsigned " + signer.encode() + signed[signed.index(b" ") :]

    def _renamed(self, name: str) -> str:
        found = other_name(self._chance, name)
        while found in self._names[kind_of(name)]:
            found = other_name(self._chance, name)
        return found

    def _one(self, harm: Harm) -> str:
        return self._chance.choice(self._names[harm.kind])

    def _two(self, harm: Harm) -> tuple[str, str]:
        one, two = self._chance.sample(self._names[harm.kind], 2)
        return one, two

    def _read(self, name: str) -> bytes:
        return (self._ground.original(STORES[0]) / name).read_bytes()

    def _change(self, harm: Harm, name: str, data: bytes) -> None:
        """Other bytes under a name, as old as the object that was there."""
        for store in harm.stores:
            path, like = self._ground.root(store) / name, self._ground.original(store) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            shutil.copystat(like if like.exists() else self._ground.original(store) / "replicator.json", path)
        harm.changed.add(name)

    def _remove(self, harm: Harm, name: str) -> None:
        for store in harm.stores:
            (self._ground.root(store) / name).unlink()
        harm.gone.add(name)


MUTATIONS: Mapping[str, Callable[[Hand, Harm], None]] = {
    "flip": Hand.flip, "truncate": Hand.truncate, "extend": Hand.extend, "delete": Hand.delete, "swap": Hand.swap,
    "replay": Hand.replay, "rename": Hand.rename, "copy": Hand.copy, "foreign": Hand.foreign, "forge": Hand.forge,
    "rollback": Hand.rollback,
}  # fmt: skip
#: Mutations that need two objects of the kind, and those that need a name that can change.
_PAIRS, _NAMED = ("swap", "replay"), ("rename", "copy")


def combinations(hand: Hand, foreign: Path) -> list[tuple[str, str]]:
    """Every (mutation, kind) that can be done here."""
    theirs = {kind_of(name) for name in names_in(foreign / CLUSTER)}
    found = []
    for mutation in MUTATIONS:
        for kind in KINDS:
            held = len(hand.names(kind))
            if mutation == "rollback" or held == 0 or (mutation in _PAIRS and held < 2):
                continue
            if (mutation in _NAMED and kind == "root") or (mutation == "foreign" and kind not in theirs):
                continue
            found.append((mutation, kind))
    return [*found, ("rollback", "store")]
