"""Base backups of real servers."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from replicator.errors import IntegrityError, ProtocolViolation, SourceRefused, SourceUnavailable, UsageError
from replicator.postgres.basebackup import MANIFEST, ArchiveMember, BaseBackup, base_backup
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.tar import Kind
from tests import walsender as ws
from tests.certificates import write_certificate
from tests.clusters import MAJOR, PASSWORD, REPLICATION_USER, TestCluster, make_cluster, own
from tests.walsender import Walsender

pytestmark = pytest.mark.server
Connect = Callable[..., ReplicationConnection]


@pytest.fixture(scope="module")
def source(base: Path) -> Iterator[TestCluster]:
    """A cluster with a table in a tablespace and one in the base directory."""
    with make_cluster(base, wal_segsize_mb=1) as cluster:
        place = cluster.home / "ruang"
        place.mkdir()
        own(place)
        cluster.sql(f"CREATE TABLESPACE ruang LOCATION '{place}'")
        cluster.sql("CREATE TABLE bukti TABLESPACE ruang AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g")
        cluster.sql("CREATE TABLE dosen AS SELECT g FROM generate_series(1, 1000) g")
        yield cluster


def write(member: ArchiveMember, target: Path) -> None:
    """Put one member under `target`, a tablespace's too."""
    path = target / member.path
    if member.kind is Kind.DIRECTORY:
        path.mkdir(parents=True, exist_ok=True)
    elif member.kind is Kind.FILE:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            written = sum(file.write(chunk) for chunk in member.chunks())
        assert member.size in (written, -1)


def take(connection: ReplicationConnection, target: Path, *, plain: bool = True) -> tuple[BaseBackup, list[str]]:
    """A whole backup into `target`: how it ended, and the members in their order."""
    order = []
    with base_backup(connection, label="20261122T020000Z", plain=plain) as backup:
        for member in backup.archives():
            order.append(member.path)
            write(member, target)
    return backup, order


@pytest.mark.parametrize("plain", [True, False])
def test_a_backup_passes_the_servers_own_verification(
    source: TestCluster, connect: Connect, tmp_path: Path, *, plain: bool
) -> None:
    """Tablespaces first, pg_control at the end of the base, the manifest last; pg_verifybackup finds all well."""
    backup, order = take(connect(source), tmp_path, plain=plain)
    oid = source.value("SELECT oid FROM pg_tablespace WHERE spcname = 'ruang'")
    assert [space.oid for space in backup.tablespaces] == [oid, None]
    assert backup.tablespaces[0].location == str(source.home / "ruang")
    assert order[0].startswith(f"pg_tblspc/{oid}/PG_")
    assert order[-2:] == ["global/pg_control", MANIFEST]
    assert "backup_label" in order
    assert "tablespace_map" in order
    assert backup.stop_lsn is not None
    assert backup.start_lsn < backup.stop_lsn
    assert (backup.timeline, backup.stop_timeline) == (1, 1)
    assert not backup.checksum_failures
    assert backup.expected_bytes > 2**20
    assert str(Lsn(backup.start_lsn)) in (tmp_path / "backup_label").read_text()
    verify = [str(source.binaries.program("pg_verifybackup")), "-n", str(tmp_path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_over_tls_all_goes_through_libpq(base: Path, tmp_path: Path) -> None:
    """What the socket holds is no message then."""
    with make_cluster(base) as cluster:
        cluster.sql("CREATE TABLE dosen AS SELECT g, md5(g::text) FROM generate_series(1, 50000) g")
        files = write_certificate(cluster.home)
        for file in files:
            file.chmod(0o600)
            own(file)
        cluster.configure({"ssl": "on", "ssl_cert_file": str(files[0]), "ssl_key_file": str(files[1])})
        cluster.restart()
        connection = ReplicationConnection.connect(
            cluster.conninfo(REPLICATION_USER) + " sslmode=require",
            PASSWORD.encode(), application_name="t", connect_timeout=60,
        )  # fmt: skip
        assert connection.pgconn.ssl_in_use
        backup, order = take(connection, tmp_path)
        assert backup.finished
        assert order[-1] == MANIFEST
        verify = [str(cluster.binaries.program("pg_verifybackup")), "-n", str(tmp_path)]
        done = subprocess.run(verify, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(MAJOR < 15, reason="PostgreSQL 15 is the first to have them")
def test_tablespaces_inside_the_data_directory(base: Path, connect: Connect, tmp_path: Path) -> None:
    """In-place tablespaces lie under the same kind of path, and their location is relative. PostgreSQL 15, the first to
    have them (for its own tests), leaves them out of its base backups: seen here, so that a change would show.
    """
    with make_cluster(base) as cluster:
        cluster.configure({"allow_in_place_tablespaces": "on"})
        cluster.restart()
        cluster.sql("CREATE TABLESPACE dalam LOCATION ''")
        cluster.sql("CREATE TABLE isi TABLESPACE dalam AS SELECT 1")
        oid = cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'dalam'")
        backup, order = take(connect(cluster), tmp_path)
        expected = [f"pg_tblspc/{oid}"] if MAJOR > 15 else []
        assert [space.location for space in backup.tablespaces if space.oid] == expected
        assert any(path.startswith(f"pg_tblspc/{oid}/PG_") for path in order) == (MAJOR > 15)
        assert len(order) == len(set(order))


def test_members_that_nobody_reads_are_skipped(source: TestCluster, connect: Connect) -> None:
    """The end is reached, also by a backup that is slower and without a manifest; it closes the connection."""
    connection = connect(source)
    with base_backup(connection, label="it's a label") as backup:
        assert sum(1 for _ in backup.archives()) > 900
        assert backup.finished
    assert connection.closed
    with base_backup(connect(source), label="x", manifest=False, max_rate=2**30, verify_checksums=False) as backup:
        assert [member.path for member in backup.archives()][-1] == "global/pg_control"


def test_chunks_are_large_and_bounded(source: TestCluster, connect: Connect) -> None:
    """The consumer moves about two MiB per call, never more."""
    with base_backup(connect(source), label="x") as backup:
        sizes = [(member.size, [len(chunk) for chunk in member.chunks()]) for member in backup.archives()]
    assert max(max(chunks, default=0) for _, chunks in sizes) <= 2**21 + 2**15
    large = next(chunks for size, chunks in sizes if size > 2**21)
    assert large[0] == 2**21


def test_leaving_early_ends_the_backup_on_the_server(source: TestCluster, connect: Connect) -> None:
    """The connection is closed: nothing is left running."""
    connection = connect(source)
    with base_backup(connection, label="x") as backup:
        next(backup.archives())
    assert connection.closed


@pytest.mark.parametrize("plain", [True, False])
def test_damaged_pages_complete_the_backup_and_mark_it(
    base: Path, connect: Connect, tmp_path: Path, *, plain: bool
) -> None:
    """XX001 at the end is a finding, with the server's warnings, not a failure."""
    with make_cluster(base) as cluster:
        cluster.sql("CREATE TABLE rusak AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
        path = cluster.directory / cluster.value("SELECT pg_relation_filepath('rusak')")
        cluster.restart()
        with path.open("r+b") as file:
            file.seek(8192 + 5000)
            file.write(b"\xff" * 16)
        backup, order = take(connect(cluster), tmp_path, plain=plain)
        assert backup.checksum_failures
        assert any("checksum" in warning for warning in backup.warnings)
        assert backup.stop_lsn is not None
        assert order[-1] == MANIFEST


def test_what_cannot_be_asked(source: TestCluster, connect: Connect) -> None:
    """Wrong options are the caller's mistake; a user without REPLICATION is refused."""
    with pytest.raises(UsageError):
        base_backup(connect(source), label="x", checkpoint="soon")
    source.sql("CREATE ROLE biasa LOGIN")
    conninfo = source.conninfo("biasa") + " "
    with pytest.raises(SourceRefused):
        ReplicationConnection.connect(conninfo, b"x", application_name="t", connect_timeout=60)


TAR = (
    b"PG_VERSION".ljust(100, b"\0")
    + b"0000600\0" + b"0000000\0" + b"0000000\0" + b"00000000003\0" + b"00000000000\0"
)  # fmt: skip


def tar_bytes() -> bytes:
    """An archive of one file of three bytes."""
    head = bytearray((TAR + b" " * 8 + b"0").ljust(512, b"\0"))
    head[257:265] = b"ustar\x0000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + b"15\n".ljust(512, b"\0")


def manifest_bytes() -> bytes:
    """A manifest of nothing."""
    body = b'{ "Files": [ ],\n'
    return body + b'"Manifest-Checksum": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


POSITION = ["recptr", "tli"]
HEADER = ws.rows(POSITION, ["0/2000028", "1"]) + ws.complete("SELECT")
SPACES = ws.rows(["spcoid", "spclocation", "size"], [None, None, "30000"]) + ws.complete("SELECT")
END = ws.rows(POSITION, ["0/2000100", "1"]) + ws.complete("SELECT")


def scripted(server: Walsender, *, plain: bool = True) -> BaseBackup:
    """A backup from a scripted server."""
    connection = ReplicationConnection.connect(server.conninfo, None, application_name="t", connect_timeout=60)
    try:
        return base_backup(connection, label="x", silence=60, plain=plain)
    except BaseException:
        connection.close()
        raise


@pytest.mark.parametrize("pieces", [1, 50])
def test_the_older_wire_gives_the_same_members(pieces: int) -> None:
    """PostgreSQL 13 and 14: a COPY of bare bytes for each archive and for the manifest, options in the old grammar."""
    copies = [tar_bytes(), manifest_bytes()]
    wire = b"".join(ws.COPY_OUT + ws.copy_data(copy[:100]) + ws.copy_data(copy[100:]) + ws.COPY_DONE for copy in copies)
    script = [
        ws.expect("BASE_BACKUP LABEL 'x' TABLESPACE_MAP FAST PROGRESS NOWAIT MANIFEST 'yes'"),
        ws.send(HEADER, SPACES, wire, END, ws.complete("SELECT"), ws.READY, pieces=pieces),
        ws.hang,
    ]
    with Walsender(script, version="14.9") as server:
        backup = scripted(server)
        with backup:
            found = {member.path: b"".join(member.chunks()) for member in backup.archives()}
        assert found == {"PG_VERSION": b"15\n", MANIFEST: manifest_bytes()}
        assert backup.stop_lsn == Lsn.parse("0/2000100")


def modern(*parts: bytes) -> bytes:
    """One COPY of typed messages."""
    return ws.COPY_OUT + b"".join(ws.copy_data(part) for part in parts) + ws.COPY_DONE


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        (modern(b"nbase.tar\0\0", b"d" + tar_bytes(), b"m", b"d" + manifest_bytes()[:-9]) + END, IntegrityError),
        (modern(b"nbase.tar\0\0", b"d" + tar_bytes()[:600], b"m", b"d" + manifest_bytes()) + END, ProtocolViolation),
        (modern(b"n999.tar\0\0", b"d" + tar_bytes()) + END, ProtocolViolation),
        (modern(b"?") + END, ProtocolViolation),
        (END, ProtocolViolation),
        (modern(b"nbase.tar\0\0", b"d" + tar_bytes()) + ws.error("57P01", "terminating"), SourceUnavailable),
        (modern(b"nbase.tar\0\0", b"d" + tar_bytes())[:700], SourceUnavailable),
    ],
)
def test_a_broken_backup_never_ends_well(wire: bytes, kind: type[Exception], *, plain: bool) -> None:
    """Whatever is wrong with the stream, the backup is not finished."""
    script = [ws.expect("BASE_BACKUP (LABEL 'x'"), ws.send(HEADER, SPACES, wire, ws.READY), ws.cut]
    with Walsender(script) as server:
        backup = scripted(server, plain=plain)
        with pytest.raises(kind), backup:
            list(backup.archives())
        assert not backup.finished
