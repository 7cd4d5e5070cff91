"""An unmodified PostgreSQL judges: pg_verifybackup, pg_dumpall, and the WAL that pg_receivewal wrote beside us."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn, Segment
from tests.clusters import OWNER, TestCluster, cluster_base, make_cluster, own, run_as_owner
from tests.e2e.site import Site, site_of


@contextmanager
def receivewal(cluster: TestCluster, directory: Path) -> Iterator[None]:
    """pg_receivewal writing into `directory`."""
    directory.mkdir()
    own(directory)
    user = pwd.getpwnam(OWNER).pw_uid if OWNER else os.getuid()
    process = subprocess.Popen(
        [str(cluster.binaries.program("pg_receivewal")), "-D", str(directory), "-d", cluster.conninfo(), "--no-loop"],
        user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def dump(cluster: TestCluster, port: int) -> str:
    """pg_dumpall's output, without what pg_dump makes up anew each time."""
    program = cluster.binaries.program("pg_dumpall")
    text = run_as_owner([program, "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"])
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def make_data(cluster: TestCluster) -> None:
    """Tables of several kinds: large values, an index, a sequence, an unlogged table, a large object."""
    cluster.sql("CREATE TABLE bukti (id bigserial PRIMARY KEY, nama text, isi bytea)")
    cluster.sql("CREATE INDEX ON bukti (nama)")
    cluster.sql("CREATE UNLOGGED TABLE sementara (id int)")
    cluster.sql("SELECT lo_from_bytea(0, decode(repeat('ab', 100000), 'hex'))")
    fill(cluster)


def fill(cluster: TestCluster) -> None:
    """Some more rows."""
    cluster.sql(
        "INSERT INTO bukti (nama, isi) SELECT 'bukti ' || n, decode(repeat(md5(n::text), 300), 'hex')"
        " FROM generate_series(1, 400) n"
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("megabytes", [1, 16])
def test_postgres_is_the_judge(megabytes: int) -> None:
    """The tree verifies, the dumps are equal, the WAL is the same byte for byte; with both segment sizes."""
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=megabytes) as cluster,
        site_of(base, cluster, passphrase="rahasia" if megabytes == 16 else "") as site,
        receivewal(cluster, site.base / "beside"),
    ):
        make_data(cluster)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        first = site.run("snapshot", "take", "frk")
        fill(cluster)
        second = site.run("snapshot", "take", "frk")
        assert second["parent"] == first["label"]
        assert second["added_bytes"] < first["added_bytes"]
        fill(cluster)
        cluster.switch_wal()
        fill(cluster)
        # PostgreSQL logs sequences 32 values ahead, and a recovery continues there; setval logs the value itself.
        cluster.sql("SELECT setval('bukti_id_seq', (SELECT max(id) FROM bukti))")
        expected = dump(cluster, cluster.port)
        site.shipped(cluster.lsn())
        tree = site.restore("--latest", name="tree", start=False)
        assert not tree["started"]
        run_as_owner([cluster.binaries.program("pg_verifybackup"), "-n", site.base / "tree"])
        restored = site.restore("--latest")
        assert dump(cluster, restored["port"]) == expected
        site.stop_restored()
        assert_same_wal(site, megabytes * 2**20)


def assert_same_wal(site: Site, size: int) -> None:
    """Each complete segment that pg_receivewal wrote since the daemon began is in each store, byte for byte."""
    begun = Lsn.parse(site.run("wal", "coverage", "frk")["local"]["ranges"][0]["from_lsn"])
    beside = [path for path in sorted((site.base / "beside").iterdir()) if len(path.name) == 24]
    ours = [path for path in beside if Segment.parse(path.name, size).start >= begun]
    assert ours
    for path in ours:
        for store in ("local", "offsite"):
            got = site.base / f"{store}-{path.name}"
            done = site.command("wal", "get", "frk", path.name, str(got), "--store", store)
            assert done.returncode == 0, done.stderr
            assert got.read_bytes() == path.read_bytes(), f"{path.name} differs in {store}"
