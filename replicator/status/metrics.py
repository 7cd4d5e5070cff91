"""The status as Prometheus metrics. Names and labels are an interface: dashboards and alerts bind to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from replicator.status.model import ClusterStatus, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BREAKERS = {"closed": 0.0, "half-open": 0.5, "open": 1.0}

_CLUSTER = ("cluster",)
_STORE = ("cluster", "store")
#: Name without `replicator_` → (labels, help).
GAUGES = {
    "up": (_CLUSTER, "1 while the cluster streams"),
    "ok": (_CLUSTER, "1 while status shows no problem"),
    "stream_lag_bytes": (_STORE, "WAL received that the store does not hold, bytes"),
    "stream_lag_seconds": (_STORE, "age of the oldest WAL byte that the store does not hold"),
    "received_lsn": (_CLUSTER, "end of the WAL received, as a byte number"),
    "flushed_lsn": (_CLUSTER, "end of the WAL fsynced in the spool, as a byte number"),
    "acknowledged_lsn": (_CLUSTER, "flush position told to the primary, as a byte number"),
    "durable_lsn": (_STORE, "end of the WAL that the store holds, as a byte number"),
    "spool_bytes": (_CLUSTER, "size of the spool"),
    "only_in_spool_bytes": (_CLUSTER, "acknowledged WAL that no store has"),
    "back_pressure": (_CLUSTER, "1 while the spool is at its limit and the primary keeps the WAL"),
    "slot_safe_bytes": (_CLUSTER, "WAL that may still be written before the slot is endangered"),
    "slot_safe_seconds": (_CLUSTER, "how long that lasts at the rate of the last looks; infinity: it does not shrink"),
    "gaps": (_STORE, "open gaps in the store's coverage"),
    "breaker_open": (("cluster", "endpoint"), "1 while the endpoint is left alone, 0.5 while it is tried"),
    "snapshots": (_CLUSTER, "snapshots in the stores"),
    "snapshot_age_seconds": (_CLUSTER, "since the newest snapshot was begun"),
    "proof_age_seconds": (("cluster", "kind"), "since the repository was last proven"),
    "replica_lag_bytes": (("cluster", "replica"), "WAL that the replica has not replayed"),
    "problems": (_CLUSTER, "problems that status shows"),
}


@dataclass(frozen=True, eq=False)
class _Collector:
    status: Status
    now: datetime

    def collect(self) -> Iterator[Metric]:
        """All families; one without a known value is empty, never 0."""
        gauges = {
            name: GaugeMetricFamily(f"replicator_{name}", text, labels=labels)
            for name, (labels, text) in GAUGES.items()
        }
        retries = CounterMetricFamily(
            "replicator_retries", "requests that were made again", labels=("cluster", "endpoint")
        )
        for cluster, status in self.status.clusters.items():
            for name, labels, value in _values(cluster, status, self.now):
                if value is not None:
                    gauges[name].add_metric(labels, float(value))
            for endpoint, count in status.retries.items():
                retries.add_metric((cluster, endpoint), count)
        yield from gauges.values()
        yield retries


_Value = tuple[str, tuple[str, ...], float | None]


def _values(cluster: str, status: ClusterStatus, now: datetime) -> Iterator[_Value]:
    here = (cluster,)
    stream = status.stream
    yield "up", here, status.source.state == "streaming"
    yield "ok", here, status.ok
    yield "problems", here, len(status.problems)
    yield "received_lsn", here, stream.received_lsn
    yield "flushed_lsn", here, stream.flushed_lsn
    yield "acknowledged_lsn", here, stream.acknowledged_lsn
    yield "spool_bytes", here, stream.spool_bytes
    yield "only_in_spool_bytes", here, stream.only_in_spool_bytes
    yield "back_pressure", here, stream.back_pressure
    left, seconds = status.slot_room
    yield "slot_safe_bytes", here, left if left is not None else status.source.safe_wal_bytes
    yield "slot_safe_seconds", here, seconds
    yield "snapshots", here, status.snapshots.count
    yield "snapshot_age_seconds", here, _age(status.snapshots.last, now)
    for kind, proof in status.proofs.items():
        age = None if proof.time is None else max(0.0, (now - proof.time).total_seconds())
        yield "proof_age_seconds", (cluster, kind), age
    for name, replica in status.replicas.items():
        yield "replica_lag_bytes", (cluster, name), replica.lag_bytes
    for name, store in status.stores.items():
        place = (cluster, name)
        yield "stream_lag_bytes", place, store.lag_bytes
        yield "stream_lag_seconds", place, store.lag_s
        yield "durable_lsn", place, store.durable_lsn
        yield "gaps", place, None if store.gaps is None else sum(gap["open"] for gap in store.gaps)
        yield "breaker_open", place, None if store.breaker is None else _BREAKERS[store.breaker]


def _age(label: str | None, now: datetime) -> float | None:
    """Seconds since a label's time."""
    if label is None:
        return None
    begun = datetime.strptime(label, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return max(0.0, (now - begun).total_seconds())


def render(status: Status, now: datetime) -> bytes:
    """The text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status, now))
    return generate_latest(registry)
