"""Deadlines, retries with a budget, breakers, bulkheads and host locks: how one slow or dead part holds up no other.

Owns waiting and giving up. Never knows what is called: callers pass a callable and get its result or a typed error.
"""

from replicator.tolerance.breaker import Breaker, BreakerState, BreakerStatistics
from replicator.tolerance.bulkhead import Bulkhead, BulkheadStatistics
from replicator.tolerance.clock import Clock, SystemClock
from replicator.tolerance.deadline import Deadline
from replicator.tolerance.hostlock import only_one
from replicator.tolerance.retry import Retry, RetryStatistics

__all__ = [
    "Breaker",
    "BreakerState",
    "BreakerStatistics",
    "Bulkhead",
    "BulkheadStatistics",
    "Clock",
    "Deadline",
    "Retry",
    "RetryStatistics",
    "SystemClock",
    "only_one",
]
