"""Whatever the shape of a cluster, streamed, snapshotted and restored it is the same: pg_dumpall says so."""

from __future__ import annotations

import pytest

from tests.clusters import MAJOR, cluster_base, have_binaries, make_cluster
from tests.e2e import shapes
from tests.e2e.site import Site, site_of

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]


def begin(site: Site) -> None:
    """A repository and a daemon."""
    site.run("init", "frk", "--sheet", str(site.base / "sheet"))
    site.start_daemon()


@pytest.mark.parametrize(("megabytes", "checksums", "tables"), [(1, False, 2000), (64, True, 200)])
def test_every_shape_at_once(megabytes: int, checksums: bool, tables: int) -> None:
    """Segments of 1 and 64 MB, without and with checksums: tablespaces, unlogged and temporary tables, large objects,
    many tables, odd names, several databases and prepared transactions, half of it before the snapshot, half after.
    """
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=megabytes, checksums=checksums, conf=shapes.CONF) as cluster,
        site_of(base, cluster) as site,
    ):
        shaped = shapes.Shaped(cluster)
        begin(site)
        shaped.kinds()
        shaped.tablespaces()
        if MAJOR > 15:
            shaped.in_place()
        shaped.tables(1, tables // 2)
        shaped.prepare("sebelum")
        with cluster.session() as session:
            shapes.run(session, "CREATE TEMPORARY TABLE sesaat AS SELECT * FROM generate_series(1, 10000)")
            site.run("snapshot", "take", "frk")
        if MAJOR == 15:  # its base backups leave such tablespaces out; WAL brings them
            shaped.in_place()
            assert "setempat" in site.run("snapshot", "take", "frk", code=5)["error"]["message"]
        shaped.databases()
        shaped.tables(tables // 2 + 1, tables)
        shaped.more()
        shaped.prepare("sesudah")
        expected = shapes.dump(cluster, cluster.port)
        site.shipped(cluster.lsn())
        restored = shapes.restore(site, shaped, "offsite", "restored")
        assert shapes.first_difference(expected, shapes.dump(cluster, restored["port"])) == ""
        shapes.assert_prepared(restored["port"], ["sebelum", "sesudah"])
        shapes.assert_unlogged_is_empty(restored["port"])
        shapes.assert_no_left_overs(site.base / "restored")
        site.stop_restored()
