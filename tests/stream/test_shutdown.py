"""A primary that shuts down while we can take nothing more: it is not held up for longer than a request may take."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from replicator.core.lsn import Lsn
from tests.clusters import cluster_base, have_binaries, make_cluster
from tests.repositories import make_repository
from tests.stream.streams import catalog, settings, streaming
from tests.stream.test_acknowledge import Taps

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
MB = 2**20


def test_a_full_spool_does_not_hold_up_a_shutdown(tmp_path: Path) -> None:
    """Nothing is read, so the primary can't send its last record: it ends all the same, and afterwards nothing is
    lost.
    """
    taps = Taps()
    repository = make_repository(tmp_path, wrap=taps)
    chosen = settings(spool_limit=4 * MB, request_timeout=1.0, slot_look=1.0)
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        streaming(repository, tmp_path / "spool", cluster, chosen) as running,
    ):
        running.wait_durable(cluster.write_wal(10))
        taps.by_name["local"].closed = True
        for _ in range(8):
            end = cluster.write_wal(20_000)
        now = running.wait(lambda now: now.back_pressure, "back pressure")
        assert now.received_lsn < Lsn.parse(end)
        began = time.monotonic()
        cluster.stop()
        assert not cluster.running
        assert time.monotonic() - began < 40
        assert (running.stream.statistics().acknowledged_lsn or 0) < Lsn.parse(end)
        taps.by_name["local"].closed = False
        cluster.start()
        running.wait_durable(cluster.write_wal(10))
        assert not running.stream.statistics().gaps
        held = catalog(repository, cluster.system_id, size=MB)
        assert len(held.coverage.ranges()) == 1
