"""Drills as an operator runs them: by hand beside the daemon, killed in the middle, on a host that lacks something."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.clusters import OWNER, cluster_base, have_binaries, make_cluster
from tests.e2e.site import COMMAND, Site, site_of
from tests.verify.drills import processes_below

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries"),
]
VERIFY = """
[verify]
scratch = "{scratch}"
[[verify.probe]]
database = "postgres"
sql = "SELECT count(*) FROM kegiatan"
at_least = {least}
"""
_OWNER = ["--owner", OWNER] if OWNER else []


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A site with a running daemon, rows, and two snapshots."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as found:
        questions(found, 2000)
        found.run("init", "frk")
        found.start_daemon()
        for _ in range(2):
            cluster.write_wal(1000)
            found.run("snapshot", "take", "frk")
        found.shipped(cluster.write_wal(10))
        yield found


def questions(site: Site, least: int) -> None:
    """The policy's [verify], with a probe that wants so many rows."""
    path = site.policies / "frk.toml"
    text = path.read_text().partition("\n[verify]")[0]
    path.write_text(text + VERIFY.format(scratch=site.base / "scratch", least=least))
    path.chmod(0o600)


def left(site: Site) -> tuple[list[str], list[str]]:
    """What is in scratch, as files and as processes."""
    scratch = site.base / "scratch"
    return processes_below(scratch), sorted(path.name for path in scratch.iterdir())


def test_a_drill_and_a_comparison_prove_that_it_can_be_restored(site: Site) -> None:
    """Both exit with 0, and nothing of them stays; a probe that does not pass is exit 4."""
    found = site.run("verify", "frk", "--drill", "--compare", *_OWNER)
    assert {name: level["ok"] for name, level in found["levels"].items()} == {"drill": True, "compare": True}
    site.wait(lambda: left(site) == ([], []))  # a process that has stopped ends a moment later
    questions(site, 10**9)
    try:
        found = site.run("verify", "frk", "--drill", "--seed", "1", *_OWNER, code=4)
    finally:
        questions(site, 2000)
    assert [finding["code"] for finding in found["levels"]["drill"]["findings"]] == ["probe_failed"]


def test_what_the_host_lacks_has_its_own_code(site: Site) -> None:
    """The wrong PostgreSQL is exit 9 with a hint, and no traceback."""
    path = site.policies / "frk.toml"
    text = path.read_text()
    path.write_text(text.replace("[source]\n", f'[source]\nbinaries = "{site.base}/kosong"\n'))
    try:
        found = site.run("verify", "frk", "--drill", *_OWNER, code=9)
    finally:
        path.write_text(text)
    assert found["error"]["type"] == "BinariesMissing"
    assert found["error"]["hint"]


@pytest.mark.parametrize("moment", ["postmaster.pid", "PG_VERSION"])
def test_a_killed_drill_leaves_nothing(site: Site, moment: str) -> None:
    """SIGKILL while files are fetched, and while the server runs: no process, no file; the next drill is well."""
    line = [*COMMAND, "verify", "frk", "--drill", *_OWNER, "--policies", str(site.policies)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(line, stdout=quiet, stderr=quiet, stdin=quiet) as child:
        until = time.monotonic() + 120
        while not (seen := any(_found(site.base / "scratch", moment))) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
    assert seen
    site.wait(lambda: left(site) == ([], []))
    assert site.run("verify", "frk", "--drill", *_OWNER)["ok"]


def _found(scratch: Path, name: str) -> Iterator[Path]:
    with suppress(OSError):
        yield from scratch.glob(f"drill-*/data/{name}")
