"""A stranger who has docs/format.md and nothing else of ours reads what the product wrote."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clusters import TestCluster, cluster_base, make_cluster, own, run_as_owner
from tests.e2e.site import Site, number, site_of
from tests.e2e.test_judges import fill, make_data
from tests.format.stranger import Refused, Repository, Sealed, unbase

MEGABYTE = 2**20


class World(NamedTuple):
    """A site whose daemon has written what a repository can hold."""

    site: Site
    cluster: TestCluster
    snapshots: list[dict[str, object]]
    end: int

    def sheet(self, word: str) -> str:
        """A line of the recovery sheet."""
        found = re.search(rf"^{word}:\s+(\S+)$", (self.site.base / "sheet").read_text(), re.MULTILINE)
        assert found, f"the sheet has no {word}"
        return found[1]

    def folder(self, store: str = "local") -> Path:
        """Where a store keeps this cluster's objects."""
        return self.site.base / store / "frk"

    def repository(self, store: str = "local") -> Repository:
        """The stranger's view of a store, locked."""
        return Repository(self.folder(store), self.sheet("root"))


def odd_files(cluster: TestCluster) -> None:
    """A tablespace, zeros, a name that is not UTF-8, a file whose map lies in packs, a short last block."""
    space = cluster.home / "space"
    space.mkdir()
    own(space)
    cluster.sql(f"CREATE TABLESPACE lain LOCATION '{space}'")
    cluster.sql("CREATE TABLE jauh TABLESPACE lain AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
    content = bytes(range(256)) * 4096
    files = {b"zeros": bytes(3 * MEGABYTE + 5), b"caf\xe9": b"x", b"large": content * 40 + b"end"}
    for name, data in files.items():
        path = Path((bytes(cluster.directory) + b"/" + name).decode(errors="surrogateescape"))
        path.write_bytes(data)
        own(path)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two snapshots, many segments, a tablespace, a gap, and a second timeline; the daemon has ended."""
    conf = {"wal_keep_size": "0", "max_wal_size": "2MB", "min_wal_size": "2MB"}
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1, conf=conf) as cluster,
        site_of(base, cluster, passphrase="rahasia") as site,
    ):
        make_data(cluster)
        odd_files(cluster)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        snapshots = [site.run("snapshot", "take", "frk")]
        fill(cluster)
        snapshots.append(site.run("snapshot", "take", "frk"))
        make_gap(site, cluster)
        cluster.stop()
        (cluster.directory / "standby.signal").touch()
        own(cluster.directory / "standby.signal")
        cluster.start()
        cluster.promote()
        cluster.write_wal()
        cluster.switch_wal()
        cluster.write_wal()
        site.wait(lambda: all(list(site.base.glob(f"{store}/frk/*/history/*")) for store in ("local", "offsite")))
        end = cluster.lsn()
        site.shipped(end)
        site.kill_daemon(15)
        yield World(site, cluster, snapshots, number(end))


def make_gap(site: Site, cluster: TestCluster) -> None:
    """WAL that the server lets go of while the daemon is away."""
    site.shipped(cluster.lsn())
    site.kill_daemon(15)
    cluster.drop_slots()
    for _ in range(5):
        cluster.write_wal(10000)
        cluster.switch_wal()
        cluster.sql("CHECKPOINT")
    site.start_daemon(wait=False)
    site.wait(lambda: site.answers("/readyz"))
    site.shipped(cluster.write_wal())


def manifests(repository: Repository) -> list[Sealed]:
    """Its manifests, the oldest first."""
    return sorted((found for found in repository.sealed.values() if found.kind == 4), key=lambda found: found.label)


def verify_tree(world_cluster: TestCluster, tree: Path) -> None:
    """pg_verifybackup accepts a tree."""
    own(tree)
    run_as_owner([world_cluster.binaries.program("pg_verifybackup"), "-n", tree])


@pytest.mark.parametrize("store", ["local", "offsite"])
def test_every_object_is_as_the_page_says(world: World, store: str) -> None:
    """Each name parses, each document and table verifies, and each kind was there to be looked at."""
    repository = world.repository(store)
    assert repository.ignored == []
    assert {found.kind for found in repository.sealed.values()} == {1, 2, 3, 4}
    kinds = {name.split("/")[1] for name in repository.documents if name[0].isdigit()}
    assert kinds == {"history", "notes", "packs"}
    assert len(repository.writers) == 1


def test_passphrase_and_sheet_both_unlock(world: World) -> None:
    """Either secret opens every object, and a wrong one opens nothing."""
    assert world.repository().unlock(secret="x25519-secret:" + "A" * 43) == 0
    for secret in ({"passphrase": "rahasia"}, {"secret": world.sheet("secret")}):
        repository = world.repository()
        assert repository.unlock(**secret) == 1
        for name, found in repository.sealed.items():
            assert len(repository.plain(name)) == found.plain_bytes


def test_the_tree_of_each_snapshot(world: World, tmp_path: Path) -> None:
    """pg_verifybackup accepts the full and the incremental tree; maps inline and in packs, zeros, a parent's packs."""
    repository = world.repository()
    repository.unlock(passphrase="rahasia")
    full, incremental, *_ = manifests(repository)  # and perhaps one that answers the gap
    assert incremental.label.decode() == world.snapshots[1]["label"]
    for found in (full, incremental):
        tree = world.site.base / f"stranger-{found.label.decode()}"
        packs = repository.rebuild(found.name, tree)
        labels = {pack.split("/")[2] for pack in packs}
        assert labels == {full.label.decode(), found.label.decode()}
        verify_tree(world.cluster, tree)
        assert (tree / "large").read_bytes() == (world.cluster.directory / "large").read_bytes()
        assert (tree / "zeros").read_bytes() == bytes(3 * MEGABYTE + 5)
        assert (tree / b"caf\xe9".decode(errors="surrogateescape")).read_bytes() == b"x"
        assert list(tree.glob("pg_tblspc/*/PG_*/*/*"))
    chunks = [chunk for entry in repository.manifest(incremental.name)[2] for chunk in entry.get("c", ())]
    assert {type(chunk) for chunk in chunks} == {str, list}


def test_wal_is_what_the_product_delivers(world: World) -> None:
    """Each complete segment, the chain of pieces, and the history file are those of `wal get`."""
    repository = world.repository()
    repository.unlock(passphrase="rahasia")
    whole = sorted(found.parts["segment"] for found in repository.sealed.values() if found.kind == 1)
    assert {name[:8] for name in whole} == {"00000001", "00000002"}
    for name in (whole[0], whole[-1]):
        assert repository.segment(name) == wal_get(world.site, name)
    last = max(found.parts["segment"] for found in repository.sealed.values() if found.kind == 2)
    bytes_held = repository.segment(last)
    assert 0 < len(bytes_held) < MEGABYTE
    end = int(last[8:16], 16) * 2**32 + int(last[16:], 16) * MEGABYTE + len(bytes_held)
    delivered = wal_get(world.site, last, "--until", f"{end >> 32:X}/{end & 0xFFFFFFFF:X}")
    assert delivered == bytes_held.ljust(MEGABYTE, b"\0")
    assert end >= world.end
    history = next(body for name, body in repository.documents.items() if name.endswith("00000002.history"))
    assert unbase(history["content"]) == wal_get(world.site, "00000002.history")


def wal_get(site: Site, name: str, *options: str) -> bytes:
    """What `wal get` delivers."""
    path = site.base / f"got-{name}"
    path.unlink(missing_ok=True)
    done = site.command("wal", "get", "frk", name, str(path), *options)
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


def test_a_gap_is_a_note(world: World) -> None:
    """The WAL that is lost stands in a signed note whose subject, body and fingerprint agree."""
    notes = [body for name, body in world.repository().documents.items() if "/notes/" in name]
    assert [body["kind"] for body in notes] == ["gap"]
    start, stop = number(notes[0]["start_lsn"]), number(notes[0]["stop_lsn"])
    assert notes[0]["subject"] == f"{notes[0]['timeline']:08X}.{start:016X}.{stop:016X}"


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def rename(path: Path) -> None:
    """Give a file a name that parses and is another's."""
    stem, suffix = path.stem, path.suffix
    path.rename(path.with_name(stem[:-1] + ("1" if stem[-1] == "0" else "0") + suffix))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "first byte": lambda path: flip(path, 0),
    "head": lambda path: flip(path, 90),
    "table": lambda path: flip(path, -180),
    "signature": lambda path: flip(path, -40),
    "trailer": lambda path: flip(path, -3),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes()[:200] + b"x" + path.read_bytes()[200:]),
    "renamed": rename,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", ["wal", "pieces", "packs", "snapshots", "notes", "writers", "keys", "history"])
def test_damage_is_refused(world: World, place: str, damage: str) -> None:
    """What the page tells a reader to check catches a changed, cut, longer or renamed object of each kind."""
    folder = world.site.base / "damaged"
    others = shutil.ignore_patterns("begin-*")
    shutil.copytree(world.folder(), folder, ignore=others, copy_function=lambda old, new: os.link(old, new))
    try:
        pattern = f"{place}/**/*" if place in ("writers", "keys") else f"*/{place}/**/*"
        path = min(path for path in folder.glob(pattern) if path.is_file())
        data = path.read_bytes()
        path.unlink()  # what is damaged is this copy's own
        path.write_bytes(data)
        DAMAGE[damage](path)
        with pytest.raises((Refused, ValueError, KeyError)):
            Repository(folder, world.sheet("root"))
    finally:
        shutil.rmtree(folder)


def test_another_root_is_refused(world: World) -> None:
    """A repository that another root vouches for is not the one asked for."""
    with pytest.raises(Refused):
        Repository(world.folder(), "ed25519:" + "A" * 43)


@pytest.mark.parametrize("recipient", [False, True])
def test_without_encryption(recipient: bool) -> None:
    """With mode none all is signed and nothing is sealed; a recipient then wraps the root's seed alone."""
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster, passphrase="rahasia") as site,
    ):
        opened = f'passphrase = {{ file = "{site.policies}/frk.passphrase" }}\n' if recipient else ""
        site.write_policy(encryption=f'{opened}mode = "none"')
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        cluster.write_wal()
        site.run("snapshot", "take", "frk")
        site.shipped(cluster.lsn())
        world = World(site, cluster, [], 0)
        repository = world.repository()
        assert (repository.mode, repository.ignored) == ("none", [])
        assert repository.unlock(passphrase="rahasia") == recipient
        assert not any(name.endswith("/public") for name in repository.documents)
        for name, found in repository.sealed.items():
            assert len(found.head) == 96
            repository.plain(name)
        [manifest] = manifests(repository)
        repository.rebuild(manifest.name, site.base / "stranger")
        verify_tree(cluster, site.base / "stranger")
