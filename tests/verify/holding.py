"""A small repository made by hand: two stores, two snapshots that share a pack, two timelines, pieces, notes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.lsn import Lsn, Segment
from replicator.core.progress import silent
from replicator.core.snapshot import Snapshot
from replicator.policy import Policy
from replicator.postgres.binaries import find_binaries
from replicator.repository.blockmap import BlockRun, MapChunk
from replicator.repository.layout import PackId, begin_name, history_name, pack_name
from replicator.repository.manifests import DirectoryEntry, Entry, FileEntry, SnapshotFacts, write_manifest
from replicator.repository.notes import sign_note
from replicator.repository.repository import Repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.digest import COMPARISON_SIZE
from replicator.seal.document import sign_as_writer
from replicator.seal.header import Compression, Header, Kind
from replicator.seal.sealer import ObjectSealer
from replicator.seal.signature import base64url
from replicator.tolerance import Clock, SystemClock
from replicator.verify.coverage import CoverageLevel
from replicator.verify.job import verify
from replicator.verify.model import LevelResult, VerifyJob, VerifyResult
from replicator.verify.objects import ObjectsLevel
from tests.repositories import Wrap, make_repository

SYSTEM = 7
SIZE = 2**20
PAGE = 8192
SWITCH = Lsn(6 * SIZE + 0x4000)
NAMES = ("local", "offsite")
FIRST = Snapshot("20261119T020000Z", SYSTEM, 1, Lsn(2 * SIZE + 0x28), Lsn(3 * SIZE + 0x100))
SECOND = Snapshot("20261120T020000Z", SYSTEM, 1, Lsn(4 * SIZE + 0x28), Lsn(4 * SIZE + 0x900))
PACK_ONE, PACK_TWO = PackId(FIRST.label, 1, 0), PackId(SECOND.label, 2, 0)
END = Lsn(9 * SIZE + 0x3000)
#: The levels that need no server.
READING = (CoverageLevel(), ObjectsLevel())
#: When everything was put, by the stores' clocks.
PUT = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Holding:
    """The repository, and where its objects lie as files."""

    base: Path
    repository: Repository
    names: dict[str, str] = field(default_factory=dict)

    def path(self, store: str, name: str) -> Path:
        """An object's file."""
        return self.base / "stores" / store / "frk" / name

    def files(self, store: str) -> list[str]:
        """Every object's name."""
        root = self.base / "stores" / store / "frk"
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def age(self, moment: datetime = PUT) -> None:
        """Make everything that is younger as if it had been put then."""
        for store in self.repository.stores:
            for name in self.files(store):
                if self.path(store, name).stat().st_mtime > moment.timestamp():
                    os.utime(self.path(store, name), (moment.timestamp(), moment.timestamp()))

    def put(self, name: str, data: bytes) -> str:
        """Into every store."""
        for store in self.repository.stores.values():
            store.put(name, data)
        return name

    def flip(self, store: str, name: str, at: int) -> None:
        """Change one bit of a byte; `at` may be negative."""
        path = self.path(store, name)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        rewrite(path, bytes(data))

    def job(self, tmp_path: Path, **changes: Any) -> VerifyJob:
        """A job over all stores."""
        given: dict[str, Any] = {"chosen": tuple(self.repository.stores), "clock": SystemClock(), **changes}
        repository = given.pop("repository", self.repository)
        state = tmp_path / "state"
        state.mkdir(exist_ok=True)
        return VerifyJob(
            repository=repository, policy=policy(), state_directory=state, access=dict, binaries=find_binaries,
            sql=nobody, replica_sql=lambda _: nobody(), **given,
        )  # fmt: skip

    def verify(self, tmp_path: Path, *levels: str, limit_s: float | None = None, **changes: Any) -> VerifyResult:
        """Run these levels."""
        return verify(self.job(tmp_path, **changes), levels, silent, limit_s=limit_s, levels=READING)

    def level(self, tmp_path: Path, level: str, **changes: Any) -> LevelResult:
        """Run one level."""
        return self.verify(tmp_path, level, **changes).levels[level]


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes under the same name, with the same age: who can write a disk can do that."""
    found = path.stat()
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, (found.st_atime, found.st_mtime))


def nobody() -> Any:
    """A server that is not there."""
    raise AssertionError("no server was to be asked")


def policy() -> Policy:
    """The least one."""
    return Policy.model_validate(
        {
            "cluster": "frk",
            "source": {"conninfo": "host=127.0.0.1"},
            "store": [{"name": name, "url": f"file:///nowhere/{name}"} for name in NAMES],
            "encryption": {"recipients": []},
        },
        context={"path": Path("/nowhere/frk.toml")},
    )


def make_holding(
    base: Path, *, names: tuple[str, ...] = NAMES, wrap: Wrap = lambda store: store, mode: str = "aes-256-gcm"
) -> Holding:
    """Make it; the stores hold the same bytes."""
    holding = Holding(base, make_repository(base, names=names, wrap=wrap, mode=mode))
    chance = random.Random(1)
    for number in range(2, 6):
        holding.names[f"wal{number}"] = _wal(holding, chance, 1, number)
    holding.names["old"] = _wal(holding, chance, 1, 6, int(SWITCH))
    content = f"1\t{SWITCH}\tno recovery target specified\n".encode()
    name = history_name(SYSTEM, 2)
    body = {"timeline": 2, "content": base64url(content)}
    holding.names["history"] = holding.put(name, sign_as_writer(holding.repository.keyring, "history", name, body))
    for number in range(6, 9):
        holding.names[f"new{number}"] = _wal(holding, chance, 2, number)
    holding.names["piece"] = _wal(holding, chance, 2, 9, 9 * SIZE + 0x2000)
    holding.names["tail"] = _wal(holding, chance, 2, 9, int(END))
    holding.names["pack1"] = _pack(holding, chance, PACK_ONE)
    holding.names["snap1"] = _manifest(holding, FIRST, None, [PACK_ONE])
    holding.names["pack2"] = _pack(holding, chance, PACK_TWO)
    holding.names["snap2"] = _manifest(holding, SECOND, FIRST.label, [PACK_ONE, PACK_TWO])
    note, data = sign_note(holding.repository.keyring, SYSTEM, "pin", SECOND.label, {}, PUT)
    holding.names["note"] = holding.put(note, data)
    holding.age()
    return holding


def copy_of(template: Holding, base: Path) -> Holding:
    """The same repository in another place: its own to break."""
    shutil.copytree(template.base, base)
    names = tuple(template.repository.stores)
    return Holding(base, make_repository(base, names=names), dict(template.names))


def _wal(holding: Holding, chance: random.Random, timeline: int, number: int, end: int = 0) -> str:
    segment = Segment(timeline, number, SIZE)
    part = WalPart(SYSTEM, segment, segment.start, Lsn(end) if end else segment.end, 5, 10**15 + number, not end)
    plain = chance.randbytes(4096) * (SIZE // 4096)
    body = bytearray()
    name = seal_part(
        holding.repository.keyring, Compression.ZSTD, 1, part, lambda offset, length: plain[offset : offset + length],
        body.extend,
    )  # fmt: skip
    return holding.put(name, bytes(body))


def _pack(holding: Holding, chance: random.Random, pack: PackId) -> str:
    keyring = holding.repository.keyring
    header = Header(
        Kind.PACK, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"", SYSTEM,
        label=pack.label, attempt=pack.attempt, number=pack.number,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, 1)
    body = sealer.head + b"".join(sealer.frame(chance.randbytes(4 * PAGE)) for _ in range(3))
    name = pack_name(SYSTEM, pack)
    holding.put(name, body + sealer.finish(name))
    begun = begin_name(SYSTEM, pack.label, pack.attempt)
    facts = {"host": "h", "pid": 1, "process_start": "1", "started": "2026-11-19T02:00:00Z", "parent": None}
    holding.names[f"begin{pack.attempt}"] = holding.put(begun, sign_as_writer(keyring, "begin", begun, facts))
    return name


def _manifest(holding: Holding, snapshot: Snapshot, parent: str | None, packs: list[PackId]) -> str:
    chunks = [MapChunk((BlockRun(4, pack, 1, 0),), bytes(4 * COMPARISON_SIZE)).to_bytes() for pack in packs]
    entries: list[Entry] = [DirectoryEntry("base", 0o700)]
    entries += [FileEntry(f"base/{number}", 0o600, 4 * PAGE, 0, PAGE, (chunk,)) for number, chunk in enumerate(chunks)]
    return seal_manifest(holding, snapshot, parent, packs, entries)


def seal_manifest(
    holding: Holding, snapshot: Snapshot, parent: str | None, packs: list[PackId], entries: list[Entry]
) -> str:
    """Seal and put a manifest."""
    facts = SnapshotFacts(snapshot, "frk", parent, 1, 2, 150000, SIZE, checksums=True, comparison_key=bytes(32))
    body = bytearray()
    totals = {"bytes": 1, "added_bytes": 1, "files": 1}
    name = write_manifest(holding.repository.keyring, 1, facts, packs[-1].attempt, entries, packs, totals, body.extend)
    with suppress(FileNotFoundError):
        for store in holding.repository.stores:
            holding.path(store, name).unlink()
    return holding.put(name, bytes(body))


def wrong(result: LevelResult) -> list[tuple[str, str | None, str | None]]:
    """(code, store, object) of everything wrong, in order."""
    return [(found.code, found.store, found.object) for found in result.findings if found.affects is not None]


def codes(result: LevelResult) -> set[str]:
    """Every code, of remarks too."""
    return {found.code for found in result.findings}


def affected(result: LevelResult) -> Mapping[str | None, str | None]:
    """What depends on each object that is wrong."""
    return {found.object: found.affects for found in result.findings if found.affects is not None}


def with_clock(job: VerifyJob, clock: Clock) -> VerifyJob:
    """The same at another time."""
    return replace(job, clock=clock, stop=Event())
