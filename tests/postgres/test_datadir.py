"""What of a data directory is kept: the list of PostgreSQL's own basebackup.c."""

from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest

from replicator.errors import HostLacks, IntegrityError
from replicator.postgres.controlfile import control_is_whole, read_control
from replicator.postgres.datadir import FoundDirectory, FoundFile, FoundSpace, tablespaces, walk

VERSION = "PG_15_202209061"


def make(root: Path, *paths: str) -> None:
    """Files, or directories where a path ends with a slash."""
    for path in paths:
        where = root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            where.mkdir(parents=True, exist_ok=True)
        else:
            where.write_bytes(path.encode())


def kept(root: Path, spaces: tuple[FoundSpace, ...] = ()) -> dict[str, FoundFile | FoundDirectory]:
    """What is kept, by path."""
    return {found.path: found for found in walk(root, spaces, VERSION)}


def test_what_is_left_out(tmp_path: Path) -> None:
    """Directories stay, their contents go; the files of a running server and of other backups go, wherever they are."""
    make(
        tmp_path, "pg_wal/000000010000000000000001", "pg_wal/archive_status/x.ready", "pg_replslot/s/state",
        "pg_dynshmem/m", "pg_notify/0000", "pg_serial/0000", "pg_snapshots/1", "pg_stat_tmp/g.stat", "pg_subtrans/0000",
        "postmaster.pid", "postmaster.opts", "backup_label", "backup_label.old", "tablespace_map", "backup_manifest",
        "postgresql.auto.conf.tmp", "current_logfiles.tmp", "base/pgsql_tmp/pgsql_tmp1.0", "base/5/pg_internal.init",
        "global/pg_internal.init.77", "global/pg_control",
        "postgresql.conf", "PG_VERSION", "global/1260", "global/pg_filenode.map", "base/5/PG_VERSION", "pg_xact/0000",
        "pg_multixact/members/0000", "log/server.log", "pg_tblspc/",
    )  # fmt: skip
    found = kept(tmp_path)
    assert {path for path, one in found.items() if isinstance(one, FoundFile)} == {
        "postgresql.conf", "PG_VERSION", "global/1260", "global/pg_filenode.map", "base/5/PG_VERSION", "pg_xact/0000",
        "pg_multixact/members/0000", "log/server.log",
    }  # fmt: skip
    emptied = {"pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}
    directories = {path for path, one in found.items() if isinstance(one, FoundDirectory)}
    assert directories >= emptied | {"pg_wal", "pg_wal/archive_status", "pg_tblspc", "base/5"}
    assert list(found).index("base/5") < list(found).index("base/5/PG_VERSION")


def test_relations(tmp_path: Path) -> None:
    """Temporary relations go, of unlogged ones all but the init fork; a segment's number is known. Only where relations
    are: the same names elsewhere are plain files.
    """
    make(
        tmp_path, "base/5/16384", "base/5/16384.1", "base/5/16384_fsm", "base/5/16384_vm.2",
        "base/5/99", "base/5/99.1", "base/5/99_vm", "base/5/99_init", "base/5/t3_4711", "base/5/t3_4711_fsm",
        "base/5/t3_4711.1", "pg_logical/t3_4711", "pg_xact/0000", "base/5/pg_filenode.map",
    )  # fmt: skip
    found = {path: one.segment for path, one in kept(tmp_path).items() if isinstance(one, FoundFile)}
    assert found == {
        "base/5/16384": 0, "base/5/16384.1": 1, "base/5/16384_fsm": 0, "base/5/16384_vm.2": 2, "base/5/99_init": 0,
        "base/5/pg_filenode.map": None, "pg_logical/t3_4711": None, "pg_xact/0000": None,
    }  # fmt: skip


def test_tablespaces(tmp_path: Path) -> None:
    """A linked one under its oid, only the server's own directory of it; one that lies inside, too. Other links go."""
    root, outside = tmp_path / "data", tmp_path / "space"
    make(outside, f"{VERSION}/5/16390", f"{VERSION}/pgsql_tmp/x", "PG_14_1/5/16390", "lost")
    make(root, f"pg_tblspc/16400/{VERSION}/5/16391", "base/5/1")
    (root / "pg_tblspc/16385").symlink_to(outside)
    (root / "base/5/2").symlink_to("/etc/passwd")
    (root / "elsewhere").symlink_to(outside)
    spaces = tablespaces(root)
    assert spaces == (FoundSpace(16385, str(outside)), FoundSpace(16400, None))
    found = kept(root, spaces)
    assert {path for path, one in found.items() if isinstance(one, FoundFile)} == {
        "base/5/1", f"pg_tblspc/16385/{VERSION}/5/16390", f"pg_tblspc/16400/{VERSION}/5/16391",
    }  # fmt: skip
    assert "pg_tblspc/16400" in found
    assert "pg_tblspc/16385" not in found


@pytest.mark.parametrize("through", ["", "link"])
def test_a_tablespace_whose_place_is_within(tmp_path: Path, through: str) -> None:
    """A tablespace that somebody made below the data directory comes once, under its oid; its directory stays, empty,
    also where its link spells the way there otherwise.
    """
    root = tmp_path / "data"
    make(root, f"ruang/satu/{VERSION}/5/16390", f"ruang/satu/{VERSION}/5/t3_4711", "ruang/dua/catatan", "pg_tblspc/")
    (tmp_path / "link").symlink_to(root)
    (root / "pg_tblspc/16385").symlink_to((tmp_path / through if through else root) / "ruang/satu")
    found = kept(root, tablespaces(root))
    assert {path for path, one in found.items() if isinstance(one, FoundFile)} == {
        "ruang/dua/catatan", f"pg_tblspc/16385/{VERSION}/5/16390",
    }  # fmt: skip
    assert isinstance(found["ruang/satu"], FoundDirectory)
    assert f"ruang/satu/{VERSION}" not in found


def test_a_linked_pg_wal_becomes_a_directory(tmp_path: Path) -> None:
    """As in a backup over the network, and nothing of it is kept."""
    make(tmp_path, "data/PG_VERSION", "wal/000000010000000000000001", "wal/archive_status/a.done")
    (tmp_path / "data/pg_wal").symlink_to(tmp_path / "wal")
    found = kept(tmp_path / "data")
    assert set(found) == {"PG_VERSION", "pg_wal", "pg_wal/archive_status"}
    assert isinstance(found["pg_wal"], FoundDirectory)
    assert found["pg_wal"].mode == 0o700


def test_a_directory_that_vanishes(tmp_path: Path) -> None:
    """A database dropped while it is walked is what was seen of it, and the rest comes."""
    make(tmp_path, "base/5/1", "base/5/2", "base/6/1")
    found = []
    for one in walk(tmp_path, (), VERSION):
        found.append(one.path)
        if one.path == "base/5":
            for path in (tmp_path / "base/5").iterdir():
                path.unlink()
            (tmp_path / "base/5").rmdir()
    assert found == ["base", "base/5", "base/6", "base/6/1"]


def control(text: bytes) -> bytes:
    """A pg_control that is whole: some fields, their CRC-32C, zeros."""
    fields = text.ljust(288, b"\x01")
    whole: bytes = (fields + google_crc32c.value(fields).to_bytes(4, "little")).ljust(8192, b"\0")
    return whole


def test_pg_control_is_read_until_it_is_whole(tmp_path: Path) -> None:
    """Half of one version and half of another is read again; what never fits is an error, not a backup."""
    make(tmp_path, "global/")
    path, old, new = tmp_path / "global/pg_control", control(b"old"), control(b"new")
    torn = new[:100] + old[100:]
    assert control_is_whole(old)
    assert not control_is_whole(torn)
    path.write_bytes(torn)
    assert read_control(tmp_path, lambda: path.write_bytes(new)) == new
    path.write_bytes(torn)
    with pytest.raises(IntegrityError):
        read_control(tmp_path, lambda: None)
    path.unlink()
    with pytest.raises(HostLacks):
        read_control(tmp_path, lambda: None)
