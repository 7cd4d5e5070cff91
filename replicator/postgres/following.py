"""Whether a server is a standby of the primary, close behind it and of the same WAL: then it may be backed up instead.

Reads only. A clone of the cluster has the same system identifier and perhaps the same timeline, so it takes a proof:
the last WAL that the standby replayed is read from both and compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from replicator.core.lsn import Lsn
from replicator.errors import SourceUnavailable
from replicator.postgres.connection import ReplicationConnection
from replicator.postgres.messages import XLogData
from replicator.postgres.query import SqlConnection
from replicator.postgres.standby import standby_facts
from replicator.postgres.walreceive import WalStream

#: Compared of the WAL, in bytes.
_SAMPLE = 8192
_TICK_S = 0.1
_WRONG_SERVER = "Correct host and port in its [[replica]], or make it anew with `replicator replica create`."


class NotFollowing(SourceUnavailable):
    """The server can't be backed up in the primary's stead."""

    retryable = False


class Lagging(NotFollowing):
    """It is too far behind; it may catch up."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Server:
    """The ways to one server; both may raise SourceUnavailable and its kinds."""

    connect: Callable[[], ReplicationConnection]
    sql: Callable[[], SqlConnection]


@dataclass(frozen=True, slots=True)
class Following:
    """A standby that follows: the timeline of both, and the end of the primary's WAL after the standby was asked."""

    timeline: int
    primary_end: Lsn


def confirm_following(name: str, standby: Server, primary: Server, max_lag: int) -> Following:
    """Ask both. `name` is the standby's for messages, `max_lag` in bytes of WAL. Raises NotFollowing, Lagging,
    SourceUnavailable and its kinds, Interrupted.
    """
    with standby.sql() as sql:
        facts = standby_facts(sql)
    if not facts.in_recovery:
        raise NotFollowing(
            f"replica {name} is no standby: it was promoted, or never was one",
            hint="Find out which server is the primary; a replica that was promoted by mistake has to be made anew.",
        )
    with primary.sql() as sql:
        end = sql.wal_end()
    with standby.connect() as theirs, primary.connect() as ours:
        timeline = _same_timeline(name, theirs, ours)
        if facts.replay_lsn is None or facts.replay_lsn > end:
            raise NotFollowing(
                f"replica {name} has replayed WAL up to {facts.replay_lsn}, the primary's ends at {end}",
                hint=_WRONG_SERVER,
            )
        if end - facts.replay_lsn > max_lag:
            how = "streams" if facts.streaming else "does not stream"
            raise Lagging(
                f"replica {name} is {end - facts.replay_lsn:,} bytes behind, more than {max_lag:,}; it {how}",
                hint="Look into its log, and whether its host and its line are fast enough; `max_lag` is the limit.",
            )
        if not same_wal(theirs, ours, timeline, facts.replay_lsn):
            raise NotFollowing(
                f"replica {name} holds other WAL before {facts.replay_lsn} than the primary, on the same timeline",
                hint=f"It follows a copy of the cluster. {_WRONG_SERVER}",
            )
    return Following(timeline, end)


def _same_timeline(name: str, theirs: ReplicationConnection, ours: ReplicationConnection) -> int:
    standby, primary = theirs.identify(), ours.identify()
    if standby.system_id != primary.system_id:
        raise NotFollowing(
            f"replica {name} is of system {standby.system_id}, the primary of {primary.system_id}", hint=_WRONG_SERVER
        )
    if standby.timeline != primary.timeline:
        raise NotFollowing(
            f"replica {name} is on timeline {standby.timeline}, the primary on {primary.timeline}",
            hint="Wait until it has followed the primary there, or look into its log.",
        )
    return primary.timeline


def same_wal(one: ReplicationConnection, other: ReplicationConnection, timeline: int, end: Lsn) -> bool:
    """Whether both hold the same bytes right before `end`, and at the start of the segment that these are in: what
    follows a switch of segments is zeros everywhere. No other segment is asked for: a server may have removed it.
    Raises SourceUnavailable and its kinds.
    """
    first = Lsn(max(0, end - 1)).floor(other.wal_segment_size)
    parts = ((first, min(Lsn(first + _SAMPLE), end)), (max(first, Lsn(max(0, end - _SAMPLE))), end))
    return all(_read(one, timeline, *part) == _read(other, timeline, *part) for part in parts)


def _read(connection: ReplicationConnection, timeline: int, start: Lsn, end: Lsn) -> bytes:
    stream = WalStream(connection, slot=None, timeline=timeline, start=start)
    doing = f"reading WAL from {start} to {end}"
    until = time.monotonic() + connection.request_timeout
    data = bytearray()
    while len(data) < end - start:
        connection.check_stop(doing)
        batch = stream.read(_TICK_S)
        if not isinstance(batch, list) or time.monotonic() > until:
            raise SourceUnavailable(f"{doing}: {connection.host} did not send it")
        for message in batch:
            if isinstance(message, XLogData):
                data += message.data
    stream.finish()
    return bytes(data[: end - start])
