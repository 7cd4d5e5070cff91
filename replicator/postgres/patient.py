"""psycopg's session with an end to its waiting: a server that falls silent, or a network that swallows the answer.

The server's own statement_timeout ends what takes too long there; this ends what nobody answers any more. Knows
nothing of SQL.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from threading import Event
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.waiting import Ready, Wait

from replicator.errors import Interrupted, SourceUnavailable
from replicator.postgres.waiting import TICK


class PatientConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose every wait ends after `patience` seconds, or when `stop` is set; it is closed then, as nobody
    knows what its server still does.
    """

    patience = 30.0
    stop: Event | None = None

    def wait(self, gen: PQGen[RV], interval: float = TICK, timeout: float | None = None) -> RV:
        """As psycopg's, for so long. Raises SourceUnavailable, Interrupted."""
        return super().wait(self._bounded(gen), min(interval, TICK), timeout)

    def _bounded(self, gen: PQGen[RV]) -> Generator[Wait, Ready | int, RV]:
        until = time.monotonic() + self.patience
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready:
                    self._check(until)
                wanted = gen.send(ready)
        except StopIteration as end:
            value: RV = end.value
            return value

    def _check(self, until: float) -> None:
        if self.stop is not None and self.stop.is_set():
            self.pgconn.finish()
            raise Interrupted("asking the server: stopped")
        if time.monotonic() >= until:
            self.pgconn.finish()
            raise SourceUnavailable(
                f"the server did not answer within {self.patience:g} s",
                hint="Look at the network and at the server's load.",
                sqlstate=None,
            )
