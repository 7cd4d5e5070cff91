"""The repository on a real directory store: init, opening, WAL, manifests, catalog."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replicator.core.coverage import LsnRange
from replicator.core.lsn import Lsn, Segment
from replicator.core.snapshot import Snapshot
from replicator.errors import (
    Conflict,
    IntegrityError,
    KeysError,
    NotFound,
    ReplicatorError,
    UntrustedRepository,
    UsageError,
    WrongSecret,
)
from replicator.repository import layout
from replicator.repository.blockmap import BlockRun, MapChunk, join_runs
from replicator.repository.catalog import longest_chain, read_catalog, read_history_file, system_ids
from replicator.repository.layout import PackId, PieceName, parse_name
from replicator.repository.manifests import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    ManifestReader,
    MapRef,
    SnapshotFacts,
    read_summary,
    write_manifest,
)
from replicator.repository.notes import conflict_note, gap_note, read_note
from replicator.repository.objects import check_object, open_object, read_table
from replicator.repository.repository import (
    CachedDocuments,
    Repository,
    Secrets,
    StoreDocuments,
    check_store,
    open_repository,
    read_root,
)
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.document import MOST_BYTES, open_document, sign_as_writer
from replicator.seal.header import Compression
from replicator.seal.signature import base64url, key_text, new_x25519, x25519_public
from replicator.store.directory import DirectoryStore
from replicator.upkeep.init import InitJob, InitResult, initialise
from replicator.upkeep.secrets import load_writer_key
from replicator.upkeep.sheet import SheetStore, parse_sheet, write_sheet

SYSTEM = 7301234567890123456
SIZE = 2**20
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
PASSPHRASE = Secrets(passphrases=(b"sandi",))


class Place:
    """A host and its stores in a temporary directory."""

    def __init__(self, base: Path, names: tuple[str, ...] = ("local", "second")) -> None:
        self.base = base
        self.stores = {name: self.store(name) for name in names}
        self.sheets: list[str] = []

    def store(self, name: str) -> DirectoryStore:
        """A store of its own folder."""
        (self.base / name).mkdir(exist_ok=True)
        return DirectoryStore(name, self.base / name)

    def job(self, **changes: object) -> InitJob:
        """What `init` would be given."""
        job = InitJob(
            cluster="frk", stores=self.stores, sheet_stores=(SheetStore("local", "file:///x"),), mode="aes-256-gcm",
            recipients=(), secrets=PASSPHRASE, writer_key=self.base / "writer.key", host="here", now=NOW,
            pending=self.base / "pending", pinned_root=None, prepare=lambda: None, deliver=self.sheets.append,
        )  # fmt: skip
        return replace(job, **changes)  # type: ignore[arg-type]

    def init(self, **changes: object) -> InitResult:
        """Run `init`."""
        return initialise(self.job(**changes))

    def open(self, secrets: Secrets = PASSPHRASE, **options: object) -> Repository:
        """Open the repository as this host."""
        writer = load_writer_key(self.base / "writer.key")
        return open_repository("frk", self.stores, replace(secrets, writer=writer), **options)  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A host with two stores."""
    return Place(tmp_path)


def put_wal(
    repository: Repository, data: bytes, segment: Segment, start: int, end: int, *, complete: bool = False
) -> str:
    """Seal [start, end) of `segment` (whose plain bytes are `data`) into every store."""
    part = WalPart(SYSTEM, segment, Lsn(start), Lsn(end), 5, 6, complete)
    sealed: list[bytes] = []
    name = seal_part(
        repository.keyring,
        Compression.ZSTD,
        3,
        part,
        lambda offset, length: data[offset : offset + length],
        sealed.append,
    )
    for store in repository.stores.values():
        store.put(name, b"".join(sealed))
    return name


def test_init_makes_and_repeats(place: Place) -> None:
    """The first init makes the repository and hands out the sheet once; the next changes nothing."""
    made = place.init()
    assert made.created
    assert made.stores == {"local": "created", "second": "created"}
    again = place.init()
    assert not again.created
    assert again.stores == {"local": "unchanged", "second": "unchanged"}
    assert again.root == made.root
    assert len(place.sheets) == 1
    assert (place.base / "writer.key").stat().st_mode & 0o777 == 0o600


def test_sheet_alone_opens(place: Place) -> None:
    """The sheet's secret opens the repository, without passphrase and identity."""
    place.init()
    sheet = parse_sheet(place.sheets[0], "sheet")
    opened = place.open(sheet.secrets(), pinned_root=sheet.root)
    assert opened.keyring.can_open
    assert sheet.secret not in repr(sheet)
    mistyped = place.sheets[0].replace("x25519-secret:", "x25519-secret:A", 1)
    with pytest.raises(KeysError, match="sheet"):
        parse_sheet(mistyped, "sheet")
    with pytest.raises(UsageError):
        parse_sheet("nonsense", "sheet")


def test_sheet_is_never_overwritten(tmp_path: Path) -> None:
    """A sheet goes into a new file, readable by its owner only."""
    write_sheet(tmp_path / "sheet", "x")
    assert (tmp_path / "sheet").stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError):
        write_sheet(tmp_path / "sheet", "y")


def test_mode_none_puts_the_root_on_the_sheet(place: Place) -> None:
    """Without encryption and recipients the root's private half stands on the sheet alone."""
    place.init(mode="none", secrets=Secrets())
    sheet = parse_sheet(place.sheets[0], "sheet")
    assert sheet.secret.startswith("ed25519-secret:")
    assert place.open(sheet.secrets()).keyring.root_key is not None
    assert place.open(Secrets()).keyring.can_open


def test_a_store_newly_added_gets_id_and_keys(place: Place, tmp_path: Path) -> None:
    """Init completes a store that is empty, and one that lost a document."""
    first = Place(tmp_path, ("local",))
    made = first.init()
    state = place.init()
    assert state.stores == {"local": "unchanged", "second": "created"}
    (tmp_path / "second" / "writers" / made.writer).unlink()
    assert place.init().stores == {"local": "unchanged", "second": "completed"}
    assert check_store(place.open(), "second")


@pytest.mark.parametrize("after", range(8))
def test_init_interrupted_at_every_put(place: Place, after: int) -> None:
    """After an interruption anywhere the next init ends with one repository that the sheets handed out open."""

    class Stops(DirectoryStore):
        left = after

        def put(self, name: str, body: bytes | Path) -> None:
            if Stops.left == 0:
                raise KeyboardInterrupt
            Stops.left -= 1
            super().put(name, body)

    stopping = {name: Stops(name, place.base / name) for name in place.stores}
    with pytest.raises(KeyboardInterrupt):
        place.init(stores=stopping)
    place.init()
    sheet = parse_sheet(place.sheets[-1], "sheet")
    assert place.open(sheet.secrets(), pinned_root=sheet.root).keyring.can_write
    assert all(check_store(place.open(), name) for name in place.stores)


def test_second_host_needs_a_secret_once(place: Place) -> None:
    """A new writer is signed by the root: with the passphrase it works, without anything it is refused."""
    place.init()
    other = place.base / "other.key"
    with pytest.raises(KeysError, match="not yet a writer"):
        place.init(writer_key=other, secrets=Secrets())
    place.init(writer_key=other)
    repository = open_repository("frk", place.stores, Secrets(writer=load_writer_key(other)))
    assert repository.keyring.can_write
    assert not repository.keyring.can_open


def test_recipients_of_the_policy_open(place: Place) -> None:
    """An X25519 recipient's identity opens; another does not, and says so."""
    identity = new_x25519()
    place.init(recipients=(key_text("x25519", x25519_public(identity)),), secrets=Secrets())
    assert place.open(Secrets(identities=(identity,))).keyring.can_open
    with pytest.raises(WrongSecret):
        place.open(Secrets(identities=(new_x25519(),)))
    with pytest.raises(WrongSecret):
        place.open(PASSPHRASE)


def test_conflicts_of_init(place: Place, tmp_path: Path) -> None:
    """Another repository, another cluster, another mode, another root: refused, nothing written."""
    place.init()
    with pytest.raises(Conflict, match="mode"):
        place.init(mode="none")
    with pytest.raises(Conflict, match="cluster"):
        place.init(cluster="fed")
    with pytest.raises(Conflict, match="pinned"):
        place.init(pinned_root="ed25519:" + "A" * 43)
    elsewhere = Place(tmp_path / "local", ("third",))
    elsewhere.init()
    with pytest.raises(Conflict, match="different"):
        place.init(stores={**place.stores, **elsewhere.stores})
    with pytest.raises(Conflict, match="no store holds"):
        Place(tmp_path, ("empty",)).init(pinned_root="ed25519:" + "A" * 43)


def test_opening(place: Place) -> None:
    """Absent is 3, a wrong root is 7, and a cache serves while no store answers."""
    with pytest.raises(NotFound):
        place.open()
    made = place.init()
    cache = CachedDocuments(place.base / "cache")
    assert place.open(cache=cache, pinned_root=made.root).keyring.can_write
    with pytest.raises(UntrustedRepository):
        place.open(pinned_root="ed25519:" + "A" * 43)
    gone = {"local": DirectoryStore("local", place.base / "nowhere")}
    writer = load_writer_key(place.base / "writer.key")
    with pytest.raises(ReplicatorError):
        open_repository("frk", gone, Secrets(writer=writer))
    assert open_repository("frk", gone, Secrets(writer=writer), cache=cache).keyring.can_write
    with pytest.raises(NotFound) as caught:
        place.open().store("third")
    assert "local, second" in caught.value.hint


def test_catalog(place: Place) -> None:
    """Names alone give coverage, conflicts, snapshots, gaps."""
    place.init()
    repository = place.open()
    store = repository.store("local")
    data = os.urandom(SIZE)
    first = Segment(1, 16, SIZE)
    whole = put_wal(repository, data, first, first.start, first.end, complete=True)
    put_wal(repository, data, first.next(), first.end, first.end + 100)
    put_wal(repository, data, first.next(), first.end + 50, first.end + 300)
    put_wal(repository, os.urandom(SIZE), first, first.start, first.end, complete=True)
    history = layout.history_name(SYSTEM, 2)
    content = b"1\t0/1100000\tno recovery target specified\n"
    document = sign_as_writer(repository.keyring, "history", history, {"timeline": 2, "content": base64url(content)})
    store.put(history, document)
    name, note = gap_note(
        repository.keyring, SYSTEM, LsnRange(1, Lsn(first.end + 400), Lsn(first.end + 500)), "lost", NOW
    )
    store.put(name, note)
    catalog = read_catalog(store, SYSTEM, repository.keyring)
    assert catalog.segment_size == SIZE
    assert list(catalog.coverage.triples()) == [(1, first.start, first.end + 300)]
    assert catalog.conflicts == (first.name,)
    assert catalog.histories[2].switchpoint(1) == Lsn.parse("0/1100000")
    assert read_history_file(store, SYSTEM, 2, repository.keyring) == content
    assert [(gap.start, gap.open) for gap in catalog.gaps] == [(first.end + 400, True)]
    assert read_note(store, catalog.notes[0], repository.keyring)["reason"] == "lost"
    assert system_ids(store) == (SYSTEM,)
    assert open_object(store, whole, repository.keyring).read() == data
    assert check_object(store, whole, place.open(Secrets()).keyring).end == first.end
    chain = longest_chain(catalog.pieces[first.next().name], first.end)
    assert [int(piece.end) for piece in chain] == [first.end + 100, first.end + 300]


def test_longest_chain_skips_what_does_not_help() -> None:
    """Of overlapping pieces the one that reaches furthest; a hole ends the chain."""

    def piece(start: int, end: int) -> PieceName:
        return PieceName(1, 1, "x", Lsn(start), Lsn(end), f"{start}")

    found = longest_chain((piece(0, 10), piece(0, 30), piece(10, 20), piece(30, 40), piece(41, 50)), Lsn(0))
    assert [(int(p.start), int(p.end)) for p in found] == [(0, 30), (30, 40)]
    assert longest_chain((piece(5, 10),), Lsn(0)) == ()


def kind_of(name: str) -> str:
    """The kind of a document by its name."""
    return "writer" if name.startswith(layout.WRITERS) else "key" if name.endswith("/public") else "recipient"


def read_any(repository: Repository, name: str) -> None:
    """Read an object as whoever needs it does."""
    store = repository.store("local")
    if parse_name(name) is not None:
        open_object(store, name, repository.keyring).read()
    elif name == layout.ROOT:
        read_root(StoreDocuments(store))
    else:
        open_document(repository.keyring, kind_of(name), name, store.get(name))


def flip(path: Path, at: int) -> Callable[[], int]:
    """Flip one bit of a file; returns how to undo it."""
    before = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(before[:at] + bytes([before[at] ^ 4]) + before[at + 1 :])
    return lambda: path.write_bytes(before)


def test_a_flip_in_each_kind_of_object_is_named(place: Place) -> None:
    """Documents, WAL, pieces, manifests: any flipped byte is an IntegrityError that names the object."""
    place.init()
    repository = place.open()
    store = repository.store("local")
    segment = Segment(1, 16, SIZE)
    put_wal(repository, bytes(SIZE), segment, segment.start, segment.end, complete=True)
    put_wal(repository, bytes(SIZE), segment.next(), segment.end, segment.end + 100)
    put_manifest(repository)
    for info in list(store.list("")):
        path = place.base / "local" / info.name
        for at in range(0, info.size, max(1, info.size // 40)):
            undo = flip(path, at)
            with pytest.raises(IntegrityError) as caught:
                read_any(repository, info.name)
            assert info.name in str(caught.value)
            undo()


def put_manifest(repository: Repository) -> SnapshotFacts:
    """A small manifest in every store."""
    snapshot = Snapshot("20260101T000000Z", SYSTEM, 1, Lsn(SIZE * 16), Lsn(SIZE * 16 + 900))
    facts = SnapshotFacts(snapshot, "frk", None, 1, 2, 150018, SIZE, True, b"c" * 32, settings={"a": "b"}, findings=())
    sealed: list[bytes] = []
    pack = PackId(snapshot.label, 1, 0)
    entries: list[Entry] = [
        DirectoryEntry("base", 0o700),
        LinkEntry("pg_tblspc/1", 0o777, "/t"),
        *[FileEntry(f"base/\udcff{n}", 0o600, 9, 3, 8192, (b"chunk", MapRef(pack, 1, 2, 3))) for n in range(20_000)],
    ]
    totals = {"bytes": 5, "added_bytes": 4, "files": 20_000}
    name = write_manifest(repository.keyring, 3, facts, 1, entries, [pack], totals, sealed.append)
    for store in repository.stores.values():
        store.put(name, b"".join(sealed))
    return facts


def test_manifest_reads_back(place: Place) -> None:
    """Facts and entries over several frames; the summary needs no private key."""
    place.init()
    repository = place.open()
    facts = put_manifest(repository)
    store = repository.store("second")
    reader = ManifestReader(store, facts.snapshot, repository.keyring)
    entries = list(reader.entries())
    assert reader.facts == facts
    assert len(entries) == 20_002
    assert entries[5] == FileEntry(
        "base/\udcff3", 0o600, 9, 3, 8192, (b"chunk", MapRef(PackId("20260101T000000Z", 1, 0), 1, 2, 3))
    )
    blind = place.open(Secrets()).keyring
    summary = read_summary(store, facts.snapshot, blind)
    assert (summary.bytes, summary.added_bytes, summary.files, summary.parent) == (5, 4, 20_000, None)
    assert summary.packs == (PackId("20260101T000000Z", 1, 0),)
    assert read_table(store, layout.manifest_name(facts.snapshot), blind).end == facts.snapshot.stop


def test_renamed_and_foreign_objects_are_refused(place: Place, tmp_path: Path) -> None:
    """An object under another name, or from another repository of the same cluster, never opens."""
    place.init()
    repository = place.open()
    segment = Segment(1, 16, SIZE)
    name = put_wal(repository, bytes(SIZE), segment, segment.start, segment.end, complete=True)
    store = repository.store("local")
    other = layout.wal_name(SYSTEM, segment.next(), name[-16:])
    store.put(other, store.get(name))
    with pytest.raises(IntegrityError, match="holds the object"):
        open_object(store, other, repository.keyring)
    (tmp_path / "x").mkdir()
    stranger = Place(tmp_path / "x")
    stranger.init()
    foreign = stranger.open()
    foreign.store("local").put(name, store.get(name))
    with pytest.raises(IntegrityError):
        open_object(foreign.store("local"), name, foreign.keyring)


def test_conflict_note(place: Place) -> None:
    """A conflict's note names the objects."""
    place.init()
    repository = place.open()
    name, data = conflict_note(repository.keyring, SYSTEM, "0" * 24, ["b", "a"], NOW)
    repository.store("local").put(name, data)
    note = parse_name(name)
    assert isinstance(note, layout.NoteName)
    assert read_note(repository.store("local"), note, repository.keyring)["names"] == ["a", "b"]


def test_no_document_is_read_beyond_its_most(place: Place) -> None:
    """What somebody put under the name of a note or a history is never read whole when it is too long for one."""
    place.init()
    repository = place.open()
    store, keyring = repository.store("local"), repository.keyring
    note = layout.NoteName(SYSTEM, "20261122T000000000000Z", "retired", "gone", "0" * 16)
    huge = b"x" * (MOST_BYTES + 1)
    store.put(layout.note_name(SYSTEM, note.time, note.kind, note.subject, note.fingerprint), huge)
    store.put(layout.history_name(SYSTEM, 9), huge)
    with pytest.raises(IntegrityError, match="too long"):
        read_note(store, note, keyring)
    with pytest.raises(IntegrityError, match="too long"):
        read_history_file(store, SYSTEM, 9, keyring)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "replicator.json",
        f"{SYSTEM}/wal/00000001/00000000/000000020000000000000001-" + "a" * 16,
        "0/history/00000001.history",
        f"{SYSTEM}/pieces/00000001/000000010000000000000001/{'0' * 15}2-{'0' * 15}1-{'a' * 16}",
        f"{SYSTEM}/packs/../x",
        "a/b/c/d",
    ],
)
def test_names_that_do_not_parse(name: str) -> None:
    """A name that contradicts itself is nobody's."""
    assert parse_name(name) is None


def test_map_chunks_read_back() -> None:
    """Runs, zeros and hashes; damage is named."""
    pack, other = PackId("20260101T000000Z", 1, 0), PackId("20260101T000000Z", 1, 1)
    places = [(pack, 0, 0), (pack, 0, 8192), (None, 0, 0), (None, 0, 0), (other, 3, 0), (pack, 0, 16384)]
    runs = join_runs(places, 8192)
    assert [run.blocks for run in runs] == [2, 2, 1, 1]
    assert runs[1] == BlockRun(2, None)
    chunk = MapChunk(runs, os.urandom(12 * 6))
    data = chunk.to_bytes()
    assert MapChunk.parse(data) == chunk
    assert chunk.hash_of(5) == data[-12:]
    assert chunk.packs == {pack, other}
    for wrong in (data[:-1], data[:10], b"", data + b"x"):
        with pytest.raises(IntegrityError):
            MapChunk.parse(wrong)


@pytest.mark.parametrize("stated", [0, 16, 32])
def test_map_chunks_of_longer_hashes_read_back(stated: int) -> None:
    """What stated no size had hashes of 16 bytes; of those, and of longer ones, the first 12 count."""
    chunk = MapChunk((BlockRun(3, PackId("20260101T000000Z", 1, 0), 2, 8192), BlockRun(1, None)), os.urandom(12 * 4))
    long = b"".join(chunk.hash_of(block) + os.urandom((stated or 16) - 12) for block in range(4))
    head = chunk.to_bytes()[: -12 * 4]
    data = head[:12] + stated.to_bytes(4, "big") + head[16:] + long
    assert MapChunk.parse(data) == chunk
    assert MapChunk.parse(data).to_bytes() == chunk.to_bytes()
    with pytest.raises(IntegrityError):
        MapChunk.parse(data[:-1])


@pytest.mark.parametrize("stated", [1, 11, 33, 2**32 - 1])
def test_map_chunks_of_other_hashes_are_damage(stated: int) -> None:
    """Too short to compare, or longer than BLAKE3 is taken."""
    runs = (BlockRun(1, None),)
    data = MapChunk(runs, bytes(12)).to_bytes()
    with pytest.raises(IntegrityError):
        MapChunk.parse(data[:12] + stated.to_bytes(4, "big") + data[16:-12] + bytes(min(stated, 2**16)))
