"""What a proof costs: every object read and opened beside openssl and zstd, a drill beside the same steps by hand, and
the comparison of every row.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loss import s3_stores
from measure import Row, against, alone

from replicator.postgres.binaries import environment
from tests.clusters import OWNER, TestCluster, make_cluster, run_as_owner
from tests.e2e.site import Site, site_of
from tests.servers import rclone_server

_KEY = ("-K", "00" * 32, "-iv", "00" * 16)
_CONF = {"shared_buffers": "256MB", "max_wal_size": "4GB", "max_locks_per_transaction": "256"}
_OWNER = ("--owner", OWNER) if OWNER else ()


class Proof:
    """One cluster with `megabytes` of tables, two snapshots of it in a directory and in S3."""

    def __init__(self, base: Path, megabytes: int, say: Callable[[str], None]) -> None:
        self._base, self._megabytes, self._say = base, megabytes, say

    def rows(self, pairs: int) -> list[Row]:
        """Objects in both stores, a drill, a comparison."""
        with (
            rclone_server(self._base / "s3") as s3,
            make_cluster(self._base, conf=_CONF) as cluster,
            site_of(self._base, cluster) as site,
        ):
            s3_stores(site, s3)
            with (site.policies / "frk.toml").open("a") as policy:
                policy.write(f'[verify]\nscratch = "{self._scratch()}"\n')
            self._fill(cluster)
            site.run("init", "frk", "--sheet", str(site.base / "sheet"))
            site.start_daemon()
            site.run("snapshot", "take", "frk", timeout=600)
            cluster.sql("UPDATE kegiatan SET id = id WHERE id % 1000 = 0")
            site.run("snapshot", "take", "frk", timeout=600)
            site.shipped(cluster.write_wal(10, table="akhir"))
            site.kill_daemon()
            found = self._objects(site, cluster, pairs)
            return [*found, self._drill(site, cluster, pairs), self._compare(site)]

    def _scratch(self) -> Path:
        scratch = self._base / "scratch"
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o711)
        return scratch

    def _fill(self, cluster: TestCluster) -> None:
        """Text that compresses about 2:1."""
        self._say(f"making {self._megabytes} MB of tables")
        cluster.sql("CREATE TABLE kegiatan (id bigint PRIMARY KEY, isi text, angka double precision)")
        cluster.sql("ALTER TABLE kegiatan ALTER isi SET STORAGE plain")
        cluster.sql(
            "INSERT INTO kegiatan SELECT g, md5(g::text) || repeat(md5((g %% 5000)::text), 3) || md5(random()::text)"
            " || repeat('penelitian ', 10), random() FROM generate_series(1, %s) g",
            (self._megabytes * 2600,),
        )
        cluster.sql("VACUUM ANALYZE kegiatan")
        cluster.sql("CHECKPOINT")

    def _objects(self, site: Site, cluster: TestCluster, pairs: int) -> list[Row]:
        sealed = self._base / "peer.zst.enc"
        secret = " ".join(_KEY)
        shell(f"tar -C {cluster.directory} -c base | zstd -3 -q -c | openssl enc -aes-256-ctr {secret} -out {sealed}")
        stored = sum(path.stat().st_size for path in (site.base / "local").rglob("*") if path.is_file())
        ours: dict[str, list[float]] = {"local": [], "offsite": []}
        peer: list[float] = []
        for turn in range(pairs):
            for store, figures in ours.items():
                seconds = float(site.run("verify", "frk", "--objects", "--store", store, timeout=600)
                                ["levels"]["objects"]["elapsed_s"])  # fmt: skip
                figures.append(stored / 1e6 / seconds)
                self._say(f"objects {turn + 1}: {store} {figures[-1]:.0f} MB/s of sealed bytes")
            seconds = shell(f"openssl enc -d -aes-256-ctr {secret} -in {sealed} | zstd -d -q -c > /dev/null")
            peer.append(sealed.stat().st_size / 1e6 / seconds)
            self._say(f"objects {turn + 1}: openssl | zstd {peer[-1]:.0f} MB/s of sealed bytes")
        sealed.unlink()
        work = f"verify --objects over {stored / 1e6:.0f} MB of sealed objects"
        tail = "MB/s; peer: openssl aes-256-ctr | zstd -d"
        return [
            against(f"{work}, a directory, {tail}", ours["local"], peer, target=1.2, better="higher"),
            against(f"{work}, S3 (rclone), {tail}", ours["offsite"], peer, target=0.8, better="higher"),
        ]

    def _drill(self, site: Site, cluster: TestCluster, pairs: int) -> Row:
        ours: list[float] = []
        peer: list[float] = []
        for turn in range(pairs):
            for figures, step in ((ours, self._drilled), (peer, self._by_hand)):
                began = time.monotonic()
                step(site, cluster)
                figures.append(time.monotonic() - began)
            self._say(f"drill {turn + 1}: {ours[-1]:.2f} s, by hand {peer[-1]:.2f} s")
        work = "verify --drill, s; peer: restore --start, pg_dump, pg_amcheck, stop, pg_checksums, rm by hand"
        return against(work, ours, peer, target=1.3, better="lower")

    def _drilled(self, site: Site, _cluster: TestCluster) -> None:
        site.run("verify", "frk", "--drill", "--store", "local", "--seed", "1", *_OWNER, timeout=600)

    def _by_hand(self, site: Site, cluster: TestCluster) -> None:
        result = site.restore("--latest", "--store", "local", name="by-hand")
        place = ("-h", "127.0.0.1", "-p", result["port"], "-U", "postgres")
        program, data = cluster.binaries.program, site.base / "by-hand"
        run_as_owner(["sh", "-c", '"$@" > /dev/null', "sh", program("pg_dump"), *place, "postgres"], timeout=600)
        run_as_owner([program("pg_amcheck"), *place, "--all", "--install-missing"], timeout=600)
        site.stop_restored("by-hand")
        run_as_owner([program("pg_checksums"), "--check", "-D", data], timeout=600)
        shutil.rmtree(data)

    def _compare(self, site: Site) -> Row:
        site.run("verify", "frk", "--compare", *_OWNER, timeout=900)
        facts: dict[str, Any] = site.run("record", "show", "frk")["facts"]
        rate = facts["bytes"] / 1e6 / facts["phases"]["compare"]
        self._say(f"compare: {facts['bytes'] / 1e6:.0f} MB of tables at {rate:.0f} MB/s; phases {facts['phases']}")
        return alone("verify --compare, the rows of two restores, MB/s of table data", rate, target=150, runs=1,
                     better="higher")  # fmt: skip


def shell(line: str) -> float:
    """Run a pipeline to its end: its seconds."""
    began = time.monotonic()
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], env={**os.environ, **environment()},
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{line} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - began
