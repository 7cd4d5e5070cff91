"""A host that knows only recipients: it writes, across restarts, and reads nothing; an identity elsewhere restores."""

import psycopg

from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, new_x25519, x25519_public
from tests.clusters import OWNER, cluster_base, make_cluster
from tests.e2e.site import site_of


def test_writes_across_restarts_and_reads_nothing() -> None:
    """Full and incremental snapshots and a stream over two processes, without anything on this host that opens them."""
    identity = new_x25519()
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1) as cluster, site_of(base, cluster) as site:
        (site.policies / "frk.identity").unlink()
        site.write_policy(encryption=f'recipients = ["{key_text(SEALING, x25519_public(identity))}"]')
        cluster.write_wal(500)
        site.run("init", "frk", "--sheet", str(site.base / "sheet"))
        site.start_daemon()
        first = site.run("snapshot", "take", "frk")
        site.kill_daemon(15)
        cluster.write_wal(500)
        site.start_daemon()
        second = site.run("snapshot", "take", "frk")
        assert second["parent"] == first["label"]
        assert second["added_bytes"] < first["added_bytes"] / 2
        site.shipped(cluster.write_wal(500))
        owner = ["--owner", OWNER] if OWNER else []
        into = ["restore", "frk", "--into", str(site.base / "refused"), "--latest", *owner]
        assert "identity" in site.run(*into, code=7)["error"]["hint"]
        assert not (site.base / "refused").exists()
        secret = site.base / "identity"
        secret.write_text(key_text(SEALING_SECRET, identity))
        secret.chmod(0o600)
        restored = site.restore("--latest", "--identity", str(secret))
        with psycopg.connect(f"host=127.0.0.1 port={restored['port']} user=postgres dbname=postgres") as connection:
            assert connection.execute("SELECT count(*) FROM kegiatan").fetchone() == (1500,)
        site.stop_restored()
        held = {path.name for path in site.policies.iterdir()}
        assert held == {"frk.toml", "daemon.toml", "frk.password", "writer.key"}
