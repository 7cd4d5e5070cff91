"""Restores of clusters that are not laid out the simple way: tablespaces, configuration in /etc, an S3 store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from replicator.core.progress import silent
from replicator.core.target import RecoveryTarget, TargetKind
from replicator.errors import UsageError
from replicator.policy import SecretRef, StorePolicy, TolerancePolicy
from replicator.postgres.binaries import find_binaries
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.query import SqlConnection
from replicator.restore.access import StoreAccess, keyring_of_json, keyring_to_json, repository_of
from replicator.restore.job import RestoreJob
from replicator.restore.plan import PlanRequest
from replicator.restore.run import restore
from replicator.snapshot.job import TakeJob
from replicator.snapshot.take import take
from tests.clusters import OWNER, binaries, cluster_base, have_binaries, make_cluster, own, run_as_owner
from tests.repositories import make_repository
from tests.restore.story import Story, ask, stop
from tests.servers import S3Server, moto_server
from tests.stream.streams import SLOT, RunningStream, settings

pytestmark = [pytest.mark.server, pytest.mark.skipif(not have_binaries(), reason="no PostgreSQL binaries")]
LATEST = RecoveryTarget(TargetKind.LATEST)


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[Story, int, Path]]:
    """A cluster with a tablespace, whose configuration lies outside its data directory: with the tablespace's OID."""
    with cluster_base() as base, make_cluster(base, wal_segsize_mb=1, start=False) as cluster:
        etc, space = base / "etc", base / "old space"
        etc.mkdir()
        space.mkdir()
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(cluster.directory / name, etc / name)
        with (etc / "postgresql.conf").open("a") as conf:
            conf.write(f"data_directory = '{cluster.directory}'\nhba_file = '{etc}/pg_hba.conf'\n")
            conf.write(f"ident_file = '{etc}/pg_ident.conf'\nmax_connections = 57\n")
            conf.write(f"port = {cluster.port}\nunix_socket_directories = '{cluster.home}'\n")
        own(etc)
        own(space)
        program = binaries().program("pg_ctl")
        run_as_owner([program, "start", "-w", "-s", "-D", etc, "-l", base / "log"])
        story = Story(base, make_repository(base))
        running = RunningStream(story.repository, base / "spool", lambda: cluster, settings()).start()
        try:
            cluster.sql(f"CREATE TABLESPACE bukti LOCATION '{space}'")
            cluster.sql("CREATE TABLE kegiatan (id bigint) TABLESPACE bukti")
            cluster.sql("INSERT INTO kegiatan SELECT generate_series(1, 5000)")
            running.wait(lambda seen: seen.state == "streaming", "streaming")
            job = TakeJob(
                story.repository,
                lambda: ReplicationConnection.connect(
                    cluster.conninfo(), None, application_name="t", connect_timeout=60
                ),
                lambda: SqlConnection(cluster.conninfo(), None),
                SLOT,
                base / "state",
            )
            take(job, silent, Event())
            cluster.sql("INSERT INTO kegiatan SELECT generate_series(5001, 6000)")
            running.wait_durable(cluster.lsn())
            oid = int(cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'bukti'"))
        finally:
            running.stop()
        cluster.crash()
        yield story, oid, space


def test_a_tablespace_and_no_configuration(odd: tuple[Story, int, Path]) -> None:
    """The tablespace goes where it is told, not where it was; minimal configuration lets the owner in and starts."""
    story, oid, old = odd
    with cluster_base() as base:
        with pytest.raises(UsageError) as refused:
            restore(story.job(LATEST, base / "data"))
        assert str(oid) in refused.value.message
        shutil.rmtree(old)
        result = restore(story.job(LATEST, base / "data", tablespaces={oid: base / "new space"}))
        try:
            assert ask(result, "SELECT count(*) FROM kegiatan") == "6000"
            assert ask(result, f"SELECT pg_tablespace_location({oid})") == str(base / "new space")
            assert ask(result, "SHOW max_connections") == "57"
            assert (base / "data/pg_hba.conf").exists()
            assert any("pg_hba.conf" in note for note in result.notes)
            assert not old.exists()
        finally:
            stop(result)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """An S3 server."""
    with moto_server() as server:
        yield server


def test_an_s3_store_restores_with_its_access_written_down(s3: S3Server, tmp_path: Path) -> None:
    """Credentials and keys survive the recovery directory's form, and stay out of every representation."""
    from tests.restore.story import told

    with cluster_base() as base, told(base, 1, failover=False) as story:
        policy = StorePolicy(
            name="offsite",
            url=f"s3://{s3.bucket}/deep",
            endpoint=s3.endpoint,
            region="us-east-1",
            access_key=SecretRef(file=_secret(tmp_path / "access", s3.access_key)),
            secret_key=SecretRef(file=_secret(tmp_path / "secret", s3.secret_key)),
        )
        access = StoreAccess.resolved(policy, TolerancePolicy())
        assert s3.secret_key not in repr(access)
        again = StoreAccess.of_json(access.to_json())
        keyring = keyring_of_json(keyring_to_json(story.repository.keyring))
        remote = repository_of("frk", keyring, again)
        for info in story.repository.store("local").list(""):
            remote.store("offsite").put(info.name, story.repository.store("local").get(info.name))
        job = RestoreJob(
            remote,
            {"offsite": again},
            PlanRequest("frk", LATEST),
            base / "data",
            find_binaries,
            start=True,
            owner=OWNER,
        )
        result = restore(job)
        try:
            assert ask(result, "SELECT max(id) FROM kegiatan") == str(story.last)
        finally:
            stop(result)


def _secret(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path
