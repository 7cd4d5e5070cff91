"""Recoverable windows with their times. Pure but for the probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.core.moment import rfc3339_of
from replicator.core.windows import Window, history_of
from replicator.errors import WalConflict
from replicator.repository.catalog import StoreCatalog
from replicator.repository.manifests import ManifestSummary
from replicator.restore.probe import SendTimes, WalProbe
from replicator.restore.route import Route
from replicator.restore.search import newest_first

#: Segments read backwards for a window's last commit; beyond that its send time is told.
_LOOK_BACK = 16


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """A window and its times in microseconds; `exact`: `to_us` is the last commit found, else an upper bound."""

    window: Window
    from_us: int
    to_us: int
    exact: bool

    def as_json(self) -> dict[str, Any]:
        """A window as every `--json` has it."""
        return {
            "timeline": self.window.timeline,
            "from_lsn": str(self.window.start),
            "to_lsn": str(self.window.end),
            "from_time": rfc3339_of(self.from_us),
            "to_time": rfc3339_of(self.to_us),
            "snapshot": self.window.snapshot.label,
        }

    @property
    def times(self) -> str:
        """Its times for people."""
        until = f"{'' if self.exact else 'at most '}{rfc3339_of(self.to_us) or 'an unknown time'}"
        return f"({rfc3339_of(self.from_us)} to {until})"

    def __str__(self) -> str:
        window = self.window
        return f"timeline {window.timeline} from {window.start} to {window.end} {self.times}"


def window_facts(
    found: Iterable[Window],
    catalog: StoreCatalog,
    summaries: Mapping[str, ManifestSummary],
    times: SendTimes,
    probe: WalProbe | None,
) -> tuple[WindowFacts, ...]:
    """Each window with its times: from the snapshot's stop to the last commit that the WAL holds."""
    facts: list[WindowFacts] = []
    for window in found:
        begin = summaries[window.snapshot.label].stop_us
        history = history_of(window.timeline, catalog.histories)
        route = Route(catalog, history, (window.snapshot,), window.end, window.timeline)
        end, exact = (begin, True) if window.start == window.end else _end(route, begin, times, probe)
        facts.append(WindowFacts(window, begin, end, exact))
    return tuple(facts)


def _end(route: Route, begin: int, times: SendTimes, probe: WalProbe | None) -> tuple[int, bool]:
    try:
        if probe is not None:
            for number in newest_first(route, _LOOK_BACK):
                newest = probe.newest(route, number)
                if newest is not None:
                    return max(begin, newest.us), True
        return max(begin, times.sent_us(route, route.numbers(route.snapshots[0].start, route.end)[-1])), False
    except WalConflict:
        return 0, False
