"""A store newly added, a store that was away, and new keys, as an operator meets them: in the end each store alone and
each secret alone gives back every row.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from tests.clusters import OWNER, cluster_base, have_binaries, make_cluster
from tests.e2e.site import COMMAND, Site, site_of
from tests.httpproxy import http_proxy_to
from tests.servers import moto_server

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]


def store(name: str, url: str) -> str:
    """A store's table."""
    return "\n".join(["[[store]]", f'name = "{name}"', f'url = "{url}"', ""])


def rows(port: int) -> int:
    """How many rows a restored server has."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") as connection:
        found = connection.execute("SELECT count(*) FROM kegiatan").fetchone()
    assert found is not None
    return int(found[0])


def private(path: Path, text: str) -> Path:
    """A file of a secret."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def restart(site: Site) -> None:
    """End the daemon in order and start it again."""
    assert site.kill_daemon(15) == 0
    site.start_daemon()


def test_new_store_and_new_keys() -> None:
    """After rotation, a new recipient and a new store: identity and store, or sheet and store, restore everything."""
    identity = new_x25519()
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster, passphrase="rahasia") as site,
    ):
        local = store("local", f"file://{site.base}/local")
        site.write_policy(stores=local)
        sheet = site.base / "sheet"
        site.run("init", "frk", "--sheet", str(sheet))
        cluster.write_wal(500)
        site.start_daemon()
        first = site.run("snapshot", "take", "frk")
        assert site.run("key", "rotate", "frk")["stores"] == {"local": "added"}
        site.run("key", "add", "frk", key_text(SEALING, x25519_public(identity)), "--label", "kantor")
        cluster.write_wal(500)
        second = site.run("snapshot", "take", "frk")
        assert second["parent"] == first["label"]
        offsite = store("offsite", f"file://{site.base}/offsite")
        site.write_policy(stores=local + offsite)
        site.run("init", "frk")
        restart(site)
        site.shipped(cluster.write_wal(500))
        done = site.run("mirror", "frk")
        assert done["stores"]["offsite"]["snapshots"] == 2
        tested = site.run("key", "test", "frk", "--sheet", str(sheet))
        assert tested["ok"]
        assert {len(trial["keys"]) for trial in tested["trials"]} == {2}
        listed = site.run("key", "list", "frk")
        assert len(listed["keys"]) == 2
        passphrase = next(row["id"] for row in listed["recipients"] if row["type"] == "passphrase")
        refused = site.run("key", "remove", "frk", passphrase, "--yes", code=8)
        assert "one that stays" in refused["error"]["hint"]
        site.run("key", "remove", "frk", passphrase, "--yes", "--sheet", str(sheet))
        assert site.run("key", "test", "frk", code=7)["ok"] is False
        (site.base / "local").rename(site.base / "lost")
        secret = private(site.base / "identity", key_text(SEALING_SECRET, identity))
        restored = site.restore("--latest", "--store", "offsite", "--identity", str(secret))
        assert rows(restored["port"]) == 1500
        site.stop_restored()
        by_sheet(site, sheet)


def by_sheet(site: Site, sheet: Path) -> None:
    """Without a policy: the sheet and the store's URL alone."""
    owner = ["--owner", OWNER] if OWNER else []
    into = site.base / "bysheet"
    line = [*COMMAND, "restore", "frk", "--sheet", str(sheet), "--store", f"file://{site.base}/offsite", "--into",
            str(into), "--latest", *owner]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert (into / "global/pg_control").exists()


@pytest.mark.s3
def test_daemon_completes_a_store_that_was_away() -> None:
    """A snapshot that one store missed is there soon after the store is back, without anybody's doing."""
    with (
        cluster_base() as base,
        make_cluster(base, wal_segsize_mb=1) as cluster,
        site_of(base, cluster) as site,
        moto_server() as server,
        http_proxy_to(server.port) as proxy,
    ):
        site.write_policy(stores=site.directory_store() + site.s3_store(server, port=proxy.port))
        policy = site.policies / "frk.toml"
        policy.write_text(policy.read_text() + 'breaker_failures = 2\nbreaker_reset = "1s"\n')
        site.run("init", "frk")
        site.start_daemon()
        site.run("snapshot", "take", "frk")
        cluster.write_wal(500)
        proxy.say((503, "SlowDown"))
        site.wait(lambda: site.status()["stores"]["offsite"]["breaker"] == "open")
        taken = site.run("snapshot", "take", "frk", code=6)
        assert taken["stores"] == ["local"]
        proxy.resume()

        def complete() -> bool:
            listed = site.run("snapshot", "list", "frk", code=None)
            return all(sorted(row["stores"]) == ["local", "offsite"] for row in listed)

        site.wait(complete, 120)
        site.shipped(cluster.write_wal(100))
        restored = site.restore("--latest", "--store", "offsite", "--snapshot", taken["label"])
        assert rows(restored["port"]) == 600
        site.stop_restored()
        assert '"mirror"' in (site.base / "daemon.log").read_text()
