"""What a restore is asked to do, and what it tells afterwards.

Owns the values that cross into and out of a restore, and their form in JSON. Never acts on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from replicator.core.moment import rfc3339_of
from replicator.core.progress import Report, silent
from replicator.postgres.binaries import Binaries
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.restore.plan import PlanRequest, RecoveryPlan
from replicator.restore.prefetch import DEFAULT_WINDOW
from replicator.restore.start import Started

#: How the guard starts us.
PYTHON = (sys.executable, "-m", "replicator")


@dataclass(frozen=True)
class RestoreJob:
    """What to restore, from where, into what. `access` reaches each store of `repository` without a policy; `options`
    are settings for `start` that win over the tree's; `plan` is one that was made already; `delta`: the directory may
    hold an earlier state of the same cluster, or an aborted restore; `guarded`: whoever asks keeps the server from
    making tablespaces, so that a source on this host is safe.
    """

    repository: Repository
    access: Mapping[str, StoreAccess]
    request: PlanRequest
    into: Path
    binaries: Callable[[int], Binaries]
    tablespaces: Mapping[int, Path] = field(default_factory=dict)
    workers: int = 4
    start: bool = False
    port: int | None = None
    owner: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    plan: RecoveryPlan | None = None
    delta: bool = False
    guarded: bool = False
    window: int = DEFAULT_WINDOW
    command: tuple[str, ...] = PYTHON
    report: Report = silent
    stop: Event = field(default_factory=Event)
    step: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class RestoreResult:
    """A restore that ran. Without `started` the four after it are None."""

    plan: RecoveryPlan
    data_directory: Path
    started: Started | None
    elapsed_s: float
    notes: tuple[str, ...] = ()

    @property
    def reached_time(self) -> str | None:
        """The last transaction's time. PostgreSQL does not count a commit that is itself the last record before an LSN
        target; at a window's end the plan knows the last commit.
        """
        if self.started is None:
            return None
        for facts in self.plan.windows:
            here = (facts.window.timeline, facts.window.end) == (self.plan.timelines[-1], self.started.reached_lsn)
            if here and facts.exact and facts.to_us > facts.from_us:
                return rfc3339_of(facts.to_us)
        return self.started.reached_time

    def as_json(self) -> dict[str, Any]:
        """The value of `restore --json`."""
        ran = self.started
        return {
            **self.plan.as_json(),
            "data_directory": str(self.data_directory),
            "started": ran is not None,
            "port": ran.port if ran else None,
            "pid": ran.pid if ran else None,
            "reached_lsn": str(ran.reached_lsn) if ran and ran.reached_lsn is not None else None,
            "reached_time": self.reached_time,
            "elapsed_s": round(self.elapsed_s, 3),
        }
