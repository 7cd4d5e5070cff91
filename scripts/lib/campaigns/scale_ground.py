"""What scripts/scale measures on: a repository of many segments and snapshots, every object of it sealed and signed as
always, written as files; and the S3 servers it is put behind.

The last segments are a real server's, with commits to be found in them; those before them hold zeros. Owns no figure.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from replicator.core.lsn import Lsn, Segment
from replicator.core.moment import to_microseconds
from replicator.core.snapshot import Snapshot, label_of
from replicator.repository.layout import PackId, begin_name, pack_name
from replicator.repository.manifests import FileEntry, MapRef, SnapshotFacts, write_manifest
from replicator.repository.wal import WalPart, seal_part
from replicator.seal.document import sign_as_writer
from replicator.seal.header import Compression, Header, Kind
from replicator.seal.keyring import Keyring
from replicator.seal.sealer import ObjectSealer
from replicator.seal.signature import SEALING, SEALING_SECRET, key_text, x25519_public
from tests.clusters import TestCluster, cluster_base, make_cluster, run_as_owner
from tests.repositories import make_repository
from tests.servers import S3Server, free_port, rclone_server

SIZE = 2**20
STORE = "offsite"
#: Seconds between two segments of the story, and snapshots from one full one to the next.
PACE_S, CHAIN = 30, 25
_PACKS = 2


@dataclass(frozen=True)
class Ground:
    """`base` holds the store's files and the policies. Segments up to `zeros` hold zeros, the last of them was written
    at `until`; `lsn` and `time` lie between two commits of the real WAL after it.
    """

    base: Path
    zeros: int
    until: datetime
    lsn: str
    time: datetime

    @property
    def root(self) -> Path:
        """The store: one folder per cluster."""
        return self.base / "stores" / STORE

    def moment(self, number: int) -> datetime:
        """When a segment of zeros was written."""
        return self.until - timedelta(seconds=PACE_S * (self.zeros - number))


def make_ground(base: Path, segments: int, snapshots: int, say: Callable[[str], None]) -> Ground:
    """Fill a new repository under `base`."""
    keyring = make_repository(base, names=(STORE,)).keyring
    until = datetime.now(UTC).replace(microsecond=0)
    with cluster_base() as home, make_cluster(home, wal_segsize_mb=1, conf=_KEEP, start=False) as cluster:
        real, lsn, moment = _real_wal(cluster, Segment(1, segments + 1, SIZE))
        system_id = cluster.system_id
    ground = Ground(base, segments, until, lsn, moment)
    writer = _Writer(ground, keyring, system_id)
    for number in range(1, segments + 1):
        writer.segment(number, _ZEROS, ground.moment(number))
        if number % 10_000 == 0:
            say(f"{number} segments")
    for number, (data, sent) in enumerate(real, segments + 1):
        writer.segment(number, data, sent)
    chain: list[PackId] = []
    parent: str | None = None
    for at in range(snapshots):
        full = at % CHAIN == 0
        parent, chain = writer.snapshot(1 + at * segments // snapshots, [] if full else chain, None if full else parent)
    say(f"{snapshots} snapshots")
    return ground


_ZEROS = bytes(SIZE)
_KEEP = {"wal_keep_size": "64MB"}


def _real_wal(cluster: TestCluster, first: Segment) -> tuple[list[tuple[bytes, datetime]], str, datetime]:
    """Four complete segments of a server that begins at `first`, each with commits, and when each was written; an LSN
    and a time between two commits of the third.
    """
    run_as_owner([cluster.binaries.program("pg_resetwal"), "-f", "-l", first.name, "-D", cluster.directory])
    cluster.start()
    segment = first
    found: list[tuple[bytes, datetime]] = []
    for number in range(4):
        lsn = cluster.write_wal(500)
        moment = datetime.now(UTC)
        cluster.write_wal(500)
        if number == 2:
            target = lsn, moment
        cluster.switch_wal()
        found.append(((cluster.directory / "pg_wal" / segment.name).read_bytes(), datetime.now(UTC)))
        segment = segment.next()
    return found, *target


class _Writer:
    """Writes objects as files: a store that syncs each would take most of the time."""

    def __init__(self, ground: Ground, keyring: Keyring, system_id: int) -> None:
        self._ground = ground
        self._keyring = keyring
        self._system_id = system_id

    def _put(self, name: str, data: bytes) -> None:
        path = self._ground.root / "frk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def segment(self, number: int, data: bytes, moment: datetime) -> None:
        """One complete segment, written until `moment`."""
        segment = Segment(1, number, SIZE)
        sent = to_microseconds(moment)
        part = WalPart(self._system_id, segment, segment.start, segment.end, sent - 10**6, sent, complete=True)
        content: list[bytes] = []
        view = memoryview(data)
        name = seal_part(
            self._keyring, Compression.ZSTD, 1, part, lambda at, size: bytes(view[at : at + size]), content.append
        )
        self._put(name, b"".join(content))

    def snapshot(self, number: int, before: list[PackId], parent: str | None) -> tuple[str, list[PackId]]:
        """A snapshot within one segment, with packs of its own: its label, and all packs that it needs."""
        begun = self._ground.moment(number)
        label = label_of(begun)
        packs = [*before, *(self._pack(label, at) for at in range(_PACKS))]
        snapshot = Snapshot(label, self._system_id, 1, Lsn(number * SIZE + 40), Lsn(number * SIZE + 5000))
        at = to_microseconds(begun)
        facts = SnapshotFacts(snapshot, "frk", parent, at, at + 10**6, 150018, SIZE, True, os.urandom(32))
        entries = [FileEntry("base/1", 0o600, 9, 3, 8192, tuple(MapRef(pack, 0, 0, 3) for pack in packs))]
        totals = {"bytes": 10**9, "added_bytes": 10**7, "files": 1}
        content: list[bytes] = []
        name = write_manifest(self._keyring, 3, facts, 1, entries, packs, totals, content.append)
        mark = begin_name(self._system_id, label, 1)
        body = {"host": "scale", "pid": 1, "process_start": "1", "parent": parent, "started": "2026-01-01T00:00:00Z"}
        self._put(mark, sign_as_writer(self._keyring, "begin", mark, body))
        self._put(name, b"".join(content))
        return label, packs

    def _pack(self, label: str, number: int) -> PackId:
        header = Header(
            Kind.PACK, self._keyring.cipher, Compression.NONE, self._keyring.repository_id, self._keyring.current, b"",
            self._system_id, label=label, attempt=1, number=number,
        )  # fmt: skip
        sealer = ObjectSealer(self._keyring, header, 3)
        name = pack_name(self._system_id, PackId(label, 1, number))
        self._put(name, sealer.head + sealer.frame(os.urandom(1000)) + sealer.finish(name))
        return PackId(label, 1, number)


def write_policy(ground: Ground, where: str, store: str) -> Path:
    """A directory with a policy whose store is `store`, the lines of its table."""
    policies = ground.base / where
    policies.mkdir(mode=0o700)
    identity = (ground.base / "identity").read_bytes()
    (policies / "identity").write_text(key_text(SEALING_SECRET, identity))
    (policies / "frk.toml").write_text(f"""
cluster = "frk"
[source]
conninfo = "host=127.0.0.1 port=1 user=replicator dbname=postgres"
[[store]]
name = "{STORE}"
{store}
[encryption]
recipients = ["{key_text(SEALING, x25519_public(identity))}"]
identity = {{ file = "{policies}/identity" }}
writer_key = {{ file = "{ground.base}/writer.key" }}
[stream]
spool = "{policies}/spool"
""")
    (policies / "daemon.toml").write_text(f'[api]\nlisten = "127.0.0.1:1"\n[state]\ndirectory = "{policies}/state"\n')
    for path in policies.iterdir():
        path.chmod(0o600)
    return policies


def s3_store(server: S3Server, port: int) -> str:
    """The lines of a store behind `port`."""
    return f"""url = "s3://{server.bucket}"
endpoint = "http://127.0.0.1:{port}"
region = "us-east-1"
access_key = {{ env = "SCALE_ACCESS_KEY" }}
secret_key = {{ env = "SCALE_SECRET_KEY" }}
"""


Load = Callable[[Iterator[Path]], None]


@contextmanager
def serving(kind: str, ground: Ground) -> Iterator[tuple[S3Server, Load]]:
    """A server, and what puts files of the ground into it."""
    match kind:
        case "moto":
            with _moto() as found:
                yield found[0], partial(_load_moto, ground, found[1])
        case "rclone":
            with rclone_server(ground.base / "stores", STORE) as server:
                yield server, lambda _: None  # the files are what it serves
        case _:
            server = _given()
            yield server, partial(_load_s3, ground, server)


@contextmanager
def _moto() -> Iterator[tuple[S3Server, Any]]:
    """moto within this process: real HTTP, and what it holds need not be sent to it one by one."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    try:
        backend = s3_backends["123456789012"]["aws"]
        backend.create_bucket(STORE, "us-east-1")
        yield S3Server(f"http://127.0.0.1:{port}", port, STORE, "scale", "scale-secret", True), backend
    finally:
        server.stop()


def _load_moto(ground: Ground, backend: Any, paths: Iterator[Path]) -> None:
    for path in paths:
        backend.put_object(STORE, path.relative_to(ground.root).as_posix(), path.read_bytes())


def _given() -> S3Server:
    """The server that the environment names, as for scripts/ceph-contract."""
    given = {key: os.environ.get(f"REPLICATOR_TEST_S3_{key}", "") for key in _GIVEN}
    if not all(given.values()):
        sys.exit(f"error: set {', '.join(f'REPLICATOR_TEST_S3_{key}' for key in _GIVEN)}")
    endpoint = given["ENDPOINT"]
    port = int(endpoint.rpartition(":")[2])
    return S3Server(endpoint, port, given["BUCKET"], given["ACCESS_KEY"], given["SECRET_KEY"], True)


_GIVEN = ("ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY")


def _load_s3(ground: Ground, server: S3Server, paths: Iterator[Path]) -> None:
    client = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(max_pool_connections=16, request_checksum_calculation="when_required"),
    )  # fmt: skip

    def put(path: Path) -> None:
        key = path.relative_to(ground.root).as_posix()
        client.put_object(Bucket=server.bucket, Key=key, Body=path.read_bytes())

    with ThreadPoolExecutor(16) as pool:
        while batch := list(islice(paths, 1000)):
            list(pool.map(put, batch))


__all__ = ["STORE", "Ground", "make_ground", "s3_store", "serving", "write_policy"]
