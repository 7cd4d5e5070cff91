"""WAL and timeline histories that a store held when it was last verified and holds no more. Pure.

Owns how a record remembers them. What is absent on purpose, or named as missing already, is passed in and is no loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from replicator.core.coverage import Coverage, LsnRange
from replicator.core.lsn import Lsn
from replicator.verify.inventory import Holdings


def wal_json(holdings: Iterable[Holdings]) -> dict[str, dict[str, list[list[str]]]]:
    """As it stands in a record: by system id and timeline."""
    return {
        str(held.system_id): {
            str(timeline): [[str(Lsn(start)), str(Lsn(end))] for start, end in pairs]
            for timeline, pairs in held.coverage.by_timeline.items()
        }
        for held in holdings
    }


def wal_of_json(value: Mapping[str, Any]) -> dict[int, Coverage]:
    """The reverse. Raises ValueError, TypeError, AttributeError, UsageError for what makes no sense."""
    return {
        int(system_id): Coverage.of(
            (int(timeline), Lsn.parse(start), Lsn.parse(end))
            for timeline, pairs in timelines.items()
            for start, end in pairs
        )
        for system_id, timelines in value.items()
    }


def lost_wal(
    before: Mapping[int, Coverage], held: Mapping[int, Coverage], *accounted: Mapping[int, Coverage]
) -> Iterator[LsnRange]:
    """What was there `before`, is not `held` now, and is not `accounted` for."""
    for system_id, coverage in sorted(before.items()):
        known = Coverage.of()
        for found in (held, *accounted):
            known = known.union(found.get(system_id, Coverage.of()))
        for part in coverage.ranges():
            yield from known.missing(part.timeline, part.start, part.end)
