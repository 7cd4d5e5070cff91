"""Recipients, rotation and removal on real directory stores: at every moment each store can be restored from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from replicator.core.lsn import Segment
from replicator.errors import Conflict, KeysError, NotFound, StoreUnavailable, UsageError, WrongSecret
from replicator.repository.keys import Secrets
from replicator.repository.objects import open_object
from replicator.repository.repository import CachedDocuments, Repository, open_repository
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.digest import short_id
from replicator.seal.header import Compression
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from replicator.store import Prefixed, Store
from replicator.store.directory import DirectoryStore
from replicator.upkeep.init import InitJob, initialise
from replicator.upkeep.keys import KeysJob, KeysResult, add_passphrase, add_recipient, rotate
from replicator.upkeep.keys_list import Given, list_keys, try_secrets
from replicator.upkeep.keys_remove import Wish, remove
from replicator.upkeep.secrets import load_writer_key
from replicator.upkeep.sheet import parse_sheet
from tests.format import stranger
from tests.repositories import resilient

NOW = datetime(2026, 11, 22, 3, 4, 5, tzinfo=UTC)
SYSTEM = 7301234567890123456
SIZE = 2**20


class Halts(DirectoryStore):
    """A store that ends the process after so many changes; `left` below 0 never does."""

    left = -1

    def _count(self) -> None:
        if Halts.left == 0:
            raise KeyboardInterrupt
        Halts.left -= 1

    def put(self, name: str, body: bytes | Path) -> None:
        """As a store."""
        self._count()
        super().put(name, body)

    def delete(self, name: str) -> None:
        """As a store."""
        self._count()
        super().delete(name)


@dataclass
class Keyed:
    """A repository in two stores, its identity's holder, its sheet, and WAL sealed now and then."""

    base: Path
    identity: bytes = field(default_factory=new_x25519)
    mode: str = "aes-256-gcm"
    passphrase: bytes | None = None

    def __post_init__(self) -> None:
        """Make it."""
        Halts.left = -1
        self.sheet = ""
        self.segment = Segment(1, 16, SIZE)
        self.sealed: list[tuple[str, bytes]] = []
        self.base.mkdir(exist_ok=True)
        self.init()

    @property
    def secrets(self) -> Secrets:
        """What the identity's holder has."""
        return Secrets(identities=(self.identity,), passphrases=(self.passphrase,) if self.passphrase else ())

    def stores(self, *names: str) -> dict[str, Store]:
        """Stores, rooted at the repository."""
        return {
            name: Prefixed(resilient(Halts(name, self.base / name)), "frk/") for name in names or ("local", "offsite")
        }

    def init(self, *names: str) -> None:
        """Run `init`."""
        for name in names or ("local", "offsite"):
            (self.base / name).mkdir(exist_ok=True)

        def deliver(text: str) -> None:
            self.sheet = text

        job = InitJob(
            cluster="frk", stores=self.stores(*names), sheet_stores=(), mode=self.mode,
            recipients=(key_text(SEALING, x25519_public(self.identity)),), secrets=self.secrets,
            writer_key=self.base / "writer.key", host="test", now=NOW, pending=self.base / "pending",
            pinned_root=None, prepare=lambda: None, deliver=deliver,
        )  # fmt: skip
        initialise(job)

    def open(
        self, secrets: Secrets | None = None, *names: str, cache: CachedDocuments | None = None,
        known: CachedDocuments | None = None,
    ) -> Repository:  # fmt: skip
        """Open it as this host."""
        held = replace(secrets or self.secrets, writer=load_writer_key(self.base / "writer.key"))
        return open_repository("frk", self.stores(*names), held, cache=cache, known=known)

    def job(self, secrets: Secrets | None = None, *, after_s: int = 60) -> KeysJob:
        """What a change works on."""
        held = secrets or self.secrets
        return KeysJob(self.open(Secrets()), held, NOW + timedelta(seconds=after_s))

    def seal(self) -> None:
        """Put a segment, sealed as a writer of this moment does, into both stores."""
        repository = self.open(Secrets())
        data = bytes([len(self.sealed) + 1]) * SIZE
        part = WalPart(SYSTEM, self.segment, self.segment.start, self.segment.end, 5, 6, complete=True)
        content: list[bytes] = []
        name = seal_part(
            repository.keyring, Compression.ZSTD, 3, part,
            lambda offset, length: data[offset : offset + length], content.append,
        )  # fmt: skip
        for store in repository.stores.values():
            store.put(name, b"".join(content))
        self.sealed.append((name, data))
        self.segment = self.segment.next()

    def opens(self, secrets: Secrets) -> bool:
        """Whether everything sealed opens with `secrets`, from each store alone."""
        for store in ("local", "offsite"):
            try:
                repository = self.open(secrets, store)
            except WrongSecret:
                return False
            for name, data in self.sealed:
                assert open_object(repository.store(store), name, repository.keyring).read() == data
        return True

    @property
    def sheet_secrets(self) -> Secrets:
        """What the sheet opens with."""
        return parse_sheet(self.sheet, "sheet").secrets()


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    """A repository with an identity and a sheet, and some WAL."""
    made = Keyed(tmp_path)
    made.seal()
    return made


def test_added_recipient_opens_old_and_new(keyed: Keyed) -> None:
    """A recipient added later opens what was sealed before, in every store; adding it again changes nothing."""
    new = new_x25519()
    done = add_recipient(keyed.job(), x25519_public(new), "kantor")
    assert done.stores == {"local": "added", "offsite": "added"}
    keyed.seal()
    assert keyed.opens(Secrets(identities=(new,)))
    assert add_recipient(keyed.job(), x25519_public(new), "kantor").stores == {
        "local": "unchanged",
        "offsite": "unchanged",
    }
    assert keyed.opens(keyed.secrets)
    assert keyed.opens(keyed.sheet_secrets)


def test_adding_needs_a_secret(keyed: Keyed) -> None:
    """Who can't open can't let another open."""
    with pytest.raises(KeysError, match="nothing was given"):
        add_recipient(keyed.job(Secrets(writer=load_writer_key(keyed.base / "writer.key"))), b"x" * 32, "")
    with pytest.raises(WrongSecret):
        add_recipient(keyed.job(Secrets(identities=(new_x25519(),))), b"x" * 32, "")


def test_passphrase_added_and_rotated(keyed: Keyed) -> None:
    """A passphrase is one recipient over all keys: rotation wraps for it when given, and its removal takes all."""
    add_passphrase(keyed.job(), b"sandi", "")
    assert add_passphrase(keyed.job(), b"sandi", "").stores == {"local": "unchanged", "offsite": "unchanged"}
    with pytest.raises(KeysError, match="passphrase was not given"):
        rotate(keyed.job())
    both = replace(keyed.secrets, passphrases=(b"sandi",))
    rotate(keyed.job(both))
    keyed.seal()
    assert keyed.opens(Secrets(passphrases=(b"sandi",)))
    rows = [row for row in list_keys(keyed.open(Secrets())).as_json["recipients"] if row["type"] == "passphrase"]
    assert [len(row["keys"]) for row in rows] == [2]
    done = remove(keyed.job(), Wish(rows[0]["id"]))
    assert len(done.ids) == 2
    assert not keyed.opens(Secrets(passphrases=(b"sandi",)))
    assert keyed.opens(keyed.secrets)


def test_rotation(keyed: Keyed) -> None:
    """After a rotation new objects are sealed to the new key, old ones stay, and everyone opens both."""
    before = keyed.open(Secrets()).keyring.current
    done = rotate(keyed.job())
    assert done.ids != (before.hex(),)
    keyring = keyed.open(Secrets()).keyring
    assert keyring.current.hex() == done.ids[0]
    assert before in keyring.public
    keyed.seal()
    assert keyed.opens(keyed.secrets)
    assert keyed.opens(keyed.sheet_secrets)


def test_rotation_is_newest_whatever_the_clock_says(keyed: Keyed) -> None:
    """A host whose clock is behind makes a key that is used all the same."""
    done = rotate(keyed.job(after_s=-86_400))
    assert keyed.open(Secrets()).keyring.current.hex() == done.ids[0]


@pytest.mark.parametrize("after", range(7))
def test_rotation_interrupted_at_every_put(keyed: Keyed, after: int) -> None:
    """Interrupted anywhere, everything sealed by any writer opens from each store alone; repeating completes it."""
    job = keyed.job()
    Halts.left = after
    with suppress(KeyboardInterrupt):
        rotate(job)
    Halts.left = -1
    for store in ("local", "offsite"):  # whichever store a writer starts from
        writer = keyed.open(Secrets(), store)
        sealed = writer.keyring.seal_key(b"k" * 32, b"h")
        for reader in ("local", "offsite"):
            opened = keyed.open(keyed.sheet_secrets, reader).keyring
            assert opened.open_key(writer.keyring.current, sealed, b"h", "x") == b"k" * 32
    rotate(keyed.job())
    keys = [keyed.open(Secrets(), store).keyring for store in ("local", "offsite")]
    assert keys[0].current == keys[1].current
    keyed.seal()
    assert keyed.opens(keyed.sheet_secrets)


def test_rotation_needs_every_store(keyed: Keyed) -> None:
    """A store that is away lets nothing begin: it would lack the key that the others are sealed to."""
    (keyed.base / "offsite").rename(keyed.base / "gone")
    with pytest.raises(StoreUnavailable):
        rotate(keyed.job())
    assert len(list((keyed.base / "local/frk/keys").iterdir())) == 1


def test_mode_none_has_no_key_to_rotate(tmp_path: Path) -> None:
    """Without encryption a recipient holds the root; there is nothing to rotate, and the last may go: the sheet is."""
    plain = Keyed(tmp_path, mode="none")
    other = new_x25519()
    with pytest.raises(UsageError):
        rotate(plain.job())
    assert add_recipient(plain.job(plain.sheet_secrets), x25519_public(other), "").exit_code == 0
    assert plain.open(Secrets(identities=(other,))).keyring.root_key is not None
    remove(plain.job(plain.sheet_secrets), Wish(key_text(SEALING, x25519_public(other))))
    with pytest.raises(WrongSecret):
        plain.open(Secrets(identities=(other,)))


def test_removed_recipient_stays_removed(keyed: Keyed) -> None:
    """Whoever kept a removed recipient's document and puts it again gains nothing, and `init` brings nothing back."""
    kept = {
        path: path.read_bytes()
        for path in (keyed.base / "local/frk/keys").rglob("x25519-*")
    }  # fmt: skip
    mine = f"x25519-{x25519_id(keyed.identity)}"
    done = remove(keyed.job(keyed.sheet_secrets), Wish(mine))
    assert done.stores == {"local": "removed", "offsite": "removed"}
    assert not keyed.opens(keyed.secrets)
    for path, data in kept.items():
        path.write_bytes(data)
    assert not keyed.opens(keyed.secrets)
    assert keyed.opens(keyed.sheet_secrets)
    with pytest.raises(Conflict, match="final"):
        add_recipient(keyed.job(keyed.sheet_secrets), x25519_public(keyed.identity), "")


def x25519_id(private: bytes) -> str:
    """The id of a private half's public half."""
    return short_id(x25519_public(private)).hex()


def test_what_is_needed_is_not_removed(keyed: Keyed) -> None:
    """Not the last recipient, not one without proof that another opens, not the sheet, not the key or writer in use."""
    listed = list_keys(keyed.open(Secrets())).as_json
    sheet = next(row["id"] for row in listed["recipients"] if row["label"] == "recovery sheet")
    mine = f"x25519-{x25519_id(keyed.identity)}"
    with pytest.raises(Conflict, match="nothing given opens"):
        remove(keyed.job(), Wish(mine))
    with pytest.raises(Conflict, match="recovery sheet"):
        remove(keyed.job(), Wish(sheet))
    with pytest.raises(Conflict, match="sealed to now"):
        remove(keyed.job(), Wish(listed["keys"][0]["id"]))
    with pytest.raises(Conflict, match="it signed"):
        remove(keyed.job(), Wish(listed["writers"][0]["id"]))
    with pytest.raises(NotFound):
        remove(keyed.job(), Wish("0" * 16))
    with pytest.raises(UsageError):
        remove(keyed.job(), Wish("nonsense"))
    remove(keyed.job(), Wish(sheet, without_sheet=True))
    with pytest.raises(Conflict, match="last recipient"):
        remove(keyed.job(), Wish(mine))
    assert keyed.opens(keyed.secrets)


def test_old_key_goes_when_nothing_needs_it(keyed: Keyed) -> None:
    """After a rotation the old key stays while anything is sealed to it, and can go afterwards."""
    old = keyed.open(Secrets()).keyring.current.hex()
    rotate(keyed.job())
    with pytest.raises(Conflict, match="sealed to it"):
        remove(keyed.job(), Wish(old))
    for name, _ in keyed.sealed:
        for store in keyed.stores().values():
            store.delete(name)
    keyed.sealed.clear()
    assert remove(keyed.job(), Wish(old)).stores == {"local": "removed", "offsite": "removed"}
    keyed.seal()
    assert keyed.opens(keyed.secrets)
    assert [key.hex() for key in keyed.open(Secrets()).keyring.public] != [old]


def test_removed_writer_counts_no_more(keyed: Keyed) -> None:
    """A stranger's writer is revoked: its signatures count nowhere, its document put again changes nothing."""
    writers = keyed.base / "local/frk/writers"
    document = next(writers.iterdir())
    name, data = document.name, document.read_bytes()
    cache = CachedDocuments(keyed.base / "cache")
    remove(keyed.job(), Wish(name, discard_signed=True))
    assert not keyed.open(Secrets(), cache=cache).keyring.can_write
    document.parent.mkdir(exist_ok=True)
    document.write_bytes(data)
    assert not keyed.open(Secrets()).keyring.can_write
    hidden = [path.rename(path.with_name(f".{name}")) for path in keyed.base.glob("*/frk/removed/writers/*")]
    assert keyed.open(Secrets()).keyring.can_write
    # Even who can delete doesn't deceive a host that saw the removal.
    assert not keyed.open(Secrets(), cache=cache).keyring.can_write
    assert not keyed.open(Secrets(), known=cache).keyring.can_write
    for path in hidden:
        path.rename(path.with_name(name))
    with pytest.raises(KeysError, match="final"):
        keyed.init()
    (keyed.base / "writer.key").unlink()
    keyed.init()
    assert keyed.open(Secrets()).keyring.can_write


def test_removal_with_a_store_away(keyed: Keyed) -> None:
    """The others are done, the state says which is not, and repeating does the rest."""
    mine = f"x25519-{x25519_id(keyed.identity)}"
    (keyed.base / "offsite").rename(keyed.base / "gone")
    done = remove(keyed.job(keyed.sheet_secrets), Wish(mine))
    assert (done.stores, done.exit_code) == ({"local": "removed", "offsite": "away"}, 6)
    (keyed.base / "gone").rename(keyed.base / "offsite")
    keyed.init()  # nothing brings it back into the store where it is removed
    done = remove(keyed.job(keyed.sheet_secrets), Wish(mine))
    assert (done.stores["offsite"], done.exit_code) == ("removed", 0)
    assert not keyed.opens(keyed.secrets)
    assert not list(keyed.base.glob(f"*/frk/keys/*/{mine}"))


@pytest.mark.parametrize("after", range(4))
def test_removal_interrupted_at_every_step(keyed: Keyed, after: int) -> None:
    """Interrupted anywhere, the others open; repeated, nothing of it is left."""
    mine = f"x25519-{x25519_id(keyed.identity)}"
    job = keyed.job(keyed.sheet_secrets)
    Halts.left = after
    with pytest.raises(KeyboardInterrupt):
        remove(job, Wish(mine))
    Halts.left = -1
    assert keyed.opens(keyed.sheet_secrets)
    remove(keyed.job(keyed.sheet_secrets), Wish(mine))
    assert not list(keyed.base.glob(f"*/frk/keys/*/{mine}"))
    assert len(list(keyed.base.glob(f"*/frk/removed/recipients/{mine}"))) == 2


def test_adding_with_a_store_away_is_completed_later(keyed: Keyed) -> None:
    """The store that was away gets the same document when the command is repeated."""
    new = new_x25519()
    (keyed.base / "offsite").rename(keyed.base / "gone")
    assert add_recipient(keyed.job(), x25519_public(new), "").exit_code == 6
    (keyed.base / "gone").rename(keyed.base / "offsite")
    done = add_recipient(keyed.job(), x25519_public(new), "")
    assert done.stores == {"local": "unchanged", "offsite": "added"}
    assert keyed.opens(Secrets(identities=(new,)))


def test_a_stranger_reads_it_so_too(keyed: Keyed) -> None:
    """A decoder written from the format's description alone opens both keys, and takes what was removed for nothing."""
    other = new_x25519()
    rotate(keyed.job())
    add_recipient(keyed.job(), x25519_public(other), "")
    folder = keyed.base / "local/frk"
    kept = {path: path.read_bytes() for path in (folder / "keys").rglob(f"x25519-{x25519_id(other)}")}
    root = list_keys(keyed.open(Secrets())).as_json["root"]
    assert stranger.Repository(folder, root).unlock(secret=key_text(SEALING_SECRET, other)) == len(kept) == 2
    remove(keyed.job(), Wish(f"x25519-{x25519_id(other)}"))
    for path, data in kept.items():
        path.write_bytes(data)
    seen = stranger.Repository(folder, root)
    assert seen.unlock(secret=key_text(SEALING_SECRET, other)) == 0
    assert seen.unlock(secret=parse_sheet(keyed.sheet, "sheet").secret) == 2
    assert [seen.plain(name) for name in seen.sealed] == [data for _, data in keyed.sealed]


def test_trials(keyed: Keyed) -> None:
    """Each secret is tried in each store by itself; one that opens nothing, or not every key, says so."""
    stranger = Given("stranger", Secrets(identities=(new_x25519(),)))
    given = [Given("sheet", keyed.sheet_secrets), Given("identity", keyed.secrets), stranger]
    rows = {(row.secret, row.store): row for row in try_secrets(keyed.open(Secrets()), given)}
    assert [rows[name, store].error is None for name in ("sheet", "identity") for store in ("local", "offsite")] == [
        True
    ] * 4
    assert rows["sheet", "offsite"].opened == (keyed.sealed[0][0],)
    assert rows["stranger", "local"].error is not None
    rotate(keyed.job())
    for path in (keyed.base / "offsite/frk/keys").glob(f"*/x25519-{x25519_id(keyed.identity)}"):
        path.unlink()
        break
    row = next(row for row in try_secrets(keyed.open(Secrets()), given[1:2]) if row.store == "offsite")
    assert isinstance(row.error, KeysError)
    assert len(row.lacks) == 1


def test_listing_names_what_a_store_lacks(keyed: Keyed) -> None:
    """Keys, recipients, writers, removals, each with the stores that hold it."""
    add: Callable[[], KeysResult] = lambda: add_recipient(keyed.job(), x25519_public(b"z" * 32), "laci")  # noqa: E731
    (keyed.base / "offsite").rename(keyed.base / "gone")
    add()
    assert list(list_keys(keyed.open(Secrets())).silent) == ["offsite"]
    (keyed.base / "gone").rename(keyed.base / "offsite")
    value = list_keys(keyed.open(Secrets())).as_json
    rows = {row["label"]: row for row in value["recipients"]}
    assert rows["laci"]["stores"] == ["local"]
    assert rows["recovery sheet"]["stores"] == ["local", "offsite"]
    assert [key["current"] for key in value["keys"]] == [True]
    assert [writer["host"] for writer in value["writers"]] == ["test"]


@pytest.mark.parametrize("after", range(4))
def test_a_store_that_was_away_opens_at_every_step_of_a_removal(keyed: Keyed, after: int) -> None:
    """A store that lacks who stays gets that first, and the removal then: interrupted anywhere, each store opens."""
    new = Secrets(identities=(new_x25519(),))
    rows = list_keys(keyed.open(Secrets())).as_json["recipients"]
    sheet = next(row["id"] for row in rows if row["label"] == "recovery sheet")
    remove(keyed.job(), Wish(sheet, without_sheet=True))
    (keyed.base / "local").rename(keyed.base / "gone")
    add_recipient(keyed.job(), x25519_public(new.identities[0]), "")
    (keyed.base / "gone").rename(keyed.base / "local")
    job = keyed.job(new)
    Halts.left = after
    with suppress(KeyboardInterrupt):
        remove(job, Wish(f"x25519-{x25519_id(keyed.identity)}"))
    Halts.left = -1
    both = replace(new, identities=(*new.identities, keyed.identity))
    assert keyed.opens(both)


def test_an_interrupted_removal_of_a_passphrase_is_completed_by_its_id(keyed: Keyed) -> None:
    """A passphrase has an id under each key: with the one whose removal was put, the removal of the others goes on."""
    add_passphrase(keyed.job(), b"sandi", "")
    rotate(keyed.job(replace(keyed.secrets, passphrases=(b"sandi",))))
    first = min(path.name for path in (keyed.base / "local/frk/keys").rglob("passphrase-*"))
    job = keyed.job()
    Halts.left = 1
    with pytest.raises(KeyboardInterrupt):
        remove(job, Wish(first))
    Halts.left = -1
    assert len(remove(keyed.job(), Wish(first)).ids) == 2
    assert not list(keyed.base.glob("*/frk/keys/*/passphrase-*"))


def test_who_was_added_while_a_store_was_away_opens_the_others(keyed: Keyed) -> None:
    """A store that lacks a recipient, or has it for some keys only, hides none that has it for all; a removal that
    was seen on the way counts.
    """
    new = Secrets(identities=(new_x25519(),))
    mine = f"x25519-{x25519_id(new.identities[0])}"
    rotate(keyed.job())
    keyed.seal()
    add_recipient(keyed.job(), x25519_public(new.identities[0]), "")
    kept = {path: path.read_bytes() for path in sorted((keyed.base / "offsite/frk/keys").rglob(mine))}
    for path in kept:
        (keyed.base / "local" / path.relative_to(keyed.base / "offsite")).unlink()
        repository = keyed.open(new)
        for name, data in keyed.sealed:
            assert open_object(repository.store("offsite"), name, repository.keyring).read() == data
    with pytest.raises(WrongSecret):
        keyed.open(new, "local")
    remove(keyed.job(), Wish(mine))
    (keyed.base / "offsite/frk/removed/recipients" / mine).unlink()
    for path, data in kept.items():
        path.write_bytes(data)
    with pytest.raises(WrongSecret):
        keyed.open(new)
