"""The stream of one cluster: from its primary through the spool to every store.

Owns promises 1, 3 and 6 on the way in: what is acknowledged, what is sealed when, and that no gap is silent.
"""

from replicator.stream.cluster_stream import ClusterStream, Worker
from replicator.stream.settings import StreamSettings
from replicator.stream.statistics import Problem, StoreStreamStatistics, StreamStatistics

__all__ = [
    "ClusterStream",
    "Problem",
    "StoreStreamStatistics",
    "StreamSettings",
    "StreamStatistics",
    "Worker",
]
