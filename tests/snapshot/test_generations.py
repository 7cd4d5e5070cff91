"""Generations of incremental snapshots of a server that never rests: every block of each is the server's own."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from threading import Event

import psycopg
import pytest

from replicator.core.progress import silent
from replicator.repository.repository import Repository
from replicator.snapshot.job import TakeResult
from replicator.snapshot.take import take
from replicator.store.protocol import Store
from tests.clusters import TestCluster
from tests.snapshot.support import shipping, take_job, verify_tree

pytestmark = pytest.mark.server

GENERATIONS = 5
SEED = 20261122


class Churn:
    """Random changes of every kind that a relation's files can go through."""

    def __init__(self, cluster: TestCluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._made = 0
        self._tables: list[str] = []

    def turn(self, count: int) -> None:
        """That many random changes."""
        rare = (self._drop, self._truncate, self._shrink, self._rewrite)
        for _ in range(count):
            self._chance.choice((self._make, self._make, self._grow, self._touch, *rare))()
        self._cluster.sql("CHECKPOINT")

    def _any(self) -> str:
        if not self._tables:
            self._make()
        return self._chance.choice(self._tables)

    def _make(self) -> None:
        name = f"acak_{self._made}"
        self._made += 1
        rows = self._chance.randrange(1, 10_000)
        self._cluster.sql(
            f"CREATE TABLE {name} AS SELECT n AS id, md5(n::text) AS isi FROM generate_series(1, {rows}) AS n"
        )
        self._cluster.sql(f"CREATE INDEX ON {name} (isi)")
        self._tables.append(name)

    def _drop(self) -> None:
        name = self._any()
        self._tables.remove(name)
        self._cluster.sql(f"DROP TABLE {name}")

    def _truncate(self) -> None:
        name = self._any()
        self._cluster.sql(f"TRUNCATE {name}")
        self._cluster.sql(f"INSERT INTO {name} VALUES (1, 'satu')")

    def _shrink(self) -> None:
        name = self._any()
        self._cluster.sql(f"DELETE FROM {name} WHERE id > {self._chance.randrange(1, 5000)}")
        self._cluster.sql(f"VACUUM {name}")

    def _rewrite(self) -> None:
        self._cluster.sql(f"VACUUM FULL {self._any()}")

    def _grow(self) -> None:
        rows = self._chance.randrange(1, 10_000)
        self._cluster.sql(f"INSERT INTO {self._any()} SELECT n, md5(n::text) FROM generate_series(1, {rows}) AS n")

    def _touch(self) -> None:
        self._cluster.sql(f"UPDATE {self._any()} SET isi = upper(isi) WHERE id % {self._chance.randrange(2, 90)} = 0")


class Writing(threading.Thread):
    """Writes to one table without pause, so that files change while they are read."""

    def __init__(self, cluster: TestCluster) -> None:
        super().__init__(name="writing")
        self._cluster, self._ending = cluster, Event()

    def __enter__(self) -> Writing:
        self._cluster.sql("CREATE TABLE ramai (id bigserial PRIMARY KEY, isi text)")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(60)

    def run(self) -> None:
        """Until left."""
        with psycopg.connect(self._cluster.conninfo(), autocommit=True) as connection:
            while not self._ending.wait(0.02):
                connection.execute(
                    b"INSERT INTO ramai (isi) SELECT repeat(md5(random()::text), 20) FROM generate_series(1, 20)"
                )
                connection.execute(b"UPDATE ramai SET isi = 'x' WHERE id % 17 = 0 AND isi <> 'x'")
                connection.execute(b"DELETE FROM ramai WHERE id % 13 = 0")


def test_five_generations_under_load(
    primary: TestCluster, repository: Repository, stores: dict[str, Store], tmp_path: Path
) -> None:
    """Tables made, dropped, truncated, shrunk, rewritten and grown between takes, one written during them: each
    generation's tree is what the server's manifest says, file by file, also the older ones once all are taken.
    """
    churn, results = Churn(primary, SEED), list[TakeResult]()
    with shipping(primary, repository), Writing(primary):
        for _ in range(GENERATIONS):
            churn.turn(8)
            job = take_job(primary, repository, tmp_path / "state", store_deadline_s=60, wal_deadline_s=60)
            results.append(take(job, silent, Event()))
    labels = [result.row.snapshot.label for result in results]
    assert [result.row.parent for result in results] == [None, *labels[:-1]]
    for number, result in enumerate(results):
        assert result.findings == ()
        store = stores["local" if number % 2 else "offsite"]
        verify_tree(repository, store, result, tmp_path / f"tree-{number}")
