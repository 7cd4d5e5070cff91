"""Manifests: a snapshot's facts and entries, written and read as a stream (docs/format.md, section 7.1)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from replicator.core.snapshot import Snapshot
from replicator.errors import IntegrityError
from replicator.repository.layout import PackId, manifest_name
from replicator.repository.objects import StoredObject, open_object, read_table
from replicator.seal.document import canonical
from replicator.seal.header import FRAME_SIZE, Compression, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectSealer
from replicator.seal.table import Table
from replicator.store.protocol import ReadableStore


class MapRef(NamedTuple):
    """A map chunk that lies in a pack: `length` plain bytes from `offset` on in one frame."""

    pack: PackId
    frame: int
    offset: int
    length: int


class FileEntry(NamedTuple):
    """A regular file. `chunks`: each the map chunk's bytes, or where they lie. `mtime` in seconds."""

    path: str
    mode: int
    size: int
    mtime: int
    block_size: int
    chunks: tuple[bytes | MapRef, ...]


class DirectoryEntry(NamedTuple):
    """A directory."""

    path: str
    mode: int


class LinkEntry(NamedTuple):
    """A symbolic link."""

    path: str
    mode: int
    target: str


Entry = FileEntry | DirectoryEntry | LinkEntry


@dataclass(frozen=True)
class SnapshotFacts:
    """The manifest's first line; member names as in docs/format.md. Times in microseconds, LSNs as positions."""

    snapshot: Snapshot
    cluster: str
    parent: str | None
    start_us: int
    stop_us: int
    server_version: int
    wal_segment_size: int
    checksums: bool
    comparison_key: bytes = field(repr=False)
    block_page: int = 8192
    settings: Mapping[str, str] = field(default_factory=dict)
    tablespaces: tuple[dict[str, Any], ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What the signed table tells without a private key."""

    snapshot: Snapshot
    parent: str | None
    start_us: int
    stop_us: int
    bytes: int
    added_bytes: int
    files: int
    damaged: bool
    packs: tuple[PackId, ...]


def write_manifest(
    keyring: Keyring, level: int, facts: SnapshotFacts, attempt: int, entries: Iterable[Entry | bytes],
    packs: Iterable[PackId], totals: Mapping[str, int], write: Callable[[bytes], object],
) -> str:  # fmt: skip
    """Seal a manifest through `write` and return its name. `totals` has `bytes`, `added_bytes`, `files`. An entry may
    be its `entry_line`.
    """
    snapshot = facts.snapshot
    header = Header(
        Kind.MANIFEST, keyring.cipher, Compression.ZSTD, keyring.repository_id, keyring.current, b"",
        snapshot.system_id, snapshot.timeline, facts.wal_segment_size, snapshot.start, snapshot.label, attempt,
    )  # fmt: skip
    sealer = ObjectSealer(keyring, header, level)
    write(sealer.head)
    waiting = bytearray(_facts_line(facts))
    for entry in entries:
        waiting += entry if isinstance(entry, bytes) else entry_line(entry)
        while len(waiting) >= FRAME_SIZE:
            write(sealer.frame(bytes(waiting[:FRAME_SIZE])))
            del waiting[:FRAME_SIZE]
    if waiting:
        write(sealer.frame(bytes(waiting)))
    name = manifest_name(snapshot)
    extra = canonical(
        {
            "added_bytes": totals["added_bytes"],
            "attempt": f"{attempt:08x}",
            "bytes": totals["bytes"],
            "damaged": bool(facts.findings),
            "files": totals["files"],
            "packs": [[pack.label, f"{pack.attempt:08x}", pack.number] for pack in sorted(packs)],
            "parent": facts.parent,
        }
    )
    write(sealer.finish(name, start=snapshot.start, end=snapshot.stop, first_us=facts.start_us, last_us=facts.stop_us,
                        extra=extra))  # fmt: skip
    return name


def summary_of(table: Table, snapshot: Snapshot) -> ManifestSummary:
    """Read a manifest's signed extra. Raises IntegrityError."""
    try:
        value = json.loads(table.extra)
        packs = tuple(PackId(label, int(attempt, 16), number) for label, attempt, number in value["packs"])
        return ManifestSummary(
            snapshot, value["parent"], table.first_us, table.last_us, value["bytes"], value["added_bytes"],
            value["files"], value["damaged"], packs,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{table.name}: its extra makes no sense", object=table.name) from error


def read_summary(store: ReadableStore, snapshot: Snapshot, keyring: Keyring) -> ManifestSummary:
    """A snapshot's summary by one suffix range. Raises ObjectAbsent, IntegrityError."""
    return summary_of(read_table(store, manifest_name(snapshot), keyring), snapshot)


class ManifestReader:
    """A manifest opened for reading: `facts`, `summary`, and `entries` as a stream."""

    def __init__(self, store: ReadableStore, snapshot: Snapshot, keyring: Keyring) -> None:
        """Raise ObjectAbsent, IntegrityError, CannotOpen."""
        self._object: StoredObject = open_object(store, manifest_name(snapshot), keyring)
        self.snapshot = snapshot
        self.attempt = self._object.header.attempt
        self.summary = summary_of(self._object.table, snapshot)
        self.facts = self._facts(next(self._lines(), b""))

    def entries(self) -> Iterator[Entry]:
        """Every entry in order. Raises IntegrityError."""
        lines = self._lines()
        next(lines)
        for line in lines:
            yield parse_entry(line)

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for frame in self._object.frames():
            lines = (rest + frame).split(b"\n")
            rest = lines.pop()
            yield from lines
        if rest:
            raise IntegrityError(f"{self._object.table.name}: ends within a line")

    def _facts(self, line: bytes) -> SnapshotFacts:
        try:
            value = json.loads(line)
            return SnapshotFacts(
                snapshot=self.snapshot,
                cluster=value["cluster"],
                parent=value["parent"],
                start_us=self._object.table.first_us,
                stop_us=self._object.table.last_us,
                server_version=value["server_version"],
                wal_segment_size=value["wal_segment_size"],
                checksums=value["checksums"],
                comparison_key=bytes.fromhex(value["comparison_key"]),
                block_page=value["block_page"],
                settings=value["settings"],
                tablespaces=tuple(value["tablespaces"]),
                findings=tuple(value["findings"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{self._object.table.name}: its facts make no sense") from error


def parse_entry(line: bytes) -> Entry:
    """The reverse of `entry_line`. Raises IntegrityError."""
    try:
        value = json.loads(line)
        if "f" in value:
            chunks = tuple(_chunk_of(chunk) for chunk in value["c"])
            return FileEntry(value["f"], value["m"], value["s"], value["u"], value["b"], chunks)
        if "d" in value:
            return DirectoryEntry(value["d"], value["m"])
        return LinkEntry(value["l"], value["m"], value["t"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("a manifest entry that makes no sense") from error


def _facts_line(facts: SnapshotFacts) -> bytes:
    snapshot = facts.snapshot
    value = {
        "block_page": facts.block_page,
        "checksums": facts.checksums,
        "cluster": facts.cluster,
        "comparison_key": facts.comparison_key.hex(),
        "findings": list(facts.findings),
        "label": snapshot.label,
        "parent": facts.parent,
        "server_version": facts.server_version,
        "settings": dict(facts.settings),
        "start_lsn": str(snapshot.start),
        "start_time": facts.start_us,
        "stop_lsn": str(snapshot.stop),
        "stop_time": facts.stop_us,
        "system_id": str(snapshot.system_id),
        "tablespaces": list(facts.tablespaces),
        "timeline": snapshot.timeline,
        "wal_segment_size": facts.wal_segment_size,
    }
    return canonical(value) + b"\n"


def entry_line(entry: Entry) -> bytes:
    """An entry as its JSON line, with the newline: also what a take keeps on disk until the manifest is written."""
    return canonical(_entry_json(entry)) + b"\n"


def _entry_json(entry: Entry) -> dict[str, Any]:
    match entry:
        case FileEntry(path, mode, size, mtime, block_size, chunks):
            return {"f": path, "m": mode, "s": size, "u": mtime, "b": block_size, "c": [_chunk_json(c) for c in chunks]}
        case DirectoryEntry(path, mode):
            return {"d": path, "m": mode}
        case LinkEntry(path, mode, target):
            return {"l": path, "m": mode, "t": target}


def _chunk_json(chunk: bytes | MapRef) -> Any:
    if isinstance(chunk, bytes):
        return base64.b64encode(chunk).decode("ascii")
    pack = chunk.pack
    return [pack.label, f"{pack.attempt:08x}", pack.number, chunk.frame, chunk.offset, chunk.length]


def _chunk_of(value: Any) -> bytes | MapRef:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    label, attempt, number, frame, offset, length = value
    return MapRef(PackId(label, int(attempt, 16), number), frame, offset, length)


__all__ = [
    "DirectoryEntry", "Entry", "FileEntry", "LinkEntry", "ManifestReader", "ManifestSummary", "MapRef",
    "SnapshotFacts", "entry_line", "parse_entry", "read_summary", "summary_of", "write_manifest",
]  # fmt: skip
