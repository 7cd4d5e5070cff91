"""What very many blocks cost: index and manifest of a take, reading the manifest, and finding one file's blocks.

Each step runs as a process of its own. The blocks themselves are not there: their maps are, as a take writes them, `in
order` (a new database) or `scattered` (the worst: no two neighbours lie beside each other).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.core.lsn import Lsn
from replicator.core.snapshot import Snapshot
from replicator.repository.blockmap import CHUNK_BLOCKS, BlockRun, MapChunk
from replicator.repository.layout import PackId, pack_name
from replicator.repository.manifests import FileEntry, ManifestReader, MapRef, SnapshotFacts, write_manifest
from replicator.repository.objects import open_object
from replicator.repository.repository import Repository
from replicator.seal.digest import COMPARISON_SIZE
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.sealer import ObjectSealer
from replicator.snapshot.index import IndexWriter
from tests.repositories import make_repository

LAYOUTS = ("in order", "scattered")
SYSTEM, LABEL, BLOCK = 7301234567890123456, "20261122T020000Z", 8192
SNAPSHOT = Snapshot(LABEL, SYSTEM, 1, Lsn(2**30 + 40), Lsn(2**30 + 5000))
KEY = b"k" * 32
#: Blocks of a file of 1 GB, and of a frame.
_FILE, _FRAME = 2**30 // BLOCK, FRAME_SIZE // BLOCK
_PACK_FRAMES = 24


def files(blocks: int) -> Iterator[tuple[str, int]]:
    """(path, blocks) of every file."""
    for number, first in enumerate(range(0, blocks, _FILE)):
        yield f"base/5/{16384 + number}", min(_FILE, blocks - first)


def chunk_of(first: int, count: int, layout: str) -> bytes:
    """The map of `count` blocks, of which the first is the `first` of all."""
    packs: dict[int, PackId] = {}

    def run(block: int, count: int) -> BlockRun:
        frame = block // _FRAME
        pack = packs.setdefault(frame // _PACK_FRAMES, PackId(LABEL, 1, frame // _PACK_FRAMES))
        return BlockRun(count, pack, frame % _PACK_FRAMES, block % _FRAME * BLOCK)

    if layout == "in order":
        runs = [run(at, min(_FRAME, first + count - at)) for at in range(first, first + count, _FRAME)]
    else:
        runs = [run((at * 2) % (first + count), 1) for at in range(first, first + count)]
    return MapChunk(tuple(runs), os.urandom(COMPARISON_SIZE * count)).to_bytes()


@dataclass(frozen=True)
class Job:
    """One step's place, how many blocks, and how they lie."""

    repository: Repository
    base: Path
    blocks: int
    layout: str


def take(job: Job) -> dict[str, Any]:
    """Write the index, then the map chunks into packs and the manifest that refers to them."""
    began = time.monotonic()
    with IndexWriter(job.base / "state" / "new.index", KEY) as index:
        done = 0
        for path, count in files(job.blocks):
            places = range(done, done + count, CHUNK_BLOCKS)
            chunks = [chunk_of(at, min(CHUNK_BLOCKS, done + count - at), job.layout) for at in places]
            index.add(FileEntry(path, 0o600, count * BLOCK, 1, BLOCK, _references(done, chunks)), chunks)
            done += count
        index_s = time.monotonic() - began
        packs = _Packs(job.repository)
        for _, count in files(job.blocks):
            for at in range(0, count, CHUNK_BLOCKS):
                packs.add(chunk_of(at, min(CHUNK_BLOCKS, count - at), job.layout))
        packs.finish()
        facts = SnapshotFacts(SNAPSHOT, "frk", None, 1, 2, 150018, 2**24, True, KEY)
        content: list[bytes] = []
        totals = {"bytes": job.blocks * BLOCK, "added_bytes": packs.bytes, "files": sum(1 for _ in files(job.blocks))}
        needed = job.blocks // _FRAME // _PACK_FRAMES + 1
        names = [PackId(LABEL, 1, number) for number in range(needed)]
        name = write_manifest(job.repository.keyring, 3, facts, 1, index.entries(), names, totals, content.append)
        job.repository.store("local").put(name, b"".join(content))
        index.keep(job.base / "state" / "index", name)
    size = (job.base / "state" / "index").stat().st_size
    return {
        "index_bytes": size,
        "map_bytes": packs.bytes,
        "manifest_bytes": sum(map(len, content)),
        "index_s": round(index_s, 2),
    }


def _references(first: int, chunks: list[bytes]) -> tuple[MapRef, ...]:
    """Where the chunks of one file lie: each in a frame of its own."""
    start = first // CHUNK_BLOCKS
    return tuple(MapRef(PackId(LABEL, 2, 0), start + at, 0, len(chunk)) for at, chunk in enumerate(chunks))


class _Packs:
    """The pack of map chunks, one per frame."""

    def __init__(self, repository: Repository) -> None:
        keyring = repository.keyring
        header = Header(
            Kind.PACK, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"", SYSTEM,
            label=LABEL, attempt=2, number=0,
        )  # fmt: skip
        self._name = pack_name(SYSTEM, PackId(LABEL, 2, 0))
        self._sealer = ObjectSealer(keyring, header, 3)
        self._writer = repository.store("local").writer(self._name)
        self._writer.write(self._sealer.head)
        self.bytes = 0

    def add(self, chunk: bytes) -> None:
        sealed = self._sealer.frame(chunk)
        self.bytes += len(sealed)
        self._writer.write(sealed)

    def finish(self) -> None:
        self._writer.write(self._sealer.finish(self._name))
        self._writer.commit()


def read(job: Job) -> dict[str, Any]:
    """Read the manifest from its first entry to its last, as a restore and the next take do."""
    found = sum(1 for _ in ManifestReader(job.repository.store("local"), SNAPSHOT, job.repository.keyring).entries())
    return {"entries": found}


def one_file(job: Job) -> dict[str, Any]:
    """Find the blocks of the last whole file: its entry, and its chunks from the pack."""
    store, most = job.repository.store("local"), min(_FILE, job.blocks)
    wanted = [path for path, count in files(job.blocks) if count == most][-1]
    manifest = ManifestReader(store, SNAPSHOT, job.repository.keyring)
    entry = next(entry for entry in manifest.entries() if isinstance(entry, FileEntry) and entry.path == wanted)
    pack = open_object(store, pack_name(SYSTEM, PackId(LABEL, 2, 0)), job.repository.keyring)
    references = [chunk for chunk in entry.chunks if isinstance(chunk, MapRef)]
    runs = sum(len(MapChunk.parse(pack.frame(chunk.frame)).runs) for chunk in references)
    return {"chunks": len(references), "runs": runs}


STEPS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "take: index and manifest": take,
    "manifest read": read,
    "blocks of one file of 1 GB": one_file,
}


def measure(base: Path, blocks: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row per layout and step."""
    rows = []
    for number, layout in enumerate(LAYOUTS):
        home = base / f"blocks{number}"
        home.mkdir()
        for step in STEPS:
            done = subprocess.run(
                [sys.executable, __file__, step, str(home), str(blocks), layout], stdout=subprocess.PIPE, check=True,
                timeout=1800,
            )  # fmt: skip
            rows.append({"work": step, "layout": layout, "blocks": blocks, **json.loads(done.stdout)})
            say(f"{step}, {layout}: {rows[-1]}")
    return rows


def main() -> None:
    """One step, as a process: what it took, as JSON."""
    step, home, blocks, layout = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    repository = make_repository(home)
    began, cpu = time.monotonic(), time.process_time()
    found = STEPS[step](Job(repository, home, blocks, layout))
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6
    print(json.dumps({**found, "seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "rss_mb": round(rss, 1)}))


if __name__ == "__main__":
    main()
