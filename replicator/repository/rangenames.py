"""Names of ranges and summaries (docs/format.md, sections 2 and 10). Pure; layout hands them on."""

from __future__ import annotations

import re
from typing import NamedTuple

from replicator.core.lsn import Lsn

_RANGE = re.compile(r"([1-9]\d{0,19})/ranges/wal-([0-9A-F]{8})-([0-9A-F]{16})-([0-9A-F]{16})-([0-9a-f]{16})\Z")
_SUMMARY = re.compile(r"([1-9]\d{0,19})/ranges/snapshots-(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)-([0-9a-f]{16})\Z")


class RangeName(NamedTuple):
    """Which complete segments a store holds of [start, end) of one timeline."""

    system_id: int
    timeline: int
    start: Lsn
    end: Lsn
    fingerprint: str


class SummaryName(NamedTuple):
    """What the tables of the manifests from one label to another say."""

    system_id: int
    first: str
    last: str
    fingerprint: str


RangesName = RangeName | SummaryName


def ranges_prefix(system_id: int) -> str:
    """All ranges and summaries."""
    return f"{system_id}/ranges/"


def range_name(found: RangeName) -> str:
    """A range."""
    span = f"{found.timeline:08X}-{found.start.hex16}-{found.end.hex16}"
    return f"{ranges_prefix(found.system_id)}wal-{span}-{found.fingerprint}"


def summary_name(found: SummaryName) -> str:
    """A summary."""
    return f"{ranges_prefix(found.system_id)}snapshots-{found.first}-{found.last}-{found.fingerprint}"


def parse_range_name(name: str) -> RangesName | None:
    """The reverse; None for any other name."""
    match = _RANGE.match(name)
    if match is not None:
        start, end = Lsn.from_hex16(match[3]), Lsn.from_hex16(match[4])
        timeline = int(match[2], 16)
        return RangeName(int(match[1]), timeline, start, end, match[5]) if timeline and start < end else None
    match = _SUMMARY.match(name)
    if match is None or match[2] > match[3]:
        return None
    return SummaryName(int(match[1]), match[2], match[3], match[4])
