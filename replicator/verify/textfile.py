"""The result of a verification for Prometheus' textfile collector. The file is replaced whole."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from replicator.errors import HostLacks
from replicator.verify.model import VerifyResult


def write_textfile(
    path: Path, cluster: str, result: VerifyResult, proofs: Mapping[str, datetime | None], now: datetime
) -> None:
    """Write the metrics of one run and the age of each kind's last proof. Raises HostLacks.

    Ages are as of this run: alert on `replicator_proof_timestamp_seconds`, which does not stand still.
    """
    registry = CollectorRegistry(auto_describe=False)
    labels = ("cluster", "level")
    ok = Gauge("replicator_verify_ok", "1 when the level found nothing wrong", labels, registry=registry)
    seconds = Gauge("replicator_verify_elapsed_seconds", "how long the level took", labels, registry=registry)
    wrong = Gauge("replicator_verify_findings", "what the level found wrong", labels, registry=registry)
    last = Gauge("replicator_verify_timestamp_seconds", "when the run ended", ("cluster",), registry=registry)
    kinds = ("cluster", "kind")
    age = Gauge("replicator_proof_age_seconds", "since the repository was last proven", kinds, registry=registry)
    since = Gauge("replicator_proof_timestamp_seconds", "when it was last proven", kinds, registry=registry)
    for name, level in result.levels.items():
        ok.labels(cluster, name).set(level.ok)
        seconds.labels(cluster, name).set(level.elapsed_s)
        wrong.labels(cluster, name).set(sum(finding.affects is not None for finding in level.findings))
    last.labels(cluster).set(now.timestamp())
    for kind, moment in proofs.items():
        if moment is not None:
            age.labels(cluster, kind).set(max(0.0, (now - moment).total_seconds()))
            since.labels(cluster, kind).set(moment.timestamp())
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise HostLacks(f"{path} can not be written: {reason}", hint="Check the path given to --textfile.") from error
