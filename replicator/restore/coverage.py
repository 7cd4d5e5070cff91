"""What WAL each store covers, and its windows and gaps: `replicator wal coverage`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replicator.core.coverage import LsnRange
from replicator.core.windows import Gap
from replicator.errors import StoreUnavailable
from replicator.repository.repository import Repository
from replicator.restore.gather import StoreTimes, gather
from replicator.restore.outlook import WindowFacts, window_facts
from replicator.restore.probe import WalProbe


@dataclass(frozen=True, slots=True)
class StoreCoverage:
    """One store's answer, of the newest system id it knows."""

    ranges: tuple[LsnRange, ...]
    windows: tuple[WindowFacts, ...]
    gaps: tuple[Gap, ...]

    def as_json(self) -> dict[str, Any]:
        """One value of `wal coverage --json`."""
        return {
            "ranges": [
                {"timeline": held.timeline, "from_lsn": str(held.start), "to_lsn": str(held.end)}
                for held in self.ranges
            ],
            "windows": [window.as_json() for window in self.windows],
            "gaps": [
                {"timeline": gap.timeline, "start_lsn": str(gap.start), "stop_lsn": str(gap.stop), "open": gap.open}
                for gap in self.gaps
            ],
        }


@dataclass(frozen=True)
class CoverageReport:
    """By store, and the stores that did not answer."""

    stores: dict[str, StoreCoverage]
    silent: dict[str, StoreUnavailable]


def coverage(repository: Repository, probe: WalProbe | None = None) -> CoverageReport:
    """Every store's coverage. Raises StoreUnavailable when none answers, IntegrityError."""
    gathered = gather(repository, quick=True)
    times = StoreTimes(repository)
    found: dict[str, StoreCoverage] = {}
    for name in repository.stores:
        view = next((view for view in gathered.views if view.catalog.store == name), None)
        if name in gathered.silent:
            continue
        if view is None:
            found[name] = StoreCoverage((), (), ())
            continue
        windows = window_facts(view.windows, view.catalog, view.summaries, times, probe)
        found[name] = StoreCoverage(view.catalog.coverage.ranges(), windows, view.catalog.gaps)
    return CoverageReport(found, dict(gathered.silent))
