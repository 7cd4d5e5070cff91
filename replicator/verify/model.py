"""What a verification is given and what it gives back. Values only.

A level answers one part of "can it be restored?". It is a `Level`; all of them stand in `levels.LEVELS`, in the order
in which they run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from replicator.core.finding import Finding
from replicator.core.lsn import Lsn
from replicator.core.progress import Report
from replicator.errors import ReplicatorError
from replicator.policy import Policy
from replicator.postgres.binaries import Binaries
from replicator.postgres.query import SqlConnection
from replicator.repository.repository import Repository
from replicator.restore.access import StoreAccess
from replicator.tolerance import Clock, Deadline

#: A level that could not run at all, although others did.
NOT_RUN = "level_not_run"


@dataclass(frozen=True)
class VerifyJob:
    """What every level works on. Everything real is passed in.

    `repository` has all stores of the policy and is opened as far as this host can. `chosen` are the stores to look at:
    all, or the one of `--store`. `access` resolves how each store is reached without a policy (a restore needs that).
    `replica_sql` opens a session on a replica of the policy by its name. `stream_position` asks a running daemon how
    far the stream has come (timeline, LSN); None when nobody knows. `seed` fixes what is chosen at random.
    """

    repository: Repository
    chosen: tuple[str, ...]
    policy: Policy
    clock: Clock
    state_directory: Path
    access: Callable[[], Mapping[str, StoreAccess]]
    binaries: Callable[[int], Binaries]
    sql: Callable[[], SqlConnection]
    replica_sql: Callable[[str], SqlConnection]
    stream_position: Callable[[], tuple[int, Lsn] | None] | None = None
    repair: bool = False
    owner: str | None = None
    seed: int | None = None
    stop: Event = field(default_factory=Event)

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self.repository.cluster


@dataclass(frozen=True)
class LevelResult:
    """What one level found. `ok`: nothing but remarks (findings whose `affects` is None).

    `checked` counts what was looked at: objects, snapshots, tables. `proven`: since when each store is known to be
    well at this level, as far as this run shows; empty when it proves nothing (it failed, or ran out of time). `facts`
    are JSON-able and go into the record and the report, not into `verify --json`.
    """

    level: str
    ok: bool
    checked: int
    elapsed_s: float
    findings: tuple[Finding, ...] = ()
    proven: Mapping[str, datetime] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The level's value in `verify --json`."""
        return {
            "ok": self.ok,
            "checked": self.checked,
            "elapsed_s": round(self.elapsed_s, 3),
            "findings": [finding.as_json() for finding in self.findings],
        }


class Level(Protocol):
    """One level of `verify`."""

    @property
    def name(self) -> str:
        """Its name: the option's, the record's kind and the key in the JSON."""
        ...

    def run(self, job: VerifyJob, progress: Report, deadline: Deadline) -> LevelResult:
        """Do it. What it finds wrong is a finding, named with what depends on it.

        Raises a ReplicatorError only where the level can't run at all: its type is the exit code when it was asked for
        alone, else the verb names it as a finding. Raises Interrupted when `job.stop` is set. It ends by `deadline`:
        what was not looked at by then is a remark, and is not proven.
        """
        ...


def is_well(findings: tuple[Finding, ...]) -> bool:
    """Whether there is nothing but remarks."""
    return all(finding.affects is None for finding in findings)


def result_of(
    level: str,
    findings: tuple[Finding, ...],
    *,
    checked: int,
    elapsed_s: float,
    proven: Mapping[str, datetime] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> LevelResult:
    """A result whose `ok` follows from its findings."""
    return LevelResult(level, is_well(findings), checked, elapsed_s, findings, proven or {}, facts or {})


@dataclass(frozen=True)
class VerifyResult:
    """All levels that were asked for. `failures`: those that could not run; each has a result with one finding, too.

    `alone`: one level was asked for by name, so its failure has its own exit code. `record_ids`: the records kept.
    """

    levels: Mapping[str, LevelResult]
    failures: Mapping[str, ReplicatorError] = field(default_factory=dict)
    alone: bool = False
    record_ids: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every level is well."""
        return all(result.ok for result in self.levels.values())

    @property
    def exit_code(self) -> int:
        """0; 4 when anything is wrong or could not run; a level asked for alone that could not run: its own."""
        if self.alone and self.failures:
            return next(iter(self.failures.values())).exit_code
        return 0 if self.ok else 4

    def as_json(self) -> dict[str, Any]:
        """`verify --json`."""
        return {"ok": self.ok, "levels": {name: result.as_json() for name, result in self.levels.items()}}
