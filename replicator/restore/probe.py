"""What a planner may ask of the WAL itself. A protocol: the real one fetches segments and runs pg_waldump."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from replicator.core.lsn import Lsn
from replicator.restore.route import Route


@dataclass(frozen=True, slots=True)
class Ended:
    """A transaction's commit or abort: its record's start, and its time in microseconds."""

    lsn: Lsn
    us: int


class WalProbe(Protocol):
    """Questions about one segment (by number) of a route. A record belongs to the segment it starts in."""

    def newest(self, route: Route, number: int) -> Ended | None:
        """The commit or abort with the latest time."""
        ...

    def after(self, route: Route, number: int, us: int, *, inclusive: bool) -> Ended | None:
        """The first commit or abort later than `us`; not `inclusive`: at or later than it."""
        ...

    def xid(self, route: Route, number: int, xid: int, start: Lsn) -> Ended | None:
        """Where a transaction ended, at or after `start`."""
        ...

    def restore_point(self, route: Route, number: int, name: str, start: Lsn) -> Lsn | None:
        """The first restore point of that name at or after `start`."""
        ...

    def record(self, route: Route, start: Lsn) -> Lsn | None:
        """The first whole record that starts at or after `start`, up to the route's end."""
        ...

    def last_record(self, route: Route) -> Lsn | None:
        """The start of the last whole record before the route's end."""
        ...


class SendTimes(Protocol):
    """The signed send times of objects: known without any private key."""

    def sent_us(self, route: Route, number: int) -> int:
        """When the server sent the last held byte of a segment: no commit before it is later. 0: unknown."""
        ...

    def begun_us(self, route: Route, number: int) -> int:
        """When the server sent the first byte of a segment: no commit before the segment is later. 0: unknown."""
        ...
