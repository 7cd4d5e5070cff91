"""A source that is ill already: what is wrong with it is found and named by snapshot, drill and comparison."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clusters import OWNER, TestCluster, cluster_base, have_binaries, make_cluster
from tests.e2e.site import Site, site_of

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
_OWNER = ["--owner", OWNER] if OWNER else []
#: Never due while this runs: only the first snapshot, which is taken at once.
_SCHEDULE = '[snapshot]\nschedule = "0 2 29 2 *"\n'
TORN, LOST, WELL = "robek", "hilang", "utuh"


def sicken(cluster: TestCluster) -> dict[str, str]:
    """A torn page, a relation file that is gone, an index that no longer fits its table; the tables' paths."""
    for name in (TORN, LOST, WELL):
        cluster.sql(f"CREATE TABLE {name} AS SELECT g AS id, md5(g::text) AS isi FROM generate_series(1, 2000) g")
    cluster.sql("CREATE FUNCTION arah(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
    cluster.sql(f"CREATE INDEX urut ON {WELL} (arah(id))")
    cluster.sql("CREATE OR REPLACE FUNCTION arah(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -$1'")
    paths = {name: cluster.value(f"SELECT pg_relation_filepath('{name}')") for name in (TORN, LOST)}
    cluster.sql("CHECKPOINT")
    cluster.stop()
    with (cluster.directory / paths[TORN]).open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"rusak")
    (cluster.directory / paths[LOST]).unlink()
    cluster.start()
    return paths


@pytest.fixture(scope="module")
def ill() -> Iterator[tuple[Site, dict[str, str], dict[str, Any]]]:
    """A sick source with a daemon that took the first snapshot of its schedule; the paths of its tables, and what
    `snapshot take` said.
    """
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as site:
        paths = sicken(cluster)
        text = (site.policies / "frk.toml").read_text()
        (site.policies / "frk.toml").write_text(f'{text}{_SCHEDULE}\n[verify]\nscratch = "{site.base}/scratch"\n')
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        site.wait(lambda: "page_checksum" in {found["code"] for found in site.status()["problems"]}, 120)
        taken = site.run("snapshot", "take", "frk", code=4)
        site.shipped(cluster.write_wal(10))
        yield site, paths, taken


def wrong(found: dict[str, Any], level: str) -> dict[str, str]:
    """Code to all texts of what is wrong."""
    texts: dict[str, str] = {}
    for finding in found["levels"][level]["findings"]:
        if finding["affects"] is not None:
            texts[finding["code"]] = f"{texts.get(finding['code'], '')}\n{finding['text']}"
            assert finding["hint"]
    return texts


def test_a_snapshot_names_the_torn_page(ill: tuple[Site, dict[str, str], dict[str, Any]]) -> None:
    """It is complete, marked as damaged, names the file and exits with 4."""
    site, paths, taken = ill
    assert taken["damaged"]
    assert any(paths[TORN] in finding["text"] for finding in taken["findings"])
    assert [row["damaged"] for row in site.run("snapshot", "list", "frk")] == [True, True]


def test_the_schedule_reports_the_torn_page(ill: tuple[Site, dict[str, str], dict[str, Any]]) -> None:
    """The scheduled snapshot's page is a problem of status that names file and block, and metrics are not well."""
    site, paths, _ = ill
    (problem,) = (found for found in site.status()["problems"] if found["code"] == "page_checksum")
    assert re.search(rf"{re.escape(paths[TORN])}\b.*\bblock 1\b", problem["text"])
    assert "damaged" in problem["hint"]

    def metrics() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    assert metrics()["replicator_problems"] >= 1
    assert metrics()["replicator_ok"] == 0
    done = site.command("status", "frk")
    assert done.returncode == 4
    assert paths[TORN] in done.stdout + done.stderr


def test_a_drill_names_everything(ill: tuple[Site, dict[str, str], dict[str, Any]]) -> None:
    """Both tables that can't be read, the page, and the index: exit 4, and nothing else is blamed."""
    site, paths, _ = ill
    texts = wrong(site.run("verify", "frk", "--drill", *_OWNER, "--seed", "1", code=4), "drill")
    assert set(texts) == {"table_unreadable", "index_corrupt", "page_corrupt"}, texts
    assert TORN in texts["table_unreadable"]
    assert LOST in texts["table_unreadable"]
    assert "urut" in texts["index_corrupt"]
    assert paths[TORN].rpartition("/")[2] in texts["page_corrupt"]
    assert WELL not in texts["table_unreadable"]


def test_a_comparison_names_what_it_can_not_read(ill: tuple[Site, dict[str, str], dict[str, Any]]) -> None:
    """A table that can't be read is not equal to anything."""
    site, _, _ = ill
    texts = wrong(site.run("verify", "frk", "--compare", *_OWNER, "--seed", "1", code=4), "compare")
    assert TORN in texts["table_unreadable"]
    assert LOST in texts["table_unreadable"]
