"""Opening one connection without blocking, under a deadline, to the first host that is what we want.

Why a server refused is `refusal`'s to find out. Name resolution is libpq's own and may take longer than the deadline.
"""

from __future__ import annotations

import time
from enum import Enum
from threading import Event

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PollingStatus
from psycopg.pq.abc import PGconn

from replicator.errors import Interrupted, ReplicatorError, SourceRefused, SourceUnavailable
from replicator.postgres import conversation, refusal
from replicator.postgres.conninfo import Target
from replicator.postgres.waiting import TICK, Wait, drive, wait_socket

_UNREACHED = "Start the server, or correct host and port in conninfo; a firewall may also stand between."


class Opening(Enum):
    """How far an attempt came: open; refused by a server that was reached; no server reached."""

    OPEN = 1
    REFUSED = 2
    UNREACHED = 3


def connect(targets: tuple[Target, ...], *, connect_timeout: float, stop: Event | None = None) -> tuple[PGconn, Target]:
    """The first of `targets` that answers and is a primary where one is wanted; `connect_timeout` seconds for each.

    Raises SourceRefused if one refused us, else SourceUnavailable; both name every server and why.
    """
    failures: list[ReplicatorError] = []
    for target in targets:
        try:
            return _connect(target, connect_timeout, stop), target
        except (SourceUnavailable, SourceRefused) as error:
            if len(targets) == 1:
                raise
            failures.append(error)
    told = next((error for error in failures if isinstance(error, SourceRefused)), failures[-1])
    raise type(told)("; ".join(error.message for error in failures), hint=told.hint, **told.context) from told


def _connect(target: Target, connect_timeout: float, stop: Event | None) -> PGconn:
    doing = f"connecting to {target.label}"
    seconds = float(target.parameters.get("connect_timeout") or 0) or connect_timeout
    pgconn = _begin(target, doing)
    try:
        opening = _poll(pgconn, seconds, doing, stop)
        if opening is Opening.REFUSED and refusal.worth_asking(target, pgconn):
            pgconn.finish()
            pgconn = _begin(target, doing)
            with refusal.Trace(pgconn) as trace:
                opening = _poll(pgconn, seconds, doing, stop)
                refusal.remember(target, None if opening is Opening.OPEN else trace.answer())
        if opening is Opening.REFUSED:
            raise refusal.error_for(target, pgconn, doing)
        if opening is Opening.UNREACHED:
            raise SourceUnavailable(f"{doing}: {refusal.words(pgconn)}", hint=_UNREACHED, sqlstate=None)
        pgconn.nonblocking = 1
        if target.wants_primary and not _is_primary(pgconn, seconds, doing, stop):
            raise SourceUnavailable(
                f"{doing}: the server is a standby, not the primary",
                hint="Name the primary in conninfo, or all hosts of the cluster separated by commas.",
                sqlstate=None,
            )
    except BaseException:
        pgconn.finish()
        raise
    return pgconn


def _begin(target: Target, doing: str) -> PGconn:
    try:
        # The parameters are rendered in libpq's own syntax; the string stays inside this process.
        return pq.PGconn.connect_start(make_conninfo("", **target.parameters).encode("utf-8", "surrogateescape"))
    except psycopg.Error:
        raise SourceUnavailable(f"{doing}: libpq does not accept the parameters", sqlstate=None) from None


def _is_primary(pgconn: PGconn, seconds: float, doing: str, stop: Event | None) -> bool:
    """Whether the server is out of recovery. Servers before 14 do not report it by themselves: they are asked."""
    reported = pgconn.parameter_status(b"in_hot_standby")
    if reported is not None:
        return reported == b"off"
    asking = conversation.command(pgconn, "SHOW transaction_read_only", doing=doing)
    results = drive(asking, pgconn.socket, seconds, doing=doing, stop=stop)
    return bool(results) and results[0].ntuples == 1 and results[0].get_value(0, 0) == b"off"


def _poll(pgconn: PGconn, seconds: float, doing: str, stop: Event | None) -> Opening:
    until = time.monotonic() + seconds
    interest = Wait.WRITE
    reached = False
    while pgconn.status != ConnStatus.BAD:
        while not wait_socket(pgconn.socket, interest, min(TICK, max(0.0, until - time.monotonic()))):
            if stop is not None and stop.is_set():
                raise Interrupted(f"{doing}: stopped")
            if time.monotonic() >= until:
                raise SourceUnavailable(f"{doing}: no answer within {seconds:g} s", hint=_UNREACHED, sqlstate=None)
        state = pgconn.connect_poll()
        if state == PollingStatus.OK:
            return Opening.OPEN
        if state == PollingStatus.FAILED:
            break
        reached = reached or pgconn.status != ConnStatus.STARTED
        interest = Wait.READ if state == PollingStatus.READING else Wait.WRITE
    return Opening.REFUSED if reached else Opening.UNREACHED
